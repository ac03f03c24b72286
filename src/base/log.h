// Logging: spdlog to standard error, one line an event. Standard output belongs to a command's result.
// Never log prompt text or credentials.
#pragma once

#include <spdlog/spdlog.h>

#include <string_view>

#include "base/result.h"

namespace bloomery {

// Sets the process-wide level ("trace", "debug", "info", "warn", "error", "off") and a process name shown in
// every line.
Status InitLogging(std::string_view level, std::string_view process_name);

}  // namespace bloomery
