#include "engine/kv_blocks.h"

#include <gtest/gtest.h>

#include "kernels/cpu_device.h"

namespace bloomery {
namespace {

class KvBlocksTest : public testing::Test {
 protected:
  std::unique_ptr<Device> device_ = MakeCpuDevice({.threads = 1, .isa = std::nullopt}).value();
  std::unique_ptr<KvCache> cache_ = device_->AllocateKvCache({1, 1, 4, DType::kF32}, 4).value();
  KvBlockPool pool_{*cache_, *device_};
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

}  // namespace
}  // namespace bloomery
