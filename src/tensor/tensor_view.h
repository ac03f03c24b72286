// A tensor somebody else owns: row-major bytes, an element type and a shape. Checkpoints hand these out.
#pragma once

#include <cstddef>
#include <cstdint>
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

struct TensorView {
  DType dtype = DType::kF32;
  Shape shape;
  // Row-major, tightly packed, of ElementCount(shape)·SizeOf(dtype) bytes. NOT necessarily aligned to the
  // element size: files need not align their data, so read elements with memcpy or unaligned loads.
  std::span<const std::byte> bytes;

  std::int64_t rows() const { return shape.empty() ? 1 : shape.front(); }
  std::int64_t cols() const { return rows() == 0 ? 0 : ElementCount(shape) / rows(); }
};

// Converts `count` elements from `first_element` on to f32. dtype must be f32, f16 or bf16.
void ToF32(const TensorView& view, std::int64_t first_element, std::int64_t count, float* out);

}  // namespace bloomery
