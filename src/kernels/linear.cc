#include "kernels/linear.h"

#include <algorithm>
#include <cassert>

#include "kernels/memory.h"

namespace bloomery {
namespace {

// Rows whose packed activations are held at once: one pass over the weights serves this many. 512 is a usual
// prefill step; at 57344 inputs (the widest layer of BLOOM-176B) their scratch is 112 MiB.
constexpr std::int64_t kChunkRows = 512;

// Rows that pass over one piece of weights while it stays in L2: 96 is a multiple of every kernel's row
// count, and 96 rows × 512 f32 of activations are 192 KiB, beside 128 KiB of weights in an L2 of 512 KiB or
// more.
constexpr std::int64_t kStripRows = 96;
constexpr std::int64_t kPieceWeightBytes = 128 << 10U;

// Panels of one piece: what the widest kernel takes at once.
constexpr int kGroupPanels = 4;
constexpr std::int64_t kAccStride = kGroupPanels * kPanelColumns;

// Packing fewer activations than this on one thread is faster than waking the others (a few microseconds).
constexpr std::int64_t kParallelPackElements = 32 << 10U;

std::int64_t QuantGroups(std::int64_t k) { return (k + kQuantGroup - 1) / kQuantGroup; }

}  // namespace

struct LinearRunner::Chunk {
  const Device::LinearArgs* args;
  const PackedLinear* weights;
  std::int64_t first_row;
  std::int64_t groups;  // quantisation groups along K
};

Status LinearRunner::Reserve(const PackedShape& shape) {
  const auto k = static_cast<std::uint64_t>(shape.k_padded);
  const std::uint64_t element = shape.type == kTypeI8 ? 1 : sizeof(float);
  const std::uint64_t x_bytes = k * element * kChunkRows;  // features are capped far below overflow
  if (x_bytes > x_.size_bytes()) {
    ASSIGN_OR_RETURN(x_, AllocateChecked(x_bytes, "activations of a linear layer"));
  }
  if (shape.type != kTypeI8) return {};
  const std::uint64_t group_bytes =
      static_cast<std::uint64_t>(QuantGroups(shape.k_padded)) * kChunkRows * sizeof(float);
  if (group_bytes > scales_.size_bytes()) {
    ASSIGN_OR_RETURN(scales_, AllocateChecked(group_bytes, "activation scales"));
    ASSIGN_OR_RETURN(offsets_, AllocateChecked(group_bytes, "activation scales"));
  }
  return {};
}

// Strips of kStripRows rows, each cut into the largest kernels that fit.
void LinearRunner::CutRows(KernelType type, std::int64_t rows) {
  blocks_.clear();
  strip_starts_.clear();
  for (std::int64_t strip = 0; strip < rows; strip += kStripRows) {
    strip_starts_.push_back(static_cast<std::int64_t>(blocks_.size()));
    const std::int64_t end = std::min(rows, strip + kStripRows);
    const LinearKernel* kernel = kernels_.linear[type];
    for (std::int64_t row = strip; row < end; row += kernel->rows) {
      while (kernel->rows > end - row) ++kernel;  // the last one has a single row
      blocks_.push_back({row, kernel});
    }
  }
  strip_starts_.push_back(static_cast<std::int64_t>(blocks_.size()));
}

void LinearRunner::PackBlock(const Chunk& chunk, const RowBlock& block) {
  const PackedShape& shape = chunk.weights->shape();
  const int rows = block.kernel->rows;
  const float* x = chunk.args->x + (chunk.first_row + block.row) * chunk.args->x_stride;
  if (shape.type == kTypeI8) {
    for (int row = 0; row < rows; ++row) {
      kernels_.quantize_row({.x = x + row * chunk.args->x_stride,
                             .k = shape.in_features,
                             .k_padded = shape.k_padded,
                             .rows = rows,
                             .row = row,
                             .out = x_.as<std::int8_t>() + block.row * shape.k_padded,
                             .scales = scales_.as<float>() + block.row * chunk.groups,
                             .offsets = offsets_.as<std::int32_t>() + block.row * chunk.groups});
    }
    return;
  }
  float* out = x_.as<float>() + block.row * shape.k_padded;
  for (std::int64_t k = 0; k < shape.in_features; ++k) {
    for (int row = 0; row < rows; ++row) out[k * rows + row] = x[row * chunk.args->x_stride + k];
  }
  std::fill(out + shape.in_features * rows, out + shape.k_padded * rows, 0.0F);
}

void LinearRunner::PackRows(const Chunk& chunk) {
  const auto count = static_cast<std::int64_t>(blocks_.size());
  const auto pack = [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) PackBlock(chunk, blocks_[static_cast<std::size_t>(i)]);
  };
  const std::int64_t rows = blocks_.back().row + blocks_.back().kernel->rows;
  if (rows * chunk.weights->shape().k_padded < kParallelPackElements) {
    pack(0, count);
  } else {
    pool_.ParallelFor(count, 1, pack);
  }
}

