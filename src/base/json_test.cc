#include "base/json.h"

#include <gtest/gtest.h>

namespace bloomery {
namespace {

TEST(ParseJson, NamesTheDocumentAndTheByte) {
  const auto failed = ParseJson("{\"a\": }", "config.json");
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, ErrorCode::kInvalidArgument);
  EXPECT_NE(failed.error().message.find("config.json: not valid JSON near byte 6"), std::string::npos)
      << failed.error().message;
}

TEST(ParseJson, RefusesDepthTrailingTextAndBadUtf8) {
  EXPECT_FALSE(ParseJson(std::string(100'000, '['), "body"));
  EXPECT_FALSE(ParseJson("{} x", "body"));
  EXPECT_FALSE(ParseJson("\"\xFF\"", "body"));
  EXPECT_FALSE(ParseJson("", "body"));
  EXPECT_TRUE(ParseJson(" {} \n", "body"));
}

TEST(Getters, TypesAbsenceAndRange) {
  const json::value parsed =
      ParseJson(R"({"i":5,"d":5.0,"h":5.5,"b":true,"s":"x","n":null,"u":18446744073709551615,"x":1e300})",
                "t")
          .value();
  const json::object& object = parsed.as_object();
  EXPECT_EQ(GetInt(object, "i").value(), 5);
  EXPECT_EQ(GetInt(object, "d").value(), 5);
  EXPECT_FALSE(GetInt(object, "h"));
  EXPECT_FALSE(GetInt(object, "u"));
  EXPECT_FALSE(GetInt(object, "x"));
  EXPECT_EQ(GetInt(object, "n").value(), std::nullopt);
  EXPECT_EQ(GetDouble(object, "i").value(), 5.0);
  EXPECT_EQ(GetBool(object, "b").value(), true);
  EXPECT_EQ(GetString(object, "s").value(), "x");
  const auto wrong = GetBool(object, "s");
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.error().message, "\"s\" must be true or false, got string");
}

}  // namespace
}  // namespace bloomery
