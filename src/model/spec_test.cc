#include "model/spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace bloomery {
namespace {

using testing::HasSubstr;

// Parameter counts from spec/models.md's table (billions, as published).
TEST(NamedShapes, HaveThePublishedNumberOfParameters) {
  const std::pair<const char*, double> published[] = {
      {"bloom-560m", 0.559},    {"bloom-1b1", 1.065},    {"bloom-1b7", 1.722},  {"bloom-3b", 3.003},
      {"bloom-7b1", 7.069},     {"bloom-176b", 176.247}, {"gpt2", 0.1244},      {"gpt2-xl", 1.5576},
      {"llama-2-7b", 6.738},    {"llama-3.1-8b", 8.030}, {"mistral-7b", 7.242}, {"llama-3.1-70b", 70.554},
      {"gpt-neox-20b", 20.5546}};
  for (const auto& [name, billions] : published) {
    const auto spec = NamedShape(name);
    ASSERT_TRUE(spec) << name;
    EXPECT_NEAR(static_cast<double>(spec->ParameterCount()) / 1e9, billions, 0.0006) << name;
  }
  EXPECT_EQ(NamedShapes().size(), 21U);
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

// A small description and a config.json for it, with changes: {"fields": {"heads": 3}} sets one field.
Result<ModelSpec> Resolve(const char* changes, const char* config = R"({"h": 8, "n": 2})") {
  json::object architecture =
      ParseJson(
          R"({"fields": {"hidden_size": {"from": ["h"]}, "layers": 1, "heads": {"from": ["n"]}, "vocab_size": 10, "ffn_size": 8,
        "max_positions": 8, "norm_eps": 1e-5, "activation": "relu", "positions": "alibi", "qkv_layout": "fused_per_head"},
        "tensors": {"embed": "e", "layer": "h.{layer}.", "attention_norm": "n1", "qkv": ["q"], "attention_out": "o",
        "ffn_norm": "n2", "ffn_up": "u", "ffn_down": "d", "final_norm": "f"}})",
          "architecture")
          ->as_object();
  const json::value parsed = ParseJson(changes, "changes").value();
  for (const auto& [section, values] : parsed.as_object()) {
    if (!values.is_object()) {
      architecture[section] = values;
      continue;
    }
    json::object& target = architecture[section].is_null() ? architecture[section].emplace_object()
                                                           : architecture[section].as_object();
    for (const auto& [key, value] : values.as_object()) {
      if (value.is_string() && value.get_string() == "none") {
        target.erase(key);
      } else {
        target[key] = value;
      }
    }
  }
  return ResolveSpec(architecture, ParseJson(config, "config")->as_object());
}

std::string ErrorOf(const Result<ModelSpec>& spec) { return spec ? "" : spec.error().message; }

TEST(ResolveSpec, RefusesSizesThatMakeNoModel) {
  EXPECT_TRUE(Resolve("{}"));
  for (const char* config :
       {R"({"h": 8, "n": 3})", R"({"h": -8, "n": 2})", R"({"h": 8, "n": 0})", R"({"h": 9000000000, "n": 2})",
        R"({"h": "8", "n": 2})", R"({"h": 8, "n": 2, "eos_token_id": 10})"})
    EXPECT_FALSE(Resolve("{}", config)) << config;
  EXPECT_FALSE(Resolve(R"({"fields": {"head_dim": 200000000}})"));
  EXPECT_FALSE(Resolve(R"({"fields": {"position_offset": -1}})"));
}

TEST(ResolveSpec, HeadsOfAnotherSizeAndSharedKeysAndValues) {
  const auto plain = Resolve("{}");
  EXPECT_EQ(plain->kv_heads, 2);
  EXPECT_EQ(plain->head_dim, 4);
  const auto grouped =
      Resolve(R"({"fields": {"heads": 6, "kv_heads": 2, "head_dim": 3, "qkv_layout": "fused"}})");
  ASSERT_TRUE(grouped) << ErrorOf(grouped);
  EXPECT_EQ(grouped->q_size(), 18);
  EXPECT_EQ(grouped->kv_size(), 6);
  EXPECT_THAT(ErrorOf(Resolve(R"({"fields": {"kv_heads": 3}})")), HasSubstr("3 kv_heads"));
  EXPECT_THAT(ErrorOf(Resolve(R"({"fields": {"kv_heads": 1}})")), HasSubstr("fused_per_head"));
}

