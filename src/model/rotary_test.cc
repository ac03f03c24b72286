#include "model/rotary.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>

namespace bloomery {
namespace {

using testing::HasSubstr;

Result<Rotary> Read(const char* fields, const char* config = "{}") {
  return ReadRotary(ParseJson(fields, "fields")->as_object(), ParseJson(config, "config")->as_object(),
                    /*head_dim=*/8);
}

std::string ErrorOf(const Result<Rotary>& rotary) { return rotary ? "" : rotary.error().message; }

TEST(ReadRotary, SharesBasesAndWhatCannotBeTurned) {
  EXPECT_EQ(Read("{}")->dims, 8);
  EXPECT_EQ(Read("{}")->base, 10000);
  EXPECT_EQ(Read(R"({"rotary_share": 0.25, "rotary_base": 500000})")->dims, 2);
  EXPECT_EQ(Read(R"({"rotary_share": 0.25, "rotary_base": 500000})")->base, 500000);
  EXPECT_THAT(ErrorOf(Read(R"({"rotary_share": 0.4})")), HasSubstr("3 of a head's 8"));
  EXPECT_THAT(ErrorOf(Read(R"({"rotary_share": 0.1})")), HasSubstr("0 of a head's 8"));
  EXPECT_FALSE(Read(R"({"rotary_share": 1.5})"));
  EXPECT_FALSE(Read(R"({"rotary_base": -1})"));
}

TEST(ReadRotary, ScalingIsKnownOrRefusedAndNeverIgnored) {
  EXPECT_EQ(Read(R"({"rope_scaling": null})", R"({"rope_scaling": null})")->scaling, RopeScaling::kNone);
  EXPECT_EQ(Read(R"({"rope_scaling": {"type": "linear", "factor": 4}})")->scaling, RopeScaling::kLinear);
  EXPECT_EQ(Read("{}", R"({"rope_scaling": {"rope_type": "linear", "factor": 4}})")->factor, 4)
      << "also where the description does not mention it";
  for (const char* kind : {"dynamic", "yarn", "longrope", "su"}) {
    const std::string config =
        std::string(R"({"rope_scaling": {"factor": 2, "rope_type": ")") + kind + "\"}}";
    EXPECT_EQ(Read("{}", config.c_str()).error().code, ErrorCode::kUnsupported) << kind;
    EXPECT_THAT(ErrorOf(Read("{}", config.c_str())), HasSubstr(kind));
  }
  EXPECT_FALSE(Read("{}", R"({"rope_scaling": {}})"));
  EXPECT_FALSE(Read("{}", R"({"rope_scaling": {"type": "linear"}})"));
  EXPECT_FALSE(Read("{}", R"({"rope_scaling": {"type": "linear", "factor": 0}})"));
  EXPECT_FALSE(Read("{}", R"({"rope_scaling": 2})"));
  EXPECT_THAT(
      ErrorOf(Read("{}", R"({"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4,
      "high_freq_factor": 4, "original_max_position_embeddings": 8192}})")),
      HasSubstr("must be above low_freq_factor"));
}

TEST(ReadRotary, NewerConfigurationsKeepEverythingInOneObject) {
  const auto rotary = Read(
      R"({"rotary_base": 10000})",
      R"({"rope_parameters": {"rope_type": "default", "rope_theta": 77.0, "partial_rotary_factor": 0.5}})");
  ASSERT_TRUE(rotary) << ErrorOf(rotary);
  EXPECT_EQ(rotary->base, 77);
  EXPECT_EQ(rotary->dims, 4);
}

TEST(RotaryFrequencies, FallFromOneByPowersOfTheBase) {
  const std::vector<float> plain = RotaryFrequencies({.dims = 8, .base = 10000});
  ASSERT_EQ(plain.size(), 4U);
  for (std::size_t i = 0; i < plain.size(); ++i)
    EXPECT_NEAR(plain[i], std::pow(10.0, -static_cast<double>(i)), 1e-7);
  const std::vector<float> linear =
      RotaryFrequencies({.dims = 8, .base = 10000, .scaling = RopeScaling::kLinear, .factor = 4});
  for (std::size_t i = 0; i < plain.size(); ++i) EXPECT_FLOAT_EQ(linear[i], plain[i] / 4);
}

TEST(RotaryFrequencies, Llama3KeepsFastOnesAndSlowsSlowOnes) {
  const Rotary rotary{.dims = 128,
                      .base = 500000,
                      .scaling = RopeScaling::kLlama3,
                      .factor = 8,
                      .low_factor = 1,
                      .high_factor = 4,
                      .original_positions = 8192};
  const std::vector<float> scaled = RotaryFrequencies(rotary);
  const std::vector<float> plain = RotaryFrequencies({.dims = 128, .base = 500000});
  EXPECT_EQ(scaled.front(), plain.front());
  EXPECT_FLOAT_EQ(scaled.back(), plain.back() / 8);
  int between = 0;
  for (std::size_t i = 0; i < plain.size(); ++i) {
    EXPECT_LE(scaled[i], plain[i]);
    EXPECT_GE(scaled[i], plain[i] / 8);
    between += scaled[i] < plain[i] && scaled[i] > plain[i] / 8 * 1.001F ? 1 : 0;
  }
  EXPECT_GT(between, 3);
}

}  // namespace
}  // namespace bloomery
