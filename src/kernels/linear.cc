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

// Panels of one tile: what the widest kernel takes at once.
constexpr int kGroupPanels = 4;
constexpr std::int64_t kAccStride = kGroupPanels * kPanelColumns;

// Packing fewer activations than this on one thread is faster than waking the others (a few microseconds).
constexpr std::int64_t kParallelPackElements = 32 << 10U;

// Values along K in a piece: kPieceWeightBytes of a tile, in whole groups.
std::int64_t PieceOf(const PackedShape& shape) {
  const std::int64_t group_bytes = shape.PanelOffset(kQuantGroup) * kGroupPanels;
  return std::max<std::int64_t>(1, kPieceWeightBytes / group_bytes) * kQuantGroup;
}

std::int64_t QuantGroups(std::int64_t k) { return (k + kQuantGroup - 1) / kQuantGroup; }

// Values of a packed row of activations: whole groups.
std::int64_t PackedRow(const PackedShape& shape) { return QuantGroups(shape.k_padded) * kQuantGroup; }

// Bytes of one packed activation.
std::int64_t PackedBytes(const PackedShape& shape, const LinearKernel& kernel) {
  if (shape.quantised()) return 1;
  return kernel.run == 0 ? sizeof(float) : sizeof(std::uint16_t);
}

}  // namespace

struct LinearRunner::Chunk {
  const Device::LinearArgs* args;
  const PackedLinear* weights;
  std::int64_t first_row;
  std::int64_t groups;  // quantisation groups along K
};

Status LinearRunner::Reserve(const PackedShape& shape) {
  const auto k = static_cast<std::uint64_t>(PackedRow(shape));
  const std::uint64_t element = shape.quantised() ? 1 : sizeof(float);
  const std::uint64_t x_bytes = k * element * kChunkRows;  // features are capped far below overflow
  if (x_bytes > x_.size_bytes()) {
    ASSIGN_OR_RETURN(x_, AllocateChecked(x_bytes, "activations of a linear layer"));
  }
  if (!shape.quantised()) return {};
  const std::uint64_t group_bytes =
      static_cast<std::uint64_t>(QuantGroups(shape.k_padded)) * kChunkRows * sizeof(float);
  if (group_bytes > scales_.size_bytes()) {
    ASSIGN_OR_RETURN(scales_, AllocateChecked(group_bytes, "activation scales"));
    // Holds int8's offsets or int4's sums, of which there are more.
    ASSIGN_OR_RETURN(sums_, AllocateChecked(group_bytes * kNibbleGroups, "activation scales"));
  }
  return {};
}

// Strips of kStripRows rows, each cut into kernels as kernel_table.h says.
void LinearRunner::CutRows(KernelType type, std::int64_t rows) {
  blocks_.clear();
  strip_starts_.clear();
  for (std::int64_t strip = 0; strip < rows; strip += kStripRows) {
    strip_starts_.push_back(blocks_.size());
    const std::int64_t end = std::min(rows, strip + kStripRows);
    const LinearKernels& kernels = kernels_.linear[type];
    for (std::int64_t row = strip; row < end; row += blocks_.back().kernel->rows) {
      const std::int64_t left = end - row;
      const LinearKernel* kernel = kernels.few;
      while (kernel->rows > left) ++kernel;  // the last has a single row
      const bool many = left > kernels.few[0].rows && left >= kernels.many.rows;
      blocks_.push_back({row, many ? &kernels.many : kernel});
    }
  }
  strip_starts_.push_back(blocks_.size());
}

