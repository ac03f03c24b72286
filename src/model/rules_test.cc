#include "model/rules.h"

#include <gtest/gtest.h>

namespace bloomery {
namespace {

Result<json::object> Evaluate(const char* rules, const char* config) {
  return EvaluateRules(ParseJson(rules, "rules").value().as_object(),
                       ParseJson(config, "config").value().as_object());
}

TEST(Rules, TakeTheFirstKeyThatIsThereElseTheDefault) {
  const auto fields = Evaluate(
      R"({"a": {"from": ["x", "y"]}, "b": {"from": ["z"], "default": {"field": "a", "times": 4}}, "c": "relu"})",
      R"({"x": null, "y": 8})");
  ASSERT_TRUE(fields);
  EXPECT_EQ(fields->at("a"), 8);
  EXPECT_EQ(fields->at("b"), 32);
  EXPECT_EQ(fields->at("c"), "relu");
}

TEST(Rules, NegateAndAllOf) {
  const char* rules =
      R"({"f": {"all_of": [{"from": ["before"], "default": true}, {"from": ["removed"], "default": false, "negate": true}]}})";
  EXPECT_EQ(Evaluate(rules, "{}")->at("f"), true);
  EXPECT_EQ(Evaluate(rules, R"({"removed": true})")->at("f"), false);
  EXPECT_EQ(Evaluate(rules, R"({"before": false})")->at("f"), false);
}

TEST(Rules, LeastOfLeavesOutWhatIsNull) {
  const char* rules =
      R"({"n": {"least_of": [{"from": ["most"], "default": 100}, {"from": ["window"], "default": null}]}})";
  EXPECT_EQ(Evaluate(rules, "{}")->at("n"), 100);
  EXPECT_EQ(Evaluate(rules, R"({"window": null, "most": 7})")->at("n"), 7);
  EXPECT_EQ(Evaluate(rules, R"({"window": 5, "most": 7})")->at("n"), 5);
  EXPECT_FALSE(Evaluate(rules, R"({"window": "5"})"));
}

TEST(Rules, ErrorsNameTheFieldAndTheKeys) {
  const auto missing = Evaluate(R"({"hidden_size": {"from": ["hidden_size", "n_embed"]}})", "{}");
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().message, R"(hidden_size: config.json has no "hidden_size" or "n_embed")");
  EXPECT_FALSE(Evaluate(R"({"a": {"field": "later"}})", "{}"));
  EXPECT_FALSE(Evaluate(R"({"a": {}})", "{}"));
  EXPECT_FALSE(Evaluate(R"({"a": {"from": ["n"]}, "b": {"field": "a", "times": 9223372036854775807}})",
                        R"({"n": 9})"));
}

}  // namespace
}  // namespace bloomery