TEST(ResolveSpec, SplitsHaveDefaultsAndMustFitTogether) {
  EXPECT_EQ(Resolve("{}")->splits.qkv, Split::kColumn);
  EXPECT_EQ(Resolve("{}")->splits.ffn_down, Split::kRow);
  EXPECT_EQ(Resolve("{}")->splits.embed, Split::kVocabulary);
  const auto replicated =
      Resolve(R"({"splits": {"qkv": "replicated", "attention_out": "replicated", "embed": "replicated"}})");
  ASSERT_TRUE(replicated) << ErrorOf(replicated);
  EXPECT_EQ(replicated->splits.attention_out, Split::kReplicated);
  EXPECT_EQ(replicated->splits.ffn_up, Split::kColumn);
  EXPECT_THAT(ErrorOf(Resolve(R"({"splits": {"qkv": "diagonal"}})")), HasSubstr("column, row, replicated"));
  EXPECT_THAT(ErrorOf(Resolve(R"({"splits": {"qkv": "row"}})")), HasSubstr("\"column\" or \"replicated\""));
  EXPECT_THAT(ErrorOf(Resolve(R"({"splits": {"embed": "column"}})")), HasSubstr("\"vocabulary\""));
  EXPECT_THAT(ErrorOf(Resolve(R"({"splits": {"ffn_up": "replicated"}})")), HasSubstr("go together"));
  EXPECT_THAT(ErrorOf(Resolve(R"({"splits": {"ffn": "column"}})")), HasSubstr("\"ffn\" is not known"));
}

TEST(ResolveSpec, WhatNobodyReadsAndWhatIsMissingIsNamed) {
  EXPECT_THAT(ErrorOf(Resolve(R"({"fields": {"kv_head": 1}})")), HasSubstr("fields: \"kv_head\""));
  EXPECT_THAT(ErrorOf(Resolve(R"({"tensors": {"ffn_in": "x"}})")), HasSubstr("tensors: \"ffn_in\""));
  EXPECT_THAT(ErrorOf(Resolve(R"({"tensor": {}})")), HasSubstr("\"tensor\""));
  EXPECT_THAT(ErrorOf(Resolve(R"({"tensors": {"ffn_norm": "none"
}
})")),
              HasSubstr("\"ffn_norm\" is missing"));
  EXPECT_THAT(ErrorOf(Resolve(R"({"fields": {"gated_ffn": true}})")), HasSubstr("\"ffn_gate\""));
  EXPECT_THAT(ErrorOf(Resolve(R"({"fields": {"tied_head": false}})")), HasSubstr("\"head\""));
  EXPECT_THAT(ErrorOf(Resolve(R"({"fields": {"qkv_layout": "separate"}})")), HasSubstr("3 names"));
  EXPECT_THAT(ErrorOf(Resolve(R"({"fields": {"activation": "tanh"}})")), HasSubstr("known: relu"));
  EXPECT_THAT(ErrorOf(Resolve(R"({"fields": {"parallel_residual": true, "norm_before": false}})")),
              HasSubstr("parallel_residual"));
}

TEST(ResolveSpec, RequirementsOnConfigJson) {
  const char* required = R"({"requires": {"window": [false, 8]}})";
  EXPECT_TRUE(Resolve(required));
  EXPECT_TRUE(Resolve(required, R"({"h": 8, "n": 2, "window": null})"));
  EXPECT_TRUE(Resolve(required, R"({"h": 8, "n": 2, "window": 8})"));
  EXPECT_THAT(ErrorOf(Resolve(required, R"({"h": 8, "n": 2, "window": true})")),
              HasSubstr("\"window\": true in config.json is not supported, only [false,8]"));
}

TEST(ResolveSpec, BiasesOneByOne) {
  const auto spec = Resolve(R"({"fields": {"linear_bias": false, "qkv_bias": true}})");
  ASSERT_TRUE(spec) << ErrorOf(spec);
  EXPECT_TRUE(spec->bias.qkv);
  EXPECT_FALSE(spec->bias.attention_out || spec->bias.ffn_up || spec->bias.ffn_down);
}

TEST(NamedShapes, AWindowOfAttentionBoundsTheContext) {
  EXPECT_EQ(NamedShape("mistral-7b")->max_positions, 4096);
  EXPECT_EQ(NamedShape("llama-3.1-8b")->max_positions, 131072);
}

TEST(LoadSpec, SaysWhatIsMissing) {
  EXPECT_EQ(LoadSpec("/no/such/model").error().code, ErrorCode::kNotFound);
  EXPECT_NE(LoadSpec(testing::TempDir()).error().message.find("config.json"), std::string::npos);
}

}  // namespace
}  // namespace bloomery
