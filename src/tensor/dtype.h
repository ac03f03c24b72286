// Element types, and the conversions between the 16-bit floats and f32 in plain scalar code (the truth the
// kernels are tested against).
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace bloomery {

// kI4 exists only in packed weights: two values a byte, beside scales of their own (kernels/kernel_table.h).
enum class DType : std::uint8_t { kF32, kF16, kBF16, kI8, kU8, kI16, kI32, kI64, kF64, kBool, kI4 };

// Bytes of an element; 0 for kI4, which has none of its own.
constexpr std::size_t SizeOf(DType dtype) {
  switch (dtype) {
    case DType::kF64:
    case DType::kI64:
      return 8;
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kF16:
    case DType::kBF16:
    case DType::kI16:
      return 2;
    case DType::kI8:
    case DType::kU8:
    case DType::kBool:
      return 1;
    case DType::kI4:
      return 0;
  }
  return 0;
}

// Short lower-case names, as flags spell them: "f32", "bf16", "int8".
std::string_view DTypeName(DType dtype);

// Accepts our names and the usual others: "float32", "fp16", "float16", "bfloat16", "int8", "int4" …
std::optional<DType> DTypeFromName(std::string_view name);

inline float BF16ToF32(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16U);
}

// Round to nearest even; NaN stays NaN.
inline std::uint16_t F32ToBF16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7FFFFFFFU) > 0x7F800000U) return static_cast<std::uint16_t>((bits >> 16U) | 0x0040U);
  return static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16U) & 1U)) >> 16U);
}

float F16ToF32(std::uint16_t bits);

// Round to nearest even; values past 65504 become infinity; NaN stays NaN.
std::uint16_t F32ToF16(float value);

}  // namespace bloomery
