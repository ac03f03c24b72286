#include "model/spec.h"

#include <gtest/gtest.h>

namespace bloomery {
namespace {

// Parameter counts from spec/models.md's table (billions, as published).
TEST(NamedShapes, HaveThePublishedNumberOfParameters) {
  const std::pair<const char*, double> published[] = {{"bloom-560m", 0.559}, {"bloom-1b1", 1.065},
                                                      {"bloom-1b7", 1.722},  {"bloom-3b", 3.003},
                                                      {"bloom-7b1", 7.069},  {"bloom-176b", 176.247}};
  for (const auto& [name, billions] : published) {
    const auto spec = NamedShape(name);
    ASSERT_TRUE(spec) << name;
    EXPECT_NEAR(static_cast<double>(spec->ParameterCount()) / 1e9, billions, 0.0006) << name;
  }
  EXPECT_EQ(NamedShapes().size(), 14U);
  const auto small = NamedShape("opt-350m");
  ASSERT_TRUE(small);
  EXPECT_FALSE(small->norm_before);
  EXPECT_FALSE(small->final_norm);
  EXPECT_TRUE(small->projected());
  EXPECT_NE(NamedShape("opt-1b").error().message.find("opt-1.3b"), std::string::npos)
      << "the error lists what there is";
}

// Values from spec/models.md.
TEST(AlibiSlopes, EqualThePublishedOnes) {
  const auto big = AlibiSlopes(112);
  ASSERT_EQ(big.size(), 112U);
  EXPECT_NEAR(big[0], 0.917004F, 1e-6);
  EXPECT_NEAR(big[1], 0.840896F, 1e-6);
  EXPECT_NEAR(big.back(), 0.0163168F, 1e-6);
  const auto small = AlibiSlopes(16);
  EXPECT_NEAR(small.front(), 0.707107F, 1e-6);
  EXPECT_NEAR(small.back(), 0.00390625F, 1e-8);
}

TEST(ResolveSpec, RefusesSizesThatMakeNoModel) {
  const auto resolve = [](const char* config) {
    const auto bloom = ParseJson(
        R"({"fields": {"hidden_size": {"from": ["h"]}, "layers": 1, "heads": {"from": ["n"]}, "vocab_size": 10, "ffn_size": 8,
        "max_positions": 8, "norm_eps": 1e-5, "activation": "relu", "positions": "alibi", "qkv_layout": "fused_per_head"},
        "tensors": {"qkv": ["q"]}})",
        "architecture");
    return ResolveSpec(bloom->as_object(), ParseJson(config, "config")->as_object());
  };
  EXPECT_TRUE(resolve(R"({"h": 8, "n": 2})"));
  EXPECT_FALSE(resolve(R"({"h": 8, "n": 3})"));
  EXPECT_FALSE(resolve(R"({"h": -8, "n": 2})"));
  EXPECT_FALSE(resolve(R"({"h": 8, "n": 0})"));
  EXPECT_FALSE(resolve(R"({"h": 9000000000, "n": 2})"));
  EXPECT_FALSE(resolve(R"({"h": "8", "n": 2})"));
  EXPECT_FALSE(resolve(R"({"h": 8, "n": 2, "eos_token_id": 10})"));
}

TEST(LoadSpec, SaysWhatIsMissing) {
  EXPECT_EQ(LoadSpec("/no/such/model").error().code, ErrorCode::kNotFound);
  EXPECT_NE(LoadSpec(testing::TempDir()).error().message.find("config.json"), std::string::npos);
}

}  // namespace
}  // namespace bloomery
