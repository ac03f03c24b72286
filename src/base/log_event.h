// Log lines with fields, for what programs read: a request, a line that a child process printed. Under
// LogFormat::kText such a line is a text like any other.
#pragma once

#include <chrono>
#include <string>
#include <string_view>

#include "base/json.h"
#include "base/log.h"

namespace bloomery {

// `text`: the line under LogFormat::kText. Keys of `fields` are the event's own: none of "time", "level",
// "pid" and "event". May be called from any thread.
void LogEvent(spdlog::level::level_enum level, std::string_view event, const json::object& fields,
              std::string_view text);

// A line that a process of ours has written under LogFormat::kJson goes on as it is; whatever else is in
// `line` (a library's or a launcher's words) becomes the event "output" of process `pid`. For kJson only.
void PassLogLine(std::string_view line, int pid);

// One line under LogFormat::kJson, without its end: "time" (RFC 3339, UTC, milliseconds), "level", "pid",
// then "event" where there is one, then `fields`. Invalid UTF-8 in any text becomes U+FFFD.
std::string JsonLogLine(std::chrono::system_clock::time_point time, spdlog::level::level_enum level,
                        std::string_view event, const json::object& fields);

}  // namespace bloomery
