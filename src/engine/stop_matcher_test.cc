#include "engine/stop_matcher.h"

#include <gtest/gtest.h>

namespace bloomery {
namespace {

TEST(StopMatcher, HoldsBackOnlyWhatMayBecomeAStop) {
  StopMatcher matcher({"END", "\n\n"});
  EXPECT_EQ(matcher.Push("hello E").text, "hello ");
  EXPECT_EQ(matcher.Push("N").text, "");
  EXPECT_EQ(matcher.Push("o").text, "ENo");
  EXPECT_EQ(matcher.Push("line\n").text, "line");
  EXPECT_EQ(matcher.Flush(), "\n");
}

TEST(StopMatcher, EndsAtTheFirstOfSeveralAndDropsTheRest) {
  StopMatcher matcher({"bb", "a"});
  const StopMatcher::Output output = matcher.Push("xxbbyya");
  EXPECT_TRUE(output.stopped);
  EXPECT_EQ(output.text, "xx");
  EXPECT_EQ(matcher.Flush(), "");
}

TEST(StopMatcher, FindsAStopCutAnywhere) {
  const std::string text = "some text STOP more";
  for (std::size_t cut = 0; cut <= text.size(); ++cut) {
    StopMatcher matcher({"STOP"});
    StopMatcher::Output first = matcher.Push(text.substr(0, cut));
    std::string sent = first.text;
    if (!first.stopped) sent += matcher.Push(text.substr(cut)).text;
    EXPECT_EQ(sent, "some text ") << cut;
  }
}

TEST(StopMatcher, EmptyStopsAreIgnored) {
  StopMatcher matcher({""});
  EXPECT_EQ(matcher.Push("abc").text, "abc");
}

}  // namespace
}  // namespace bloomery
