#include "engine/kv_blocks.h"

#include <gtest/gtest.h>

namespace bloomery {
namespace {

class KvBlocksTest : public testing::Test {
 protected:
  using Copies = std::vector<std::pair<std::int32_t, std::int32_t>>;

  Copies copies_;
  KvBlockPool pool_{4, [this](std::int32_t from, std::int32_t to) { copies_.emplace_back(from, to); }};
};

TEST_F(KvBlocksTest, ReservesOnlyWhatIsMissingAndGivesBack) {
  {
    BlockTable table(pool_);
    EXPECT_TRUE(table.Reserve(0, 17));
    EXPECT_EQ(table.size(), 2U);
    EXPECT_TRUE(table.Reserve(17, 32));
    EXPECT_EQ(table.size(), 2U);
    EXPECT_EQ(pool_.free_blocks(), 2);
  }
  EXPECT_EQ(pool_.free_blocks(), 4);
}

TEST_F(KvBlocksTest, ForksShareBlocksAndCopyThePartlyFilledOneOnWriting) {
  BlockTable table(pool_);
  ASSERT_TRUE(table.Reserve(0, 20));
  BlockTable fork = table.Fork();
  EXPECT_EQ(pool_.free_blocks(), 2);
  EXPECT_EQ(fork.BlocksNeeded(20, 21), 1);
  ASSERT_TRUE(fork.Reserve(20, 21));
  EXPECT_EQ(fork.data()[0], table.data()[0]) << "a full block stays shared";
  EXPECT_NE(fork.data()[1], table.data()[1]) << "the one being written is its own";
  EXPECT_EQ(copies_, (Copies{{table.data()[1], fork.data()[1]}}));
  EXPECT_EQ(table.BlocksNeeded(20, 21), 0) << "the last owner writes in place";
}

TEST_F(KvBlocksTest, AFullPoolRefusesAndChangesNothing) {
  BlockTable table(pool_);
  ASSERT_TRUE(table.Reserve(0, 40));
  BlockTable other(pool_);
  EXPECT_FALSE(other.Reserve(0, 17));
  EXPECT_EQ(other.size(), 0U);
  EXPECT_EQ(pool_.free_blocks(), 1);
}

std::vector<std::int32_t> Tokens(std::int32_t first, int count) {
  std::vector<std::int32_t> tokens;
  for (int i = 0; i < count; ++i) tokens.push_back(first + i);
  return tokens;
}

TEST_F(KvBlocksTest, APrefixIsAdoptedWhileItsOwnerLivesAndAfterwards) {
  const std::vector<std::int32_t> text = Tokens(100, 40);
  BlockTable first(pool_);
  ASSERT_TRUE(first.Reserve(0, 40));
  first.Publish(0, text, 40);
  const std::int32_t block = first.data()[0];
  BlockTable second(pool_);
  EXPECT_EQ(second.Adopt(0, text), 32);
  EXPECT_EQ(second.data()[0], block);
  EXPECT_EQ(pool_.free_blocks(), 1) << "shared, not copied";
  first.Clear();
  second.Clear();
  EXPECT_EQ(pool_.free_blocks(), 4) << "what is only remembered counts as free";
  BlockTable third(pool_);
  EXPECT_EQ(third.Adopt(0, text), 32);
  EXPECT_EQ(third.data()[0], block);
}

TEST_F(KvBlocksTest, AdoptionComparesSaltTokensAndWhatCameBefore) {
  const std::vector<std::int32_t> text = Tokens(100, 40);
  BlockTable owner(pool_);
  ASSERT_TRUE(owner.Reserve(0, 40));
  owner.Publish(7, text, 40);
  const auto adopted = [&](std::uint64_t salt, const std::vector<std::int32_t>& tokens) {
    return BlockTable(pool_).Adopt(salt, tokens);
  };
  EXPECT_EQ(adopted(7, text), 32);
  EXPECT_EQ(adopted(8, text), 0) << "another salt";
  EXPECT_EQ(adopted(7, Tokens(116, 20)), 0) << "the second block's tokens, at the beginning";
  std::vector<std::int32_t> changed = text;
  changed[20] = 1;
  EXPECT_EQ(adopted(7, changed), 16);
  EXPECT_EQ(adopted(7, Tokens(100, 32)), 16) << "the last token's logits must be computed";
  EXPECT_EQ(adopted(7, Tokens(100, 33)), 32);
}

TEST_F(KvBlocksTest, WhatIsRememberedGivesWayLongestIdleFirstAndEndsBeforeBeginnings) {
  const std::vector<std::int32_t> old_text = Tokens(100, 32);
  const std::vector<std::int32_t> new_text = Tokens(500, 16);
  {
    BlockTable table(pool_);
    ASSERT_TRUE(table.Reserve(0, 32));
    table.Publish(0, old_text, 32);
  }
  {
    BlockTable table(pool_);
    ASSERT_TRUE(table.Reserve(0, 16));
    table.Publish(0, new_text, 16);
  }
  BlockTable large(pool_);
  ASSERT_TRUE(large.Reserve(0, 32)) << "one free block, and one of the remembered";
  EXPECT_EQ(BlockTable(pool_).Adopt(0, Tokens(100, 33)), 16) << "the old text lost its second block";
  EXPECT_EQ(BlockTable(pool_).Adopt(0, Tokens(500, 17)), 16);
  ASSERT_TRUE(large.Reserve(32, 64));
  EXPECT_EQ(BlockTable(pool_).Adopt(0, Tokens(100, 33)), 0);
  EXPECT_EQ(BlockTable(pool_).Adopt(0, Tokens(500, 17)), 0);
}

TEST_F(KvBlocksTest, APoolThatKeepsNoPrefixesAdoptsNone) {
  KvBlockPool plain(4, nullptr, /*keep_prefixes=*/false);
  BlockTable table(plain);
  ASSERT_TRUE(table.Reserve(0, 32));
  table.Publish(0, Tokens(1, 32), 32);
  EXPECT_EQ(BlockTable(plain).Adopt(0, Tokens(1, 32)), 0);
}

}  // namespace
}  // namespace bloomery
