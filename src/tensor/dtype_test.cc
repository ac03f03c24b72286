#include "tensor/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace bloomery {
namespace {

// _Float16 is the compiler's own conversion: an oracle we did not write.
TEST(F16, EveryBitPatternReadsAsTheCompilerDoes) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float ours = F16ToF32(static_cast<std::uint16_t>(bits));
    const auto theirs = static_cast<float>(std::bit_cast<_Float16>(static_cast<std::uint16_t>(bits)));
    if (std::isnan(theirs)) {
      EXPECT_TRUE(std::isnan(ours));
    } else {
      ASSERT_EQ(std::bit_cast<std::uint32_t>(ours), std::bit_cast<std::uint32_t>(theirs)) << bits;
    }
  }
}

TEST(F16, RoundsAsTheCompilerDoes) {
  for (std::uint64_t bits = 0; bits <= 0xFFFFFFFFU; bits += 9973) {
    const auto value = std::bit_cast<float>(static_cast<std::uint32_t>(bits));
    if (std::isnan(value)) continue;
    ASSERT_EQ(F32ToF16(value), std::bit_cast<std::uint16_t>(static_cast<_Float16>(value))) << value;
  }
  for (const float value :
       {65504.0F, 65519.9F, 65520.0F, 0x1p-24F, 0x1p-25F, 0x1.8p-25F, 0x1.004p0F, 0x1.00cp0F}) {
    EXPECT_EQ(F32ToF16(value), std::bit_cast<std::uint16_t>(static_cast<_Float16>(value))) << value;
  }
  EXPECT_TRUE(std::isnan(F16ToF32(F32ToF16(std::numeric_limits<float>::quiet_NaN()))));
}

TEST(BF16, RoundsToNearestEvenAndKeepsNan) {
  EXPECT_EQ(F32ToBF16(1.0F), 0x3F80);
  EXPECT_EQ(F32ToBF16(std::bit_cast<float>(0x3F808000U)), 0x3F80) << "tie goes to even";
  EXPECT_EQ(F32ToBF16(std::bit_cast<float>(0x3F818000U)), 0x3F82) << "tie goes to even";
  EXPECT_EQ(F32ToBF16(std::bit_cast<float>(0x3F808001U)), 0x3F81);
  EXPECT_EQ(F32ToBF16(std::numeric_limits<float>::max()), 0x7F80);
  EXPECT_TRUE(std::isnan(BF16ToF32(F32ToBF16(std::bit_cast<float>(0x7F800001U)))));
}

TEST(DTypeNames, ReadBack) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kI8}) {
    EXPECT_EQ(DTypeFromName(DTypeName(dtype)), dtype);
  }
  EXPECT_EQ(DTypeFromName("bfloat16"), DType::kBF16);
  EXPECT_EQ(DTypeFromName("float17"), std::nullopt);
}

}  // namespace
}  // namespace bloomery
