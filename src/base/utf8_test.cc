#include "base/utf8.h"

#include <gtest/gtest.h>

namespace bloomery {
namespace {

TEST(Utf8, DecodesAndEncodesEveryLength) {
  for (const char32_t code_point : {U'a', U'é', U'क', U'中', U'😀', U'\U0010FFFF'}) {
    std::string text;
    AppendUtf8(code_point, text);
    const DecodedCodePoint decoded = DecodeUtf8(text);
    EXPECT_TRUE(decoded.valid);
    EXPECT_EQ(decoded.code_point, code_point);
    EXPECT_EQ(decoded.length_bytes, text.size());
  }
}

TEST(Utf8, RefusesOverlongSurrogatesAndTooLarge) {
  for (const char* text : {"\xC0\x80", "\xE0\x80\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xFF", "\x80"}) {
    EXPECT_FALSE(IsValidUtf8(text)) << text;
  }
}

// Counts of U+FFFD as in the Unicode standard, table 3-8 ("maximal subpart"): what Python and Rust do too.
TEST(Utf8, ReplacesEachMaximalSubpartOnce) {
  EXPECT_EQ(ReplaceInvalidUtf8("a\xF1\x80\x80\xE1\x80\xC2"
                               "b\x80"
                               "c"),
            "a\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"
            "b\xEF\xBF\xBD"
            "c");
  EXPECT_EQ(ReplaceInvalidUtf8("\xE0\x80\xAF"), "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
}

TEST(Utf8, CompletePrefixHoldsBackOnlyWhatCanStillComplete) {
  const std::string text = "a😀";
  EXPECT_EQ(CompleteUtf8Prefix(text), 5U);
  for (std::size_t length = 2; length < 5; ++length)
    EXPECT_EQ(CompleteUtf8Prefix(text.substr(0, length)), 1U);
  EXPECT_EQ(CompleteUtf8Prefix("a\xFF"), 2U);
  EXPECT_EQ(CompleteUtf8Prefix("a\xED\xA0"), 3U) << "a surrogate can never become valid";
  EXPECT_EQ(CompleteUtf8Prefix(""), 0U);
}

}  // namespace
}  // namespace bloomery
