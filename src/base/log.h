// Logging: spdlog to standard error, one line an event, as text or as JSON. Standard output belongs to a
// command's result. Never log prompt text or credentials; what an operator asked to see with --log-prompts is
// the one exception. Lines with fields: log_event.h.
#pragma once

#include <spdlog/spdlog.h>

#include <string_view>

#include "base/result.h"

namespace bloomery {

enum class LogFormat : std::uint8_t {
  kText,
  kJson,  // an object a line: docs/reference/logs.md
};

// Sets the process-wide level ("trace", "debug", "info", "warn", "error", "off"), the format, and a process
// name shown in every line of text. kInvalidArgument: no such level. Not while other threads log.
Status InitLogging(std::string_view level, std::string_view process_name,
                   LogFormat format = LogFormat::kText);

LogFormat CurrentLogFormat();

}  // namespace bloomery
