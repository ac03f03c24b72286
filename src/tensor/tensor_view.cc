#include "tensor/tensor_view.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

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

}  // namespace

std::int64_t ElementCount(const Shape& shape) {
  std::int64_t count = 1;
  for (const std::int64_t dim : shape) count *= dim;
  return count;
}

std::string ShapeString(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

void ToF32(const TensorView& view, std::int64_t first_element, std::int64_t count, float* out) {
  const std::byte* from = view.bytes.data() + static_cast<std::size_t>(first_element) * SizeOf(view.dtype);
  switch (view.dtype) {
    case DType::kF32:
      std::memcpy(out, from, static_cast<std::size_t>(count) * sizeof(float));
      return;
    case DType::kF16:
      ConvertHalf(from, count, out, F16ToF32);
      return;
    case DType::kBF16:
      ConvertHalf(from, count, out, BF16ToF32);
      return;
    default:
      assert(false && "weights are f32, f16 or bf16; checkpoint/ refuses the rest");
  }
}

}  // namespace bloomery
