#include "server/properties.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>

#include "base/json.h"
#include "base/mapped_file.h"

namespace bloomery {
namespace {

using testing::HasSubstr;
using testing::Not;

std::map<std::string, std::string> LastOfEach(const std::vector<Property>& properties) {
  std::map<std::string, std::string> values;
  for (const Property& property : properties) values[property.key] = property.value;
  return values;
}

// Expected values: scripts/goldens/properties_goldens.py, from java.util.Properties.
TEST(Properties, ReadsWhatJavaReads) {
  const auto path = std::filesystem::path(BLOOMERY_SOURCE_DIR) / "testdata/properties.json";
  const json::value cases = ParseJson(ReadFileToString(path).value(), "properties.json").value();
  ASSERT_GT(cases.as_array().size(), 600U);
  int refused = 0;
  for (const json::value& one : cases.as_array()) {
    const std::string text(one.at("text").as_string());
    const auto read = ParseProperties(text, "x");
    if (one.at("properties").is_null()) {
      EXPECT_FALSE(read) << json::serialize(one);
      ++refused;
      continue;
    }
    ASSERT_TRUE(read) << json::serialize(one) << read.error().message;
    std::map<std::string, std::string> expected;
    for (const auto& [key, value] : one.at("properties").as_object())
      expected[key] = std::string(value.as_string());
    EXPECT_EQ(LastOfEach(*read), expected) << json::serialize(one);
  }
  EXPECT_GT(refused, 10);
}

TEST(Properties, KeepsTheLineOnWhichEachBegins) {
  const auto read = ParseProperties("# one\r\n\r\na=1\nb=2 \\\n  3\rc=4\na=5", "x").value();
  ASSERT_EQ(read.size(), 4U);
  EXPECT_EQ(read[0].line, 3);
  EXPECT_EQ(read[1].line, 4);
  EXPECT_EQ(read[1].value, "2 3");
  EXPECT_EQ(read[2].line, 6);
  EXPECT_EQ(read[3].key, "a");
  EXPECT_EQ(read[3].line, 7);
}

void ExpectRefused(std::string_view text, ErrorCode code, std::string_view part) {
  const auto read = ParseProperties(text, "serving.properties");
  ASSERT_FALSE(read) << text;
  EXPECT_EQ(read.error().code, code);
  EXPECT_THAT(read.error().message, HasSubstr(part));
  EXPECT_THAT(read.error().message, Not(HasSubstr("secret")));
}

TEST(Properties, HostileTextsAreRefusedAndNotQuoted) {
  ExpectRefused("a=1\nsecret=secret\\u12\n", ErrorCode::kInvalidArgument, "serving.properties:2: \\u");
  ExpectRefused("a=secret\\uD83Dx", ErrorCode::kInvalidArgument, "serving.properties:1: \\u");
  ExpectRefused("a=secret\\uDE00", ErrorCode::kInvalidArgument, "serving.properties:1: \\u");
  ExpectRefused("a=secret\\u0000", ErrorCode::kInvalidArgument, "NUL");
  ExpectRefused(std::string_view("a=secret\0", 9), ErrorCode::kInvalidArgument, "NUL");
  ExpectRefused("a=secret\xC3", ErrorCode::kInvalidArgument, "not UTF-8");
  ExpectRefused(std::string(kMaxPropertiesBytes + 1, '#'), ErrorCode::kTooLarge, "262145 bytes");
  std::string many;
  for (std::size_t i = 0; i <= kMaxProperties; ++i) many += "k\n";
  ExpectRefused(many, ErrorCode::kTooLarge, "more than 2048 keys");
}

TEST(Properties, LimitsThemselvesAreAllowed) {
  std::string many;
  for (std::size_t i = 0; i < kMaxProperties; ++i) many += "k\n";
  EXPECT_EQ(ParseProperties(many, "x").value().size(), kMaxProperties);
  EXPECT_TRUE(ParseProperties(std::string(kMaxPropertiesBytes, '\\'), "x"));
  EXPECT_TRUE(ParseProperties("", "x").value().empty());
}

}  // namespace
}  // namespace bloomery