// `panels` panels × the rows of one strip. K runs in pieces that keep the weights in L2; acc carries the sums
// from piece to piece, so the order of a sum does not depend on the cut.
void LinearRunner::RunStrip(const Chunk& chunk, std::int64_t first_panel, int panels,
                            std::int64_t first_block, std::int64_t last_block) {
  const PackedShape& shape = chunk.weights->shape();
  alignas(64) float acc[kStripRows * kAccStride];  // written by the first piece of K before it is read
  const auto k_bytes = static_cast<std::int64_t>(shape.panel_bytes) / shape.k_padded;
  const std::int64_t x_bytes = shape.type == kTypeI8 ? 1 : sizeof(float);
  const std::int64_t piece =
      last_block - first_block == 1 ? shape.k_padded : kPieceWeightBytes / (kGroupPanels * k_bytes);
  const RowBlock& first = blocks_[static_cast<std::size_t>(first_block)];
  std::int64_t rows = 0;
  for (std::int64_t k = 0; k < shape.k_padded; k += piece) {
    for (std::int64_t i = first_block; i < last_block; ++i) {
      const RowBlock& block = blocks_[static_cast<std::size_t>(i)];
      const LinearKernel& kernel = *block.kernel;
      const std::int64_t group = block.row * chunk.groups + k / kQuantGroup * kernel.rows;
      LinearBlock call{.weights = chunk.weights->panel(first_panel) + k * k_bytes,
                       .panel_bytes = static_cast<std::int64_t>(shape.panel_bytes),
                       .k = std::min(piece, shape.k_padded - k),
                       .x = x_.data() + (block.row * shape.k_padded + k * kernel.rows) * x_bytes,
                       .x_scales = shape.type == kTypeI8 ? scales_.as<float>() + group : nullptr,
                       .x_offsets = shape.type == kTypeI8 ? offsets_.as<std::int32_t>() + group : nullptr,
                       .acc = acc + (block.row - first.row) * kAccStride,
                       .acc_stride = kAccStride,
                       .resume = k > 0};
      for (int p = 0; p < panels;) {
        const bool wide = panels - p >= kernel.panels;
        (wide ? kernel.wide : kernel.single)(call);
        const int done = wide ? kernel.panels : 1;
        p += done;
        call.weights = static_cast<const std::byte*>(call.weights) + done * call.panel_bytes;
        call.acc += done * kPanelColumns;
      }
      rows = block.row + kernel.rows - first.row;
    }
  }
  const Device::LinearArgs& args = *chunk.args;
  const std::int64_t row = chunk.first_row + first.row;
  for (int p = 0; p < panels; ++p) {
    const std::int64_t column = (first_panel + p) * kPanelColumns;
    const float* scales = chunk.weights->scales();
    const float* bias = chunk.weights->bias();
    kernels_.epilogue(
        {.acc = acc + p * kPanelColumns,
         .acc_stride = kAccStride,
         .scales = scales == nullptr ? nullptr : scales + column,
         .bias = bias == nullptr ? nullptr : bias + column,
         .residual = args.residual == nullptr ? nullptr : args.residual + row * args.residual_stride + column,
         .residual_stride = args.residual_stride,
         .y = args.y + row * args.y_stride + column,
         .y_stride = args.y_stride,
         .rows = rows,
         .columns = static_cast<int>(std::min<std::int64_t>(kPanelColumns, shape.out_features - column)),
         .activation = static_cast<int>(args.activation)});
  }
}

void LinearRunner::Run(const Device::LinearArgs& args) {
  const auto& weights = static_cast<const PackedLinear&>(*args.weights);
  const PackedShape& shape = weights.shape();
  assert(args.x_stride >= shape.in_features && args.y_stride >= shape.out_features);
  const std::int64_t groups = (shape.panels + kGroupPanels - 1) / kGroupPanels;
  // Contiguous runs of panels per thread, so that memory is read in order; several per thread, so that one
  // delayed thread does not hold up the rest.
  const std::int64_t grain = std::max<std::int64_t>(1, groups / (pool_.threads() * std::int64_t{8}));
  for (std::int64_t first_row = 0; first_row < args.rows; first_row += kChunkRows) {
    const Chunk chunk{&args, &weights, first_row, QuantGroups(shape.k_padded)};
    CutRows(shape.type, std::min(kChunkRows, args.rows - first_row));
    PackRows(chunk);
    pool_.ParallelFor(groups, grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t group = begin; group < end; ++group) {
        const std::int64_t panel = group * kGroupPanels;
        const int panels = static_cast<int>(std::min<std::int64_t>(kGroupPanels, shape.panels - panel));
        for (std::size_t strip = 0; strip + 1 < strip_starts_.size(); ++strip) {
          RunStrip(chunk, panel, panels, strip_starts_[strip], strip_starts_[strip + 1]);
        }
      }
    });
  }
}

}  // namespace bloomery
