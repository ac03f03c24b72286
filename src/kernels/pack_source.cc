// Packing checkpoint tensors: checks of what the file says, conversion, one panel at a time on every thread.
#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <optional>

#include "kernels/int4.h"
#include "kernels/memory.h"
#include "kernels/packed_linear.h"
#include "kernels/round.h"

namespace bloomery {
namespace {

// `transposed`: the tensor is [columns, *], and the range is of its columns.
Status CheckRange(const RowRange& range, std::int64_t columns, bool transposed, const char* what) {
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
  if (tensor.pieces == nullptr && elements > tensor.bytes.size() / SizeOf(tensor.dtype)) {
    return Fail(ErrorCode::kCorrupt, "[linear] {}: shape {} needs more than its {} bytes", what,
                ShapeString(tensor.shape), tensor.bytes.size());
  }
  const std::int64_t rows = transposed ? tensor.cols() : tensor.rows();
  const std::int64_t row_size = transposed ? tensor.rows() : tensor.cols();
  if (tensor.shape.empty() || row_size != columns || range.first_row < 0 || range.rows < 0 ||
      range.first_row > rows || range.rows > rows - range.first_row) {
    return Fail(ErrorCode::kInvalidArgument, "[linear] {}: expected rows [{}, {} + {}) of [*, {}]{}, got {}",
                what, range.first_row, range.first_row, range.rows, columns, transposed ? " transposed" : "",
                ShapeString(tensor.shape));
  }
  return {};
}

Status CheckRanges(const std::vector<RowRange>& ranges, std::int64_t out_features, std::int64_t columns,
                   bool transposed, const char* what) {
  std::int64_t total = 0;
  for (const RowRange& range : ranges) {
    RETURN_IF_ERROR(CheckRange(range, columns, transposed, what));
    if (__builtin_add_overflow(total, range.rows, &total)) break;
  }
  if (total != out_features) {
    return Fail(ErrorCode::kInvalidArgument, "[linear] {}: expected {} rows, got {}", what, out_features,
                total);
  }
  return {};
}

// Walks the output features [begin, end) in order and hands over runs of them that are consecutive rows of
// one tensor: the first feature, the tensor, its first row, how many.
template <typename Visit>
void ForEachRun(const std::vector<RowRange>& ranges, std::int64_t begin, std::int64_t end, Visit visit) {
  std::int64_t start = 0;  // first output feature of the range
  for (const RowRange& range : ranges) {
    const std::int64_t from = std::max(begin, start);
    const std::int64_t to = std::min(end, start + range.rows);
    if (from < to) visit(from, *range.tensor, range.first_row + (from - start), to - from);
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
      panel[ElementIndex(k, lane, 4)] =
          static_cast<std::uint8_t>(RoundNear(std::clamp(v, -127.0F, 127.0F)) + kWeightOffset);
    }
  }
}

std::int64_t Columns(const LinearSource& source) {
  return source.columns > 0 ? source.columns : source.in_features;
}

Status CheckWeight(const LinearSource& source) {
  const std::int64_t columns = Columns(source);
  if (source.first_column < 0 || source.first_column > columns - source.in_features) {
    return Fail(ErrorCode::kInvalidArgument, "[linear] weight: expected columns [{}, {} + {}) of {}",
                source.first_column, source.first_column, source.in_features, columns);
  }
  return CheckRanges(source.weight, source.out_features, columns, source.transposed, "weight");
}

// Rows of one of the source's tensors as f32, out: [count][in_features].
void ReadTensorRows(const KernelTable& kernels, const LinearSource& source, const TensorView& tensor,
                    std::int64_t row, std::int64_t count, float* out) {
  if (tensor.pieces != nullptr) {
    ReadPieces(tensor, row, count, source.first_column, source.in_features, out, source.in_features);
    return;
  }
  for (std::int64_t r = 0; r < count; ++r) {
    const std::int64_t first = (row + r) * Columns(source) + source.first_column;
    if (tensor.dtype == DType::kF16) {
      kernels.f16_to_f32(tensor.bytes.data() + first * 2, source.in_features, out + r * source.in_features);
    } else {
      ToF32(tensor, first, source.in_features, out + r * source.in_features);
    }
  }
}

// The same of a tensor that is [in, out]: a panel's worth of columns at a time, so that what lies together is
// read together. count ≤ kPanelColumns.
void ReadTensorColumns(const LinearSource& source, const TensorView& tensor, std::int64_t column,
                       std::int64_t count, float* out) {
  std::array<float, kPanelColumns> values{};
  for (std::int64_t k = 0; k < source.in_features; ++k) {
    ToF32(tensor, (source.first_column + k) * tensor.cols() + column, count, values.data());
    for (std::int64_t c = 0; c < count; ++c)
      out[c * source.in_features + k] = values[static_cast<std::size_t>(c)];
  }
}

// Output features [begin, end) as f32, rows: [end − begin][in_features]. end − begin ≤ kPanelColumns.
void ReadFeatures(const KernelTable& kernels, const LinearSource& source, std::int64_t begin,
                  std::int64_t end, float* rows) {
  ForEachRun(source.weight, begin, end,
             [&](std::int64_t feature, const TensorView& tensor, std::int64_t row, std::int64_t count) {
               float* to = rows + (feature - begin) * source.in_features;
               if (source.transposed) {
                 ReadTensorColumns(source, tensor, row, count, to);
               } else {
                 ReadTensorRows(kernels, source, tensor, row, count, to);
               }
             });
}

void PackPanel(PackedLinear& packed, const KernelTable& kernels, const LinearSource& source,
               std::int64_t panel, float* rows) {
  const PackedShape& shape = packed.shape();
  const std::int64_t begin = panel * kPanelColumns;
  const std::int64_t end = std::min(begin + kPanelColumns, shape.out_features);
  std::fill(rows + (end - begin) * shape.in_features, rows + kPanelColumns * shape.in_features, 0.0F);
  ReadFeatures(kernels, source, begin, end, rows);
  for (std::int64_t feature = begin; feature < end; ++feature) {
    float* row = rows + (feature - begin) * shape.in_features;
    for (std::size_t k = 0; k < source.in_scale.size(); ++k) row[k] *= source.in_scale[k];
    if (source.out_scale.empty()) continue;
    const float scale = source.out_scale[static_cast<std::size_t>(feature)];
    for (std::int64_t k = 0; k < shape.in_features; ++k) row[k] *= scale;
  }
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
    case kTypeI4:
      WriteInt4Panel(shape, rows, reinterpret_cast<std::uint8_t*>(to), packed.scales() + begin);
      return;
    default:
      WriteInt8Panel(shape, rows, reinterpret_cast<std::uint8_t*>(to), packed.scales() + begin);
      return;
  }
}

}  // namespace

