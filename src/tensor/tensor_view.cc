#include "tensor/tensor_view.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cstring>

namespace bloomery {
namespace {

template <typename Convert>
void ConvertHalf(const std::byte* from, std::int64_t count, float* out, Convert convert) {
  for (std::int64_t i = 0; i < count; ++i) {
    std::uint16_t bits = 0;
    std::memcpy(&bits, from + 2 * i, sizeof(bits));
    out[i] = convert(bits);
  }
}

void Convert(DType dtype, const std::byte* from, std::int64_t count, float* out) {
  switch (dtype) {
    case DType::kF32:
      std::memcpy(out, from, static_cast<std::size_t>(count) * sizeof(float));
      return;
    case DType::kF16:
      ConvertHalf(from, count, out, F16ToF32);
      return;
    case DType::kBF16:
      ConvertHalf(from, count, out, BF16ToF32);
      return;
    case DType::kI8:
      for (std::int64_t i = 0; i < count; ++i) out[i] = static_cast<float>(static_cast<std::int8_t>(from[i]));
      return;
    default:
      assert(false && "weights are f32, f16, bf16 or scaled int8; checkpoint/ refuses the rest");
  }
}

float ScaleOf(const TensorPiece& piece, std::int64_t row) {
  if (piece.scales.empty()) return 1.0F;
  const std::int64_t index = (piece.first_scale_row + row) / piece.rows_per_scale;
  float scale = 0;
  std::memcpy(&scale, piece.scales.data() + static_cast<std::size_t>(index) * sizeof(float), sizeof(scale));
  return scale;
}

// Rows and columns count from the piece's own first ones in both.

void ReadPieceRows(const TensorPiece& piece, std::int64_t row, std::int64_t rows, std::int64_t column,
                   std::int64_t columns, float* out, std::int64_t out_stride) {
  for (std::int64_t r = row; r < row + rows; ++r, out += out_stride) {
    const auto first = static_cast<std::size_t>(r * piece.stride + column);
    Convert(piece.dtype, piece.bytes.data() + first * SizeOf(piece.dtype), columns, out);
    if (piece.scales.empty()) continue;
    const float scale = ScaleOf(piece, r);
    for (std::int64_t c = 0; c < columns; ++c) out[c] *= scale;
  }
}

void ReadPieceTransposed(const TensorPiece& piece, std::int64_t row, std::int64_t rows, std::int64_t column,
                         std::int64_t columns, float* out, std::int64_t out_stride) {
  // Rows at a time: a cache line of f16, and as many as the panels that weights are packed in have.
  static constexpr std::int64_t kRows = 16;
  std::array<float, kRows> values{};
  for (std::int64_t begin = row; begin < row + rows; begin += kRows) {
    const std::int64_t count = std::min(kRows, row + rows - begin);
    for (std::int64_t c = 0; c < columns; ++c) {
      const auto first = static_cast<std::size_t>((column + c) * piece.stride + begin);
      Convert(piece.dtype, piece.bytes.data() + first * SizeOf(piece.dtype), count, values.data());
      for (std::int64_t r = 0; r < count; ++r) {
        out[(begin - row + r) * out_stride + c] =
            values[static_cast<std::size_t>(r)] * ScaleOf(piece, begin + r);
      }
    }
  }
}

}  // namespace

std::int64_t ElementCount(const Shape& shape) {
  std::int64_t count = 1;
  for (const std::int64_t dim : shape) count *= dim;
  return count;
}

std::string ShapeString(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

std::uint64_t TensorView::stored_bytes() const {
  if (pieces == nullptr) return bytes.size();
  std::uint64_t total = 0;
  for (const TensorPiece& piece : *pieces)
    total += static_cast<std::uint64_t>(piece.rows * piece.columns) * SizeOf(piece.dtype);
  return total;
}

void ReadPieces(const TensorView& view, std::int64_t row, std::int64_t rows, std::int64_t column,
                std::int64_t columns, float* out, std::int64_t out_stride) {
  for (const TensorPiece& piece : *view.pieces) {
    const std::int64_t top = std::max(row, piece.first_row);
    const std::int64_t bottom = std::min(row + rows, piece.first_row + piece.rows);
    const std::int64_t left = std::max(column, piece.first_column);
    const std::int64_t right = std::min(column + columns, piece.first_column + piece.columns);
    if (top >= bottom || left >= right) continue;
    const auto read = piece.transposed ? ReadPieceTransposed : ReadPieceRows;
    read(piece, top - piece.first_row, bottom - top, left - piece.first_column, right - left,
         out + (top - row) * out_stride + (left - column), out_stride);
  }
}

void ToF32(const TensorView& view, std::int64_t first_element, std::int64_t count, float* out) {
  if (view.pieces == nullptr) {
    Convert(view.dtype, view.bytes.data() + static_cast<std::size_t>(first_element) * SizeOf(view.dtype),
            count, out);
    return;
  }
  if (view.shape.size() == 1) return ReadPieces(view, first_element, count, 0, 1, out, 1);
  const std::int64_t columns = view.cols();
  for (std::int64_t at = first_element; at < first_element + count;) {
    const std::int64_t column = at % columns;
    const std::int64_t run = std::min(columns - column, first_element + count - at);
    ReadPieces(view, at / columns, 1, column, run, out + (at - first_element), run);
    at += run;
  }
}

}  // namespace bloomery
