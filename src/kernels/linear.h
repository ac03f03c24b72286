// Cuts a linear layer's product into cache-sized pieces for the kernels of one instruction set: packs (and
// for int8 quantises) the activations, walks panels, K and rows, applies bias, activation and residual. Left
// out: the weights' own layout (packed_linear.h) and the inner loops (generic/linear_body.h).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/thread_pool.h"
#include "kernels/kernel_table.h"
#include "kernels/packed_linear.h"
#include "tensor/aligned_buffer.h"
#include "tensor/device.h"

namespace bloomery {

// Memory for packed activations, reused from call to call. One per device; used by its driving thread.
class LinearRunner {
 public:
  LinearRunner(ThreadPool& pool, const KernelTable& kernels) : pool_(pool), kernels_(kernels) {}

  // Grows the scratch memory to what Run needs for layers of this shape, so that Run cannot fail.
  // kOutOfMemory.
  Status Reserve(const PackedShape& shape);

  // Device::Linear. The weights' shape must have been reserved.
  void Run(const Device::LinearArgs& args);

 private:
  // A kernel's share of the rows: kernel->rows rows from `row` on (counted within the chunk).
  struct RowBlock {
    std::int64_t row = 0;
    const LinearKernel* kernel = nullptr;
  };
  // Neighbouring panels that are worked on together.
  struct Tile {
    std::int64_t first_panel = 0;
    int panels = 0;
  };
  struct Chunk;  // some rows of a call

  void CutRows(KernelType type, std::int64_t rows);
  void PackRows(const Chunk& chunk);
  void PackBlock(const Chunk& chunk, const RowBlock& block);
  void RunStrip(const Chunk& chunk, const Tile& tile, std::span<const RowBlock> blocks);
  void RunBlock(const Chunk& chunk, const Tile& tile, const RowBlock& block, std::int64_t k,
                std::int64_t length, float* acc);
  void PrefetchOutputs(const Chunk& chunk, const Tile& tile, const RowBlock& block) const;
  void Finish(const Chunk& chunk, const Tile& tile, std::int64_t first_row, std::int64_t rows,
              const float* acc) const;

  ThreadPool& pool_;
  const KernelTable& kernels_;
  std::vector<RowBlock> blocks_;           // of the current chunk
  std::vector<std::size_t> strip_starts_;  // index into blocks_ of each strip's first, and the end
  AlignedBuffer x_;                        // packed activations of a chunk
  AlignedBuffer scales_;                   // int8, int4: [block][group][rows] f32
  AlignedBuffer sums_;                     // int8: [block][group][rows] int32; int4: [block][k/32][rows] f32
};

}  // namespace bloomery
