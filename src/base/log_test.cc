#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <sstream>
#include <string>
#include <vector>

#include "base/log_event.h"

namespace bloomery {
namespace {

using std::chrono::milliseconds;
using ::testing::MatchesRegex;
using ::testing::SizeIs;

const std::chrono::system_clock::time_point kTime{milliseconds(1'700'000'000'007)};

json::object Parsed(const std::string& line) {
  const Result<json::value> value = ParseJson(line, "a line");
  EXPECT_TRUE(value && value->is_object()) << line;
  return value && value->is_object() ? value->get_object() : json::object();
}

// What `log` writes on standard error, line by line.
template <typename Log>
std::vector<std::string> Written(LogFormat format, std::string_view level, Log log) {
  ::testing::internal::CaptureStderr();
  EXPECT_TRUE(InitLogging(level, "test", format));
  log();
  EXPECT_TRUE(InitLogging("info", "test"));
  std::istringstream text(::testing::internal::GetCapturedStderr());
  std::vector<std::string> lines;
  for (std::string line; std::getline(text, line);) lines.push_back(line);
  return lines;
}

TEST(JsonLogLine, HasTimeLevelProcessAndTheEventsFieldsInThatOrder) {
  EXPECT_EQ(JsonLogLine(kTime, spdlog::level::warn, "request", {{"request_id", "a-1"}, {"status", 200}}),
            R"({"time":"2023-11-14T22:13:20.007Z","level":"warning","pid":)" + std::to_string(::getpid()) +
                R"(,"event":"request","request_id":"a-1","status":200})");
}

TEST(JsonLogLine, WithoutAnEventHasNone) {
  EXPECT_FALSE(Parsed(JsonLogLine(kTime, spdlog::level::info, {}, {{"message", "x"}})).contains("event"));
}

TEST(JsonLogLine, EscapesAndReplacesWhatIsNotUtf8) {
  const std::string line =
      JsonLogLine(kTime, spdlog::level::info, {}, {{"message", "a\n\"b\" \x01 caf\xC3\xA9 \xFF\xC3"}});
  EXPECT_EQ(line.find('\n'), std::string::npos);
  EXPECT_EQ(Parsed(line).at("message"), "a\n\"b\" \x01 caf\xC3\xA9 \xEF\xBF\xBD\xEF\xBF\xBD");
}

TEST(Log, UnderJsonEveryLineIsAnObject) {
  const auto lines = Written(LogFormat::kJson, "info", [] {
    spdlog::info("two\nlines of {}", "text");
    spdlog::debug("too fine");
    LogEvent(spdlog::level::err, "request", {{"status", 500}}, "not this");
    spdlog::warn("the next");
  });
  ASSERT_THAT(lines, SizeIs(3));
  EXPECT_EQ(Parsed(lines[0]).at("message"), "two\nlines of text");
  EXPECT_EQ(Parsed(lines[1]).at("level"), "error");
  EXPECT_EQ(Parsed(lines[1]).at("status"), 500);
  EXPECT_EQ(Parsed(lines[2]).at("message"), "the next");
  EXPECT_FALSE(Parsed(lines[2]).contains("status"));
}

TEST(Log, UnderTextAnEventIsItsText) {
  const auto lines = Written(LogFormat::kText, "info", [] {
    LogEvent(spdlog::level::info, "request", {{"status", 500}}, "GET {} 500");
    LogEvent(spdlog::level::debug, "request", {}, "too fine");
  });
  ASSERT_THAT(lines, SizeIs(1));
  EXPECT_THAT(lines[0], MatchesRegex(R"([0-9T:.-]+ .*info.* \[test\] GET \{\} 500)"));
}

TEST(Log, LinesOfAChildGoOnAsTheyAreAndOtherWordsAreWrapped) {
  const std::string ours = JsonLogLine(kTime, spdlog::level::info, {}, {{"message", "of the child"}});
  const auto lines = Written(LogFormat::kJson, "warn", [&] {
    PassLogLine(ours, 7);  // the child has the same level, and knows it
  });
  ASSERT_THAT(lines, SizeIs(1));
  EXPECT_EQ(lines[0], ours);

  const auto wrapped = Written(LogFormat::kJson, "info", [&] {
    PassLogLine("mpirun noticed", 7);
    PassLogLine(ours.substr(0, ours.size() / 2), 7);
    PassLogLine(R"({"time":"now"})", 7);
  });
  ASSERT_THAT(wrapped, SizeIs(3));
  for (const std::string& line : wrapped) EXPECT_EQ(Parsed(line).at("worker"), 7);
  EXPECT_EQ(Parsed(wrapped[0]).at("message"), "mpirun noticed");
  EXPECT_EQ(Parsed(wrapped[1]).at("message"), json::value(ours.substr(0, ours.size() / 2)));
  EXPECT_EQ(Parsed(wrapped[2]).at("message"), R"({"time":"now"})");
}

TEST(Log, NoSuchLevel) {
  const Status failed = InitLogging("loud", "test");
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace bloomery
