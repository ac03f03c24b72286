#include "model/partition.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace bloomery {
namespace {

using testing::HasSubstr;

ModelSpec Shape(std::string_view name) { return NamedShape(name).value(); }

TEST(CutModelTest, ARankOfOneHoldsEverything) {
  const ModelSpec spec = Shape("opt-1.3b");
  const Part part = WholeModel(spec);
  EXPECT_EQ(part.layers.size, 24);
  EXPECT_EQ(part.heads.size, 32);
  EXPECT_EQ(part.ffn.size, 8192);
  EXPECT_EQ(part.vocab.size, 50272);
  EXPECT_EQ(part.vocab_share, 50272);
  EXPECT_TRUE(part.first_stage() && part.last_stage() && part.leads_sums());
}

// Every layer, head, feature and token belongs to one rank of a stage, and to one stage.
TEST(CutModelTest, RanksTogetherHoldEverythingOnce) {
  for (const char* name : {"opt-30b", "bloom-176b", "bloom-1b7", "llama-3.1-8b"}) {
    const ModelSpec spec = Shape(name);
    for (const Grid grid : {Grid{2, 1}, Grid{4, 2}, Grid{8, 3}, Grid{1, 5}}) {
      std::int64_t heads = 0;
      std::int64_t kv_heads = 0;
      std::int64_t ffn = 0;
      std::int64_t vocab = 0;
      std::int64_t layers = spec.layers;  // rank 0 has the last ones
      for (int rank = 0; rank < grid.size(); ++rank) {
        const Part part = CutModel(spec, grid, rank).value();
        if (part.stage == 0) {
          EXPECT_EQ(part.heads.begin, heads);
          EXPECT_EQ(part.kv_heads.begin, kv_heads);
          EXPECT_EQ(part.heads.size * spec.kv_heads, part.kv_heads.size * spec.heads)
              << "heads keep their keys";
          EXPECT_EQ(part.ffn.begin, ffn);
          EXPECT_EQ(part.vocab.begin, vocab);
          heads = part.heads.end();
          kv_heads = part.kv_heads.end();
          ffn = part.ffn.end();
          vocab = part.vocab.end();
        }
        if (part.tensor_rank == 0) {
          EXPECT_EQ(part.layers.end(), layers);
          EXPECT_GT(part.layers.size, 0);
          layers = part.layers.begin;
        }
      }
      EXPECT_EQ(heads, spec.heads) << name;
      EXPECT_EQ(kv_heads, spec.kv_heads) << name;
      EXPECT_EQ(ffn, spec.ffn_size) << name;
      EXPECT_EQ(vocab, spec.vocab_size) << name;
      EXPECT_EQ(layers, 0) << name;
    }
  }
}

TEST(CutModelTest, TheStageWithTheHeadHasFewerLayers) {
  const ModelSpec spec = Shape("bloom-560m");  // its head weighs as much as 20 layers
  const Part last = CutModel(spec, {1, 2}, 0).value();
  const Part first = CutModel(spec, {1, 2}, 1).value();
  EXPECT_TRUE(first.first_stage() && last.last_stage());
  EXPECT_GT(first.layers.size, last.layers.size);
}

TEST(CutModelTest, WhatDoesNotDivideIsRefusedWithWhatWould) {
  const auto part = CutModel(Shape("opt-30b"), {3, 1}, 0);  // 56 heads
  ASSERT_FALSE(part);
  EXPECT_EQ(part.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(part.error().message, HasSubstr("possible: 1, 2, 4, 7, 8"));
  EXPECT_THAT(CutModel(Shape("llama-3.1-8b"), {16, 1}, 0).error().message,
              HasSubstr("8 key and value heads and an FFN of 14336 features"));
  EXPECT_THAT(CutModel(Shape("opt-125m"), {1, 13}, 0).error().message, HasSubstr("--pp 13"));
}

}  // namespace
}  // namespace bloomery
