#include "kernels/packed_linear.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cassert>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>

#include "kernels/memory.h"

namespace bloomery {
namespace {

struct Layout {
  KernelType type;
  int group_k;  // values along K that lie side by side in a lane
  int element_bytes;
};

std::optional<Layout> LayoutOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return Layout{kTypeF32, 1, 4};
    case DType::kF16:
      return Layout{kTypeF16, 1, 2};
    case DType::kBF16:
      return Layout{kTypeBF16, 2, 2};
    case DType::kI8:
      return Layout{kTypeI8, 4, 1};
    default:
      return std::nullopt;
  }
}

// Element (k, lane) of a panel, counted in elements.
std::int64_t ElementIndex(std::int64_t k, int lane, int group_k) {
  return (k / group_k * kPanelColumns + lane) * group_k + k % group_k;
}

// Largest feature count taken: beyond any model, and its products with 16 and 8 bytes stay far from overflow.
constexpr std::int64_t kMaxFeatures = std::int64_t{1} << 40U;

}  // namespace

Result<PackedShape> MakePackedShape(std::int64_t out_features, std::int64_t in_features, bool has_bias,
                                    DType dtype) {
  const auto layout = LayoutOf(dtype);
  if (!layout) {
    return Fail(ErrorCode::kInvalidArgument, "[linear] {} weights have no packed layout", DTypeName(dtype));
  }
  if (out_features < 1 || in_features < 1) {
    return Fail(ErrorCode::kInvalidArgument, "[linear] expected a shape of at least [1, 1], got [{}, {}]",
                out_features, in_features);
  }
  if (out_features > kMaxFeatures || in_features > kMaxFeatures) {
    return Fail(ErrorCode::kTooLarge, "[linear] [{}, {}] is beyond any layer", out_features, in_features);
  }
  PackedShape shape{.out_features = out_features,
                    .in_features = in_features,
                    .dtype = dtype,
                    .has_bias = has_bias,
                    .type = layout->type};
  shape.panels = (out_features + kPanelColumns - 1) / kPanelColumns;
  shape.k_padded = (in_features + layout->group_k - 1) / layout->group_k * layout->group_k;
  shape.panel_bytes = static_cast<std::uint64_t>(shape.k_padded) * kPanelColumns *
                      static_cast<std::uint64_t>(layout->element_bytes);
  const std::uint64_t lane_bytes = static_cast<std::uint64_t>(shape.panels) * kPanelColumns * sizeof(float);
  const auto panels_bytes = CheckedMul(static_cast<std::uint64_t>(shape.panels), shape.panel_bytes);
  const auto total = panels_bytes ? CheckedAdd(*panels_bytes, 2 * lane_bytes) : std::nullopt;
  if (!total) {
    return Fail(ErrorCode::kTooLarge, "[linear] the size of [{}, {}] overflows", out_features, in_features);
  }
  shape.scales_offset = *panels_bytes;
  shape.bias_offset = shape.scales_offset + (dtype == DType::kI8 ? lane_bytes : 0);
  shape.total_bytes = shape.bias_offset + (has_bias ? lane_bytes : 0);
  return shape;
}

void PackedLinear::ReadRow(std::int64_t feature, float* out) const {
  const Layout layout = *LayoutOf(shape_.dtype);
  const std::byte* base = panel(feature / kPanelColumns);
  const int lane = static_cast<int>(feature % kPanelColumns);
  for (std::int64_t k = 0; k < shape_.in_features; ++k) {
    const std::int64_t index = ElementIndex(k, lane, layout.group_k);
    switch (layout.type) {
      case kTypeF32:
        out[k] = reinterpret_cast<const float*>(base)[index];
        break;
      case kTypeF16:
        out[k] = F16ToF32(reinterpret_cast<const std::uint16_t*>(base)[index]);
        break;
      case kTypeBF16:
        out[k] = BF16ToF32(reinterpret_cast<const std::uint16_t*>(base)[index]);
        break;
      default:
        out[k] = static_cast<float>(std::to_integer<int>(base[index]) - kWeightOffset) * scales()[feature];
        break;
    }
  }
}

