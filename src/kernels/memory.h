// Memory of device objects: sizes that may come from a hostile file, checked before they are asked for.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "base/result.h"
#include "tensor/aligned_buffer.h"

namespace bloomery {

// a · b and a + b, or nothing where they overflow.
inline std::optional<std::uint64_t> CheckedMul(std::uint64_t a, std::uint64_t b) {
  std::uint64_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}

inline std::optional<std::uint64_t> CheckedAdd(std::uint64_t a, std::uint64_t b) {
  std::uint64_t sum = 0;
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}

// AlignedBuffer::Allocate that refuses, with kOutOfMemory and the number of bytes missing, what the machine
// has not left: the system itself promises memory that it cannot give and kills the process later.
Result<AlignedBuffer> AllocateChecked(std::uint64_t size_bytes, std::string_view what);

}  // namespace bloomery