Result<LinearPeaks> PeaksOfSource(ThreadPool& pool, const KernelTable& kernels, const LinearSource& source) {
  RETURN_IF_ERROR(CheckWeight(source));
  const auto columns = static_cast<std::size_t>(source.in_features);
  const auto threads = static_cast<std::size_t>(pool.threads());
  LinearPeaks peaks{std::vector<float>(columns),
                    std::vector<float>(static_cast<std::size_t>(source.out_features))};
  // Each thread has rows of its own and its own largest values.
  std::vector<float> rows(threads * kPanelColumns * columns);
  std::vector<float> largest(threads * columns);
  std::atomic<std::int64_t> next{0};
  pool.Run([&](int thread) {
    float* panel_rows = rows.data() + static_cast<std::size_t>(thread) * kPanelColumns * columns;
    float* mine = largest.data() + static_cast<std::size_t>(thread) * columns;
    for (std::int64_t panel = 0;
         (panel = next.fetch_add(kPanelColumns, std::memory_order_relaxed)) < source.out_features;) {
      const std::int64_t end = std::min(panel + kPanelColumns, source.out_features);
      ReadFeatures(kernels, source, panel, end, panel_rows);
      for (std::int64_t feature = panel; feature < end; ++feature) {
        const float* row = panel_rows + static_cast<std::size_t>(feature - panel) * columns;
        float peak = 0;
        for (std::size_t k = 0; k < columns; ++k) {
          const float magnitude = std::fabs(row[k]);
          peak = std::max(peak, magnitude);
          mine[k] = std::max(mine[k], magnitude);
        }
        peaks.out[static_cast<std::size_t>(feature)] = peak;
      }
    }
  });
  for (std::size_t thread = 0; thread < threads; ++thread) {
    for (std::size_t k = 0; k < columns; ++k)
      peaks.in[k] = std::max(peaks.in[k], largest[thread * columns + k]);
  }
  return peaks;
}

Result<std::unique_ptr<PackedLinear>> PackFromSource(ThreadPool& pool, const KernelTable& kernels,
                                                     const LinearSource& source, DType dtype) {
  ASSIGN_OR_RETURN(const PackedShape shape,
                   MakePackedShape(source.out_features, source.in_features, !source.bias.empty(), dtype));
  RETURN_IF_ERROR(CheckWeight(source));
  if (shape.has_bias) RETURN_IF_ERROR(CheckRanges(source.bias, shape.out_features, 1, false, "bias"));
  ASSIGN_OR_RETURN(auto packed, PackedLinear::Allocate(shape));
  const std::uint64_t rows_floats = static_cast<std::uint64_t>(shape.in_features) * kPanelColumns;
  ASSIGN_OR_RETURN(AlignedBuffer scratch,
                   AllocateChecked(rows_floats * sizeof(float) * static_cast<std::uint64_t>(pool.threads()),
                                   "packing a linear layer"));
  pool.ParallelStream(shape.panels, [&](int thread, std::int64_t panel) {
    float* rows = scratch.as<float>() + rows_floats * static_cast<std::uint64_t>(thread);
    PackPanel(*packed, kernels, source, panel, rows);
  });
  if (shape.has_bias) {
    ForEachRun(source.bias, 0, shape.out_features,
               [&](std::int64_t feature, const TensorView& tensor, std::int64_t row, std::int64_t count) {
                 ToF32(tensor, row, count, packed->bias() + feature);
               });
    for (std::size_t f = 0; f < source.out_scale.size(); ++f) packed->bias()[f] *= source.out_scale[f];
  }
  return packed;
}

}  // namespace bloomery