void LinearRunner::PackBlock(const Chunk& chunk, const RowBlock& block) {
  const PackedShape& shape = chunk.weights->shape();
  const int rows = block.kernel->rows;
  const float* x = chunk.args->x + (chunk.first_row + block.row) * chunk.args->x_stride;
  if (shape.quantised()) {
    const bool int4 = shape.type == kTypeI4;
    for (int row = 0; row < rows; ++row) {
      kernels_.quantize_row(
          {.x = x + row * chunk.args->x_stride,
           .k = shape.in_features,
           .rows = rows,
           .row = row,
           .run = block.kernel->run,
           .out = x_.as<std::int8_t>() + block.row * PackedRow(shape),
           .scales = scales_.as<float>() + block.row * chunk.groups,
           .offsets = int4 ? nullptr : sums_.as<std::int32_t>() + block.row * chunk.groups,
           .sums = int4 ? sums_.as<float>() + block.row * chunk.groups * kNibbleGroups : nullptr});
    }
    return;
  }
  if (block.kernel->run > 0) {
    for (int row = 0; row < rows; ++row) {
      kernels_.round_row({.x = x + row * chunk.args->x_stride,
                          .k = shape.in_features,
                          .rows = rows,
                          .row = row,
                          .run = block.kernel->run,
                          .out = x_.as<std::uint16_t>() + block.row * PackedRow(shape)});
    }
    return;
  }
  float* out = x_.as<float>() + block.row * PackedRow(shape);
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

// Panels [tile.first_panel, + tile.panels) × rows of one block, K from `k` on for `length`.
void LinearRunner::RunBlock(const Chunk& chunk, const Tile& tile, const RowBlock& block, std::int64_t k,
                            std::int64_t length, float* acc) {
  const PackedShape& shape = chunk.weights->shape();
  const LinearKernel& kernel = *block.kernel;
  const std::int64_t x_bytes = PackedBytes(shape, kernel);
  const std::int64_t group = block.row * chunk.groups + k / kQuantGroup * kernel.rows;
  LinearBlock call{.weights = chunk.weights->panel(tile.first_panel) + shape.PanelOffset(k),
                   .panel_bytes = static_cast<std::int64_t>(shape.panel_bytes),
                   .k = length,
                   .x = x_.data() + (block.row * PackedRow(shape) + k * kernel.rows) * x_bytes,
                   .x_scales = shape.quantised() ? scales_.as<float>() + group : nullptr,
                   .x_offsets = shape.type == kTypeI8 ? sums_.as<std::int32_t>() + group : nullptr,
                   .x_sums = shape.type == kTypeI4 ? sums_.as<float>() + group * kNibbleGroups : nullptr,
                   .acc = acc,
                   .acc_stride = kAccStride,
                   .resume = k > 0};
  for (int p = 0; p < tile.panels;) {
    const bool wide = tile.panels - p >= kernel.panels;
    (wide ? kernel.wide : kernel.single)(call);
    const int done = wide ? kernel.panels : 1;
    p += done;
    call.weights = static_cast<const std::byte*>(call.weights) + done * call.panel_bytes;
    call.acc += done * kPanelColumns;
  }
}

// Bias, activation and residual of a tile's sums.
void LinearRunner::Finish(const Chunk& chunk, const Tile& tile, std::int64_t first_row, std::int64_t rows,
                          const float* acc) const {
  const Device::LinearArgs& args = *chunk.args;
  const std::int64_t row = chunk.first_row + first_row;
  const float* scales = chunk.weights->scales();
  const float* bias = chunk.weights->bias();
  const std::int64_t column = tile.first_panel * kPanelColumns;
  const std::int64_t columns =
      std::min<std::int64_t>(tile.panels * kPanelColumns, chunk.weights->out_features() - column);
  kernels_.epilogue(
      {.acc = acc,
       .acc_stride = kAccStride,
       .scales = scales == nullptr ? nullptr : scales + column,
       .bias = bias == nullptr ? nullptr : bias + column,
       .residual = args.residual == nullptr ? nullptr : args.residual + row * args.residual_stride + column,
       .residual_stride = args.residual_stride,
       .y = args.y + row * args.y_stride + column,
       .y_stride = args.y_stride,
       .rows = rows,
       .columns = static_cast<int>(columns),
       .activation = static_cast<int>(args.activation)});
}

// What Finish reads and writes, asked for a tile's time ahead: a step of few rows would wait for memory here,
// and the thread's next tile behind it.
void LinearRunner::PrefetchOutputs(const Chunk& chunk, const Tile& tile, const RowBlock& block) const {
  const Device::LinearArgs& args = *chunk.args;
  const std::int64_t begin = tile.first_panel * kPanelColumns;
  for (std::int64_t column = begin; column < begin + tile.panels * kPanelColumns; column += kPanelColumns) {
    if (chunk.weights->scales() != nullptr) __builtin_prefetch(chunk.weights->scales() + column);
    if (chunk.weights->bias() != nullptr) __builtin_prefetch(chunk.weights->bias() + column);
    for (int r = 0; r < block.kernel->rows; ++r) {
      const std::int64_t row = chunk.first_row + block.row + r;
      __builtin_prefetch(args.y + row * args.y_stride + column, /*rw=*/1);
      if (args.residual != nullptr) __builtin_prefetch(args.residual + row * args.residual_stride + column);
    }
  }
}

// A tile × the rows of one strip. K runs in pieces that keep the weights in L2; acc carries the sums from
// piece to piece, so the order of a sum does not depend on the cut.
void LinearRunner::RunStrip(const Chunk& chunk, const Tile& tile, std::span<const RowBlock> blocks) {
  const PackedShape& shape = chunk.weights->shape();
  alignas(64) float acc[kStripRows * kAccStride];  // written by the first piece of K before it is read
  const std::int64_t first_row = blocks.front().row;
  const bool few = blocks.size() == 1 && blocks.front().kernel != &kernels_.linear[shape.type].many;
  if (few) PrefetchOutputs(chunk, tile, blocks.front());
  // A single block passes over the weights once: nothing to keep.
  const std::int64_t piece = blocks.size() == 1 ? shape.k_padded : PieceOf(shape);
  for (std::int64_t k = 0; k < shape.k_padded; k += piece) {
    for (const RowBlock& block : blocks) {
      RunBlock(chunk, tile, block, k, std::min(piece, shape.k_padded - k),
               acc + (block.row - first_row) * kAccStride);
    }
  }
  Finish(chunk, tile, first_row, blocks.back().row + blocks.back().kernel->rows - first_row, acc);
}

void LinearRunner::Run(const Device::LinearArgs& args) {
  const auto& weights = static_cast<const PackedLinear&>(*args.weights);
  const PackedShape& shape = weights.shape();
  assert(args.x_stride >= shape.in_features && args.y_stride >= shape.out_features);
  const std::int64_t groups = (shape.panels + kGroupPanels - 1) / kGroupPanels;
  for (std::int64_t first_row = 0; first_row < args.rows; first_row += kChunkRows) {
    const Chunk chunk{&args, &weights, first_row, QuantGroups(shape.k_padded)};
    CutRows(shape.type, std::min(kChunkRows, args.rows - first_row));
    PackRows(chunk);
    pool_.ParallelStream(groups, [&](int, std::int64_t group) {
      const std::int64_t panel = group * kGroupPanels;
      const Tile tile{panel, static_cast<int>(std::min<std::int64_t>(kGroupPanels, shape.panels - panel))};
      for (std::size_t strip = 0; strip + 1 < strip_starts_.size(); ++strip) {
        const std::size_t start = strip_starts_[strip];
        RunStrip(chunk, tile, std::span(blocks_).subspan(start, strip_starts_[strip + 1] - start));
      }
    });
  }
}

}  // namespace bloomery
