// Random weights made in place, for measuring shapes without a checkpoint.
#include <algorithm>
#include <cstring>

#include "kernels/packed_linear.h"

namespace bloomery {
namespace {

// SplitMix64's finaliser over a counter: any element can be made on its own, so threads share no state.
std::uint64_t Mix(std::uint64_t seed, std::uint64_t counter) {
  std::uint64_t z = seed + (counter + 1) * 0x9E3779B97F4A7C15ULL;
  z = (z ^ (z >> 30U)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27U)) * 0x94D049BB133111EBULL;
  return z ^ (z >> 31U);
}

// A uniform distribution on [−a, a] has standard deviation a/√3; on the integers −127 … 127, √((255² −
// 1)/12).
constexpr float kSqrt3 = 1.7320508F;
constexpr float kInt8Stddev = 73.6116F;
// On the integers 0 … 15 around 7.5: √((16² − 1)/12).
constexpr float kInt4Stddev = 4.6098F;

// Fills `count` elements (a multiple of 16) from 16 random bits each; the panel's number is part of the
// counter.
template <typename Element, typename Convert>
void RandomFloats(std::uint64_t seed, std::uint64_t first, std::int64_t count, float range, Element* out,
                  Convert convert) {
  const float unit = range / 32767.5F;
  for (std::int64_t i = 0; i < count; i += 4) {
    std::uint64_t bits = Mix(seed, first + static_cast<std::uint64_t>(i));
    for (int j = 0; j < 4; ++j, bits >>= 16U) {
      out[i + j] = convert((static_cast<float>(bits & 0xFFFFU) - 32767.5F) * unit);
    }
  }
}

void RandomBytes(std::uint64_t seed, std::uint64_t first, std::int64_t count, std::uint8_t* out) {
  for (std::int64_t i = 0; i < count; i += 8) {
    std::uint64_t bits = Mix(seed, first + static_cast<std::uint64_t>(i));
    for (int j = 0; j < 8; ++j, bits >>= 8U) {
      out[i + j] = static_cast<std::uint8_t>(((bits & 0xFFU) * 255U >> 8U) + 1U);  // 1 … 255: −127 … 127
    }
  }
}

// Uniform levels around a zero of 7.5, every scale byte 255. Padding along K may hold anything: it is
// multiplied by zeros; padding lanes are never read.
void RandomInt4Panel(const PackedShape& shape, std::uint64_t seed, std::uint64_t first, std::uint8_t* out) {
  constexpr int kScales = kNibbleGroups * kPanelColumns;
  for (std::int64_t k = 0; k < shape.k_padded; k += kQuantGroup, out += kNibbleGroupBytes) {
    std::fill_n(out, kScales, std::uint8_t{255});
    std::fill_n(out + kScales, kScales, std::uint8_t{15 * kNibbleZeroSteps / 2});
    for (int i = kNibbleHeaderBytes; i < kNibbleGroupBytes; i += 8) {
      const std::uint64_t bits = Mix(seed, first + static_cast<std::uint64_t>(k * kPanelColumns + i));
      std::memcpy(out + i, &bits, sizeof(bits));
    }
  }
}

template <typename Element>
void ClearPadding(const PackedShape& shape, std::int64_t panel, int group_k, Element zero, Element* out) {
  const std::int64_t valid =
      std::min<std::int64_t>(kPanelColumns, shape.out_features - panel * kPanelColumns);
  for (std::int64_t k = 0; k < shape.k_padded; ++k) {
    const std::int64_t first = k < shape.in_features ? valid : 0;
    for (std::int64_t lane = first; lane < kPanelColumns; ++lane) {
      out[ElementIndex(k, static_cast<int>(lane), group_k)] = zero;
    }
  }
}

void FillPanel(PackedLinear& packed, std::int64_t panel, float stddev, std::uint64_t seed) {
  const PackedShape& shape = packed.shape();
  const std::int64_t count = shape.k_padded * kPanelColumns;
  const std::uint64_t first = static_cast<std::uint64_t>(panel) * static_cast<std::uint64_t>(count);
  const float range = stddev * kSqrt3;
  std::byte* to = packed.panel(panel);
  const bool padded = shape.k_padded != shape.in_features || (panel + 1) * kPanelColumns > shape.out_features;
  const auto floats = [&](auto* out, int group_k, auto convert) {
    RandomFloats(seed, first, count, range, out, convert);
    if (padded) ClearPadding(shape, panel, group_k, {}, out);
  };
  switch (shape.type) {
    case kTypeF32:
      return floats(reinterpret_cast<float*>(to), 1, [](float v) { return v; });
    case kTypeF16:
      return floats(reinterpret_cast<std::uint16_t*>(to), 1, F32ToF16);
    case kTypeBF16:
      return floats(reinterpret_cast<std::uint16_t*>(to), 2, F32ToBF16);
    case kTypeI4:
      RandomInt4Panel(shape, seed, first, reinterpret_cast<std::uint8_t*>(to));
      std::fill_n(packed.scales() + panel * kPanelColumns, kPanelColumns, stddev / (kInt4Stddev * 255.0F));
      return;
    default:
      auto* out = reinterpret_cast<std::uint8_t*>(to);
      RandomBytes(seed, first, count, out);
      if (padded) ClearPadding(shape, panel, 4, static_cast<std::uint8_t>(kWeightOffset), out);
      std::fill_n(packed.scales() + panel * kPanelColumns, kPanelColumns, stddev / kInt8Stddev);
  }
}

}  // namespace

Result<std::unique_ptr<PackedLinear>> PackRandom(ThreadPool& pool, std::int64_t out_features,
                                                 std::int64_t in_features, bool has_bias, DType dtype,
                                                 float stddev, std::uint64_t seed) {
  ASSIGN_OR_RETURN(const PackedShape shape, MakePackedShape(out_features, in_features, has_bias, dtype));
  ASSIGN_OR_RETURN(auto packed, PackedLinear::Allocate(shape));
  pool.ParallelStream(shape.panels,
                      [&](int, std::int64_t panel) { FillPanel(*packed, panel, stddev, seed); });
  return packed;
}

}  // namespace bloomery
