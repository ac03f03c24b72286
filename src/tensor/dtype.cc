#include "tensor/dtype.h"

#include <array>
#include <utility>

namespace bloomery {

std::string_view DTypeName(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "f32";
    case DType::kF16:
      return "f16";
    case DType::kBF16:
      return "bf16";
    case DType::kI8:
      return "int8";
    case DType::kU8:
      return "uint8";
    case DType::kI16:
      return "int16";
    case DType::kI32:
      return "int32";
    case DType::kI64:
      return "int64";
    case DType::kF64:
      return "f64";
    case DType::kBool:
      return "bool";
    case DType::kI4:
      return "int4";
  }
  return "?";
}

std::optional<DType> DTypeFromName(std::string_view name) {
  static constexpr std::array<std::pair<std::string_view, DType>, 15> kNames = {{{"f32", DType::kF32},
                                                                                 {"fp32", DType::kF32},
                                                                                 {"float32", DType::kF32},
                                                                                 {"float", DType::kF32},
                                                                                 {"f16", DType::kF16},
                                                                                 {"fp16", DType::kF16},
                                                                                 {"float16", DType::kF16},
                                                                                 {"half", DType::kF16},
                                                                                 {"bf16", DType::kBF16},
                                                                                 {"bfloat16", DType::kBF16},
                                                                                 {"int8", DType::kI8},
                                                                                 {"i8", DType::kI8},
                                                                                 {"int4", DType::kI4},
                                                                                 {"i4", DType::kI4},
                                                                                 {"float64", DType::kF64}}};
  for (const auto& [known, dtype] : kNames) {
    if (known == name) return dtype;
  }
  return std::nullopt;
}

float F16ToF32(std::uint16_t bits) {
  const std::uint32_t sign = (bits & 0x8000U) << 16U;
  const std::uint32_t exponent = (bits >> 10U) & 0x1FU;
  const std::uint32_t mantissa = bits & 0x3FFU;
  if (exponent == 0x1F) return std::bit_cast<float>(sign | 0x7F800000U | (mantissa << 13U));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112U) << 23U) | (mantissa << 13U));
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24F;  // zero and subnormals, exact
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(magnitude) | sign);
}

std::uint16_t F32ToF16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>((bits >> 16U) & 0x8000U);
  const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
  if (magnitude > 0x7F800000U) return static_cast<std::uint16_t>(sign | 0x7E00U);
  if (magnitude >= 0x477FF000U) return static_cast<std::uint16_t>(sign | 0x7C00U);  // rounds past 65504
  if (magnitude < 0x38800000U) {
    // Below the smallest normal f16: adding 0.5 makes the FPU round at the bit that is the last of a
    // subnormal.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5F;
    return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3F000000U));
  }
  const std::uint32_t rounded = magnitude + 0xFFFU + ((magnitude >> 13U) & 1U);
  return static_cast<std::uint16_t>(sign | ((rounded - 0x38000000U) >> 13U));
}

}  // namespace bloomery