namespace {

// --- from checkpoint tensors

Status CheckRange(const RowRange& range, std::int64_t columns, const char* what) {
  if (range.tensor == nullptr) return Fail(ErrorCode::kInvalidArgument, "[linear] {}: no tensor", what);
  const TensorView& tensor = *range.tensor;
  if (tensor.dtype != DType::kF32 && tensor.dtype != DType::kF16 && tensor.dtype != DType::kBF16) {
    return Fail(ErrorCode::kUnsupported, "[linear] {}: expected f32, f16 or bf16, got {}", what,
                DTypeName(tensor.dtype));
  }
  std::uint64_t elements = 1;
  for (const std::int64_t dim : tensor.shape) {
    const auto next = dim < 0 ? std::nullopt : CheckedMul(elements, static_cast<std::uint64_t>(dim));
    if (!next) return Fail(ErrorCode::kCorrupt, "[linear] {}: bad shape {}", what, ShapeString(tensor.shape));
    elements = *next;
  }
  if (elements > tensor.bytes.size() / SizeOf(tensor.dtype)) {
    return Fail(ErrorCode::kCorrupt, "[linear] {}: shape {} needs more than its {} bytes", what,
                ShapeString(tensor.shape), tensor.bytes.size());
  }
  const std::int64_t rows = tensor.rows();
  if (tensor.shape.empty() || tensor.cols() != columns || range.first_row < 0 || range.rows < 0 ||
      range.first_row > rows || range.rows > rows - range.first_row) {
    return Fail(ErrorCode::kInvalidArgument, "[linear] {}: expected rows [{}, {} + {}) of [*, {}], got {}",
                what, range.first_row, range.first_row, range.rows, columns, ShapeString(tensor.shape));
  }
  return {};
}

Status CheckRanges(const std::vector<RowRange>& ranges, std::int64_t out_features, std::int64_t columns,
                   const char* what) {
  std::int64_t total = 0;
  for (const RowRange& range : ranges) {
    RETURN_IF_ERROR(CheckRange(range, columns, what));
    if (__builtin_add_overflow(total, range.rows, &total)) break;
  }
  if (total != out_features) {
    return Fail(ErrorCode::kInvalidArgument, "[linear] {}: expected {} rows, got {}", what, out_features,
                total);
  }
  return {};
}

// Walks the output features [begin, end) in order and hands over which tensor row each one is.
template <typename Visit>
void ForEachRow(const std::vector<RowRange>& ranges, std::int64_t begin, std::int64_t end, Visit visit) {
  std::int64_t start = 0;  // first output feature of the range
  for (const RowRange& range : ranges) {
    const std::int64_t from = std::max(begin, start);
    const std::int64_t to = std::min(end, start + range.rows);
    for (std::int64_t feature = from; feature < to; ++feature) {
      visit(feature, *range.tensor, range.first_row + (feature - start));
    }
    start += range.rows;
  }
}

// rows: [16][in_features] f32, rows past the last feature zero. Writes one panel, padding included.
template <typename Element, typename Convert>
void WritePanel(const PackedShape& shape, const float* rows, int group_k, Element* panel, Convert convert) {
  for (int lane = 0; lane < kPanelColumns; ++lane) {
    const float* row = rows + lane * shape.in_features;
    for (std::int64_t k = 0; k < shape.k_padded; ++k) {
      panel[ElementIndex(k, lane, group_k)] = convert(k < shape.in_features ? row[k] : 0.0F);
    }
  }
}

void WriteF16Panel(const PackedShape& shape, const KernelTable& kernels, const float* rows,
                   std::uint16_t* panel) {
  for (std::int64_t k = 0; k < shape.in_features; ++k) {
    std::array<float, kPanelColumns> lanes;
    for (int lane = 0; lane < kPanelColumns; ++lane) {
      lanes[static_cast<std::size_t>(lane)] = rows[lane * shape.in_features + k];
    }
    kernels.f32_to_f16(lanes.data(), kPanelColumns, panel + k * kPanelColumns);
  }
}

// Symmetric: scale = max|w|/127 of the output feature, w rounded to nearest even. A row with a NaN or an
// infinity gets a NaN scale, so that a broken checkpoint shows.
void WriteInt8Panel(const PackedShape& shape, const float* rows, std::uint8_t* panel, float* scales) {
  for (int lane = 0; lane < kPanelColumns; ++lane) {
    const float* row = rows + lane * shape.in_features;
    float absmax = 0.0F;
    float poison = 0.0F;
    for (std::int64_t k = 0; k < shape.in_features; ++k) {
      absmax = std::max(absmax, std::fabs(row[k]));
      poison += row[k] * 0.0F;
    }
    const float inverse = absmax > kQuantFloor ? 127.0F / absmax : 0.0F;
    scales[lane] = absmax / 127.0F + poison;
    for (std::int64_t k = 0; k < shape.k_padded; ++k) {
      const float v = k < shape.in_features && poison == 0.0F ? row[k] * inverse : 0.0F;
      const int rounded = static_cast<int>(std::nearbyint(std::clamp(v, -127.0F, 127.0F)));
      panel[ElementIndex(k, lane, 4)] = static_cast<std::uint8_t>(rounded + kWeightOffset);
    }
  }
}

void PackPanel(PackedLinear& packed, const KernelTable& kernels, const LinearSource& source,
               std::int64_t panel, float* rows) {
  const PackedShape& shape = packed.shape();
  const std::int64_t begin = panel * kPanelColumns;
  const std::int64_t end = std::min(begin + kPanelColumns, shape.out_features);
  std::fill(rows + (end - begin) * shape.in_features, rows + kPanelColumns * shape.in_features, 0.0F);
  ForEachRow(source.weight, begin, end,
             [&](std::int64_t feature, const TensorView& tensor, std::int64_t row) {
               ToF32(tensor, row * shape.in_features, shape.in_features,
                     rows + (feature - begin) * shape.in_features);
             });
  std::byte* to = packed.panel(panel);
  switch (shape.type) {
    case kTypeF32:
      WritePanel(shape, rows, 1, reinterpret_cast<float*>(to), [](float v) { return v; });
      return;
    case kTypeF16:
      WriteF16Panel(shape, kernels, rows, reinterpret_cast<std::uint16_t*>(to));
      return;
    case kTypeBF16:
      WritePanel(shape, rows, 2, reinterpret_cast<std::uint16_t*>(to), F32ToBF16);
      return;
    default:
      WriteInt8Panel(shape, rows, reinterpret_cast<std::uint8_t*>(to), packed.scales() + begin);
      return;
  }
}

// --- random

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
    default:
      auto* out = reinterpret_cast<std::uint8_t*>(to);
      RandomBytes(seed, first, count, out);
      if (padded) ClearPadding(shape, panel, 4, static_cast<std::uint8_t>(kWeightOffset), out);
      std::fill_n(packed.scales() + panel * kPanelColumns, kPanelColumns, stddev / kInt8Stddev);
  }
}

