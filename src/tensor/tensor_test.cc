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

// [3, 2], whose first column's rows are one piece, stored as rows of f32, and whose second column is int8,
// stored transposed with two rows more between and a scale for two rows.
TEST(TensorView, ReadsPieces) {
  const std::array<float, 6> left = {1, -1, 2, -1, 3, -1};
  const std::array<std::int8_t, 5> right = {4, 5, 6, 0, 0};
  const std::array<float, 2> scales = {10, 100};
  TensorView view{DType::kF32, {3, 2}, {}};
  view.pieces = std::make_shared<const std::vector<TensorPiece>>(std::vector<TensorPiece>{
      {.dtype = DType::kF32, .rows = 3, .columns = 1, .stride = 2, .bytes = std::as_bytes(std::span(left))},
      {.dtype = DType::kI8,
       .rows = 3,
       .first_column = 1,
       .columns = 1,
       .transposed = true,
       .stride = 5,
       .bytes = std::as_bytes(std::span(right)),
       .scales = std::as_bytes(std::span(scales)),
       .rows_per_scale = 2,
       .first_scale_row = 1}});
  std::array<float, 6> all{};
  ToF32(view, 0, 6, all.data());
  EXPECT_EQ(all, (std::array<float, 6>{1, 40, 2, 500, 3, 600}));
  std::array<float, 3> middle{};
  ToF32(view, 1, 3, middle.data());
  EXPECT_EQ(middle, (std::array<float, 3>{40, 2, 500}));
  std::array<float, 4> strided{};
  ReadPieces(view, 1, 2, 1, 1, strided.data(), 2);
  EXPECT_EQ(strided, (std::array<float, 4>{500, 0, 600, 0}));
  EXPECT_EQ(view.stored_bytes(), 15U);
}

}  // namespace
}  // namespace bloomery
