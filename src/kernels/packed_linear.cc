#include "kernels/packed_linear.h"

#include <optional>

#include "kernels/int4.h"
#include "kernels/memory.h"

namespace bloomery {
namespace {

struct Layout {
  KernelType type;
  int group_k;      // values along K that are packed together: K is padded to a multiple
  int group_bytes;  // that they take in one panel
};

std::optional<Layout> LayoutOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return Layout{kTypeF32, 1, 4 * kPanelColumns};
    case DType::kF16:
      return Layout{kTypeF16, 1, 2 * kPanelColumns};
    case DType::kBF16:
      return Layout{kTypeBF16, 2, 4 * kPanelColumns};
    case DType::kI8:
      return Layout{kTypeI8, 4, 4 * kPanelColumns};
    case DType::kI4:
      return Layout{kTypeI4, kQuantGroup, kNibbleGroupBytes};
    default:
      return std::nullopt;
  }
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
  shape.group_k = layout->group_k;
  shape.group_bytes = layout->group_bytes;
  shape.panel_bytes = static_cast<std::uint64_t>(shape.k_padded / shape.group_k * shape.group_bytes);
  const std::uint64_t lane_bytes = static_cast<std::uint64_t>(shape.panels) * kPanelColumns * sizeof(float);
  const auto panels_bytes = CheckedMul(static_cast<std::uint64_t>(shape.panels), shape.panel_bytes);
  const auto total = panels_bytes ? CheckedAdd(*panels_bytes, 2 * lane_bytes) : std::nullopt;
  if (!total) {
    return Fail(ErrorCode::kTooLarge, "[linear] the size of [{}, {}] overflows", out_features, in_features);
  }
  shape.scales_offset = *panels_bytes;
  shape.bias_offset = shape.scales_offset + (shape.quantised() ? lane_bytes : 0);
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
      case kTypeI4:
        out[k] = Int4Value(reinterpret_cast<const std::uint8_t*>(base), k, lane) * scales()[feature];
        break;
      default:
        out[k] = static_cast<float>(std::to_integer<int>(base[index]) - kWeightOffset) * scales()[feature];
        break;
    }
  }
}

Result<std::unique_ptr<PackedLinear>> PackedLinear::Allocate(const PackedShape& shape) {
  std::unique_ptr<PackedLinear> packed(new PackedLinear(shape));
  ASSIGN_OR_RETURN(packed->buffer_, AllocateChecked(shape.total_bytes, "a linear layer"));
  packed->PointAt(shape, packed->buffer_.data(), 0);
  return packed;
}

Result<std::unique_ptr<PackedLinear>> PackedLinear::Map(const MappedLinear& mapped) {
  ASSIGN_OR_RETURN(const PackedShape whole,
                   MakePackedShape(mapped.out_features, mapped.in_features, mapped.has_bias, mapped.dtype));
  if (mapped.bytes.size() < whole.total_bytes) {
    return Fail(ErrorCode::kCorrupt, "[linear] {} bytes, {} [{}, {}] takes {}", mapped.bytes.size(),
                DTypeName(mapped.dtype), mapped.out_features, mapped.in_features, whole.total_bytes);
  }
  if (reinterpret_cast<std::uintptr_t>(mapped.bytes.data()) % AlignedBuffer::kAlignment != 0)
    return Fail(ErrorCode::kCorrupt, "[linear] packed bytes are not aligned to {}",
                AlignedBuffer::kAlignment);
  const std::int64_t end = mapped.first_row + mapped.rows;
  if (mapped.first_row < 0 || mapped.first_row % kPanelColumns != 0 || mapped.rows < 1 ||
      end > mapped.out_features || (end % kPanelColumns != 0 && end != mapped.out_features)) {
    return Fail(ErrorCode::kInvalidArgument,
                "[linear] rows [{}, {}) of {} cannot be cut out: they lie together in steps of {}",
                mapped.first_row, end, mapped.out_features, kPanelColumns);
  }
  ASSIGN_OR_RETURN(const PackedShape shape,
                   MakePackedShape(mapped.rows, mapped.in_features, mapped.has_bias, mapped.dtype));
  std::unique_ptr<PackedLinear> packed(new PackedLinear(shape));
  packed->owner_ = mapped.owner;
  packed->PointAt(whole, mapped.bytes.data(), mapped.first_row);
  return packed;
}

void PackedLinear::PointAt(const PackedShape& whole, const std::byte* base, std::int64_t first_row) {
  panels_ = base + static_cast<std::uint64_t>(first_row / kPanelColumns) * whole.panel_bytes;
  const auto floats = [&](bool present, std::uint64_t offset) {
    return present ? reinterpret_cast<const float*>(base + offset) + first_row : nullptr;
  };
  scales_ = floats(whole.quantised(), whole.scales_offset);
  bias_ = floats(whole.has_bias, whole.bias_offset);
}

}  // namespace bloomery
