// A tensor somebody else owns: row-major bytes, an element type and a shape. Checkpoints hand these out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tensor/dtype.h"

namespace bloomery {

using Shape = std::vector<std::int64_t>;

// Product of the dimensions; 1 for a scalar. The caller has checked that it does not overflow (checkpoint/
// does, on reading).
std::int64_t ElementCount(const Shape& shape);

// "[4, 1024]"
std::string ShapeString(const Shape& shape);

// A rectangle of a tensor whose rectangles lie in different places (files of several ranks), each row-major
// or transposed and perhaps quantised:
//
//            ◀─ columns ─▶
//   first_row ┌──────────┐ ▲      stored:              [rows][stride], the first `columns` of each row count
//             │  piece   │ rows   stored, transposed:  [columns][stride], the first `rows` count
//             └──────────┘ ▼
//         first_column
struct TensorPiece {
  DType dtype = DType::kF32;  // f32, f16, bf16, or int8 with scales
  std::int64_t first_row = 0;
  std::int64_t rows = 0;
  std::int64_t first_column = 0;
  std::int64_t columns = 0;
  bool transposed = false;
  std::int64_t stride = 0;           // elements from one stored row to the next
  std::span<const std::byte> bytes;  // from the first element on; alignment as TensorView's

  // Row r of the piece is its stored values · scale (first_scale_row + r) / rows_per_scale. f32; empty for no
  // scales.
  std::span<const std::byte> scales = {};
  std::int64_t rows_per_scale = 1;
  std::int64_t first_scale_row = 0;
};

struct TensorView {
  DType dtype = DType::kF32;
  Shape shape;
  // Row-major, tightly packed, of ElementCount(shape)·SizeOf(dtype) bytes. NOT necessarily aligned to the
  // element size: files need not align their data, so read elements with memcpy or unaligned loads.
  std::span<const std::byte> bytes;
  // Where this is set, `bytes` is empty and the pieces cover the tensor, of one or two dimensions; `dtype` is
  // what reading them gives without loss.
  std::shared_ptr<const std::vector<TensorPiece>> pieces = nullptr;

  // Bytes it takes where it lies.
  std::uint64_t stored_bytes() const;
  std::int64_t rows() const { return shape.empty() ? 1 : shape.front(); }
  std::int64_t cols() const { return rows() == 0 ? 0 : ElementCount(shape) / rows(); }
};

// Converts `count` elements from `first_element` on to f32. dtype must be f32, f16 or bf16.
void ToF32(const TensorView& view, std::int64_t first_element, std::int64_t count, float* out);

// Rows [row, row + rows) of columns [column, column + columns) as f32, of a tensor that lies in pieces.
// out: [rows][out_stride]. Reads what lies together in one go, so several rows at once are much cheaper than
// one at a time where pieces are transposed.
void ReadPieces(const TensorView& view, std::int64_t row, std::int64_t rows, std::int64_t column,
                std::int64_t columns, float* out, std::int64_t out_stride);

}  // namespace bloomery
