#include "checkpoint/tensor_map.h"

namespace bloomery {

Result<std::uint64_t> CheckedElementCount(const Shape& shape) {
  constexpr std::uint64_t kMaxElements = std::uint64_t{1} << 60U;
  if (shape.size() > kMaxDimensions) return Fail(ErrorCode::kCorrupt, "{} dimensions", shape.size());
  std::uint64_t count = 1;
  for (const std::int64_t dim : shape) {
    if (dim < 0) return Fail(ErrorCode::kCorrupt, "negative dimension in {}", ShapeString(shape));
    if (__builtin_mul_overflow(count, static_cast<std::uint64_t>(dim), &count) || count > kMaxElements) {
      return Fail(ErrorCode::kCorrupt, "shape {} overflows", ShapeString(shape));
    }
  }
  return count;
}

}  // namespace bloomery
