#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <cstring>

#include "tensor/aligned_buffer.h"
#include "tensor/tensor_view.h"

namespace bloomery {
namespace {

TEST(AlignedBuffer, IsAlignedZeroedAndMovable) {
  auto buffer = AlignedBuffer::Allocate(5U << 20U);
  ASSERT_TRUE(buffer);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer->data()) % AlignedBuffer::kAlignment, 0U);
  EXPECT_EQ(buffer->as<int>()[12345], 0);
  buffer->as<int>()[7] = 42;
  const AlignedBuffer moved = *std::move(buffer);
  EXPECT_EQ(moved.as<int>()[7], 42);
  EXPECT_EQ(AlignedBuffer::Allocate(~std::size_t{0} / 2).error().code, ErrorCode::kOutOfMemory);
}

TEST(TensorView, ConvertsUnalignedHalves) {
  std::array<std::byte, 9> raw{};
  const std::array<std::uint16_t, 4> bf16 = {0x3F80, 0xC000, 0x0000, 0x4049};
  std::memcpy(raw.data() + 1, bf16.data(), 8);  // odd address on purpose
  const TensorView view{DType::kBF16, {2, 2}, std::span(raw).subspan(1)};
  std::array<float, 3> out{};
  ToF32(view, 1, 3, out.data());
  EXPECT_EQ(out[0], -2.0F);
  EXPECT_EQ(out[1], 0.0F);
  EXPECT_EQ(out[2], 3.140625F);
  EXPECT_EQ(view.rows(), 2);
  EXPECT_EQ(view.cols(), 2);
  EXPECT_EQ(ShapeString(view.shape), "[2, 2]");
}

}  // namespace
}  // namespace bloomery