Result<std::unique_ptr<PackedLinear>> AllocatePacked(const PackedShape& shape) {
  ASSIGN_OR_RETURN(AlignedBuffer buffer, AllocateChecked(shape.total_bytes, "a linear layer"));
  return std::make_unique<PackedLinear>(shape, std::move(buffer));
}

}  // namespace

Result<std::unique_ptr<PackedLinear>> PackFromSource(ThreadPool& pool, const KernelTable& kernels,
                                                     const LinearSource& source, DType dtype) {
  ASSIGN_OR_RETURN(const PackedShape shape,
                   MakePackedShape(source.out_features, source.in_features, !source.bias.empty(), dtype));
  RETURN_IF_ERROR(CheckRanges(source.weight, shape.out_features, shape.in_features, "weight"));
  if (shape.has_bias) RETURN_IF_ERROR(CheckRanges(source.bias, shape.out_features, 1, "bias"));
  ASSIGN_OR_RETURN(auto packed, AllocatePacked(shape));
  const std::uint64_t rows_floats = static_cast<std::uint64_t>(shape.in_features) * kPanelColumns;
  ASSIGN_OR_RETURN(AlignedBuffer scratch,
                   AllocateChecked(rows_floats * sizeof(float) * static_cast<std::uint64_t>(pool.threads()),
                                   "packing a linear layer"));
  std::atomic<std::int64_t> next{0};
  pool.Run([&](int thread) {
    float* rows = scratch.as<float>() + rows_floats * static_cast<std::uint64_t>(thread);
    for (std::int64_t panel = 0; (panel = next.fetch_add(1, std::memory_order_relaxed)) < shape.panels;) {
      PackPanel(*packed, kernels, source, panel, rows);
    }
  });
  if (shape.has_bias) {
    ForEachRow(source.bias, 0, shape.out_features,
               [&](std::int64_t feature, const TensorView& tensor, std::int64_t row) {
                 ToF32(tensor, row, 1, packed->bias() + feature);
               });
  }
  return packed;
}

Result<std::unique_ptr<PackedLinear>> PackRandom(ThreadPool& pool, std::int64_t out_features,
                                                 std::int64_t in_features, bool has_bias, DType dtype,
                                                 float stddev, std::uint64_t seed) {
  ASSIGN_OR_RETURN(const PackedShape shape, MakePackedShape(out_features, in_features, has_bias, dtype));
  ASSIGN_OR_RETURN(auto packed, AllocatePacked(shape));
  pool.ParallelFor(shape.panels, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t panel = begin; panel < end; ++panel) FillPanel(*packed, panel, stddev, seed);
  });
  return packed;
}

}  // namespace bloomery
