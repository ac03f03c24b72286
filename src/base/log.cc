#include "base/log.h"

#include <fmt/chrono.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <unistd.h>

#include <memory>

#include "base/log_event.h"
#include "base/utf8.h"

namespace bloomery {
namespace {

LogFormat format = LogFormat::kText;

// What LogEvent and PassLogLine hand to the formatter, which runs within their call, on their thread: spdlog
// carries nothing but a text.
struct Handed {
  std::string_view event;
  const json::object* fields = nullptr;  // nullptr: the text is a line that is ready
};
thread_local const Handed* handed = nullptr;

std::string_view View(spdlog::string_view_t text) { return {text.data(), text.size()}; }

class JsonFormatter final : public spdlog::formatter {
 public:
  void format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& line) override {
    const std::string_view text = View(message.payload);
    if (handed == nullptr) {
      Append(JsonLogLine(message.time, message.level, {}, {{"message", text}}), line);
    } else if (handed->fields == nullptr) {
      Append(text, line);
    } else {
      Append(JsonLogLine(message.time, message.level, handed->event, *handed->fields), line);
    }
  }
  std::unique_ptr<spdlog::formatter> clone() const override { return std::make_unique<JsonFormatter>(); }

 private:
  static void Append(std::string_view text, spdlog::memory_buf_t& line) {
    line.append(text.data(), text.data() + text.size());
    line.push_back('\n');
  }
};

// Boost.JSON escapes what must be and passes other bytes through, whether they are UTF-8 or not.
json::value Clean(const json::value& value) {
  if (value.is_string()) return json::string(ReplaceInvalidUtf8(value.get_string()));
  return value;
}

bool IsOurLine(std::string_view line) {
  if (!line.starts_with(R"({"time":")")) return false;
  const auto parsed = ParseJson(line, "a line of the log");
  return parsed && parsed->is_object() && parsed->get_object().contains("level");
}

void Hand(spdlog::level::level_enum level, const Handed& what, std::string_view text) {
  handed = &what;
  spdlog::log(level, spdlog::string_view_t(text.data(), text.size()));
  handed = nullptr;
}

}  // namespace

Status InitLogging(std::string_view level, std::string_view process_name, LogFormat wanted) {
  const auto parsed = spdlog::level::from_str(std::string(level));
  if (parsed == spdlog::level::off && level != "off") {
    return Fail(ErrorCode::kInvalidArgument,
                "log level \"{}\": expected trace, debug, info, warn, error or off", level);
  }
  format = wanted;
  auto logger = std::make_shared<spdlog::logger>(std::string(process_name),
                                                 std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
  if (format == LogFormat::kJson) {
    logger->set_formatter(std::make_unique<JsonFormatter>());
  } else {
    logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e %^%l%$ [%n] %v");
  }
  logger->set_level(parsed);
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
  return {};
}

LogFormat CurrentLogFormat() { return format; }

void LogEvent(spdlog::level::level_enum level, std::string_view event, const json::object& fields,
              std::string_view text) {
  Hand(level, {event, &fields}, text);
}

void PassLogLine(std::string_view line, int pid) {
  if (IsOurLine(line)) {
    Hand(spdlog::level::critical, {}, line);  // its writer knew the level that is wanted
  } else {
    LogEvent(spdlog::level::info, "output", {{"worker", pid}, {"message", line}}, line);
  }
}

std::string JsonLogLine(std::chrono::system_clock::time_point time, spdlog::level::level_enum level,
                        std::string_view event, const json::object& fields) {
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(time.time_since_epoch());
  const std::string_view name = View(spdlog::level::to_string_view(level));
  json::object line;
  line["time"] = fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:03}Z",
                             fmt::gmtime(std::chrono::system_clock::to_time_t(time)), ms.count() % 1000);
  line["level"] = name;
  line["pid"] = ::getpid();
  if (!event.empty()) line["event"] = event;
  for (const auto& [key, value] : fields) line[key] = Clean(value);
  return json::serialize(line);
}

}  // namespace bloomery
