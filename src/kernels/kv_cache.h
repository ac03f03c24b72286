// The paged KV cache of the CPU: its memory, storing tokens, copying a block. Left out: reading it
// (attention.h).
//
//   keys    [layer][block][kv_head][head_dim][16 tokens]   16 scores come out of one chain of multiply-adds
//   values  [layer][block][kv_head][16 tokens][head_dim]
//   int8: each [kv_head] ends with the 16 tokens' scales in f32
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "base/result.h"
#include "base/thread_pool.h"
#include "kernels/kernel_table.h"
#include "tensor/aligned_buffer.h"
#include "tensor/device.h"

namespace bloomery {

// Written and read by the device's operations only; one thread drives them.
class PagedKvCache final : public KvCache {
 public:
  // kInvalidArgument for a shape that is not positive or a dtype other than f32, f16, bf16, int8; kTooLarge
  // where sizes overflow; kOutOfMemory where it exceeds what the machine has left. Pages are touched as
  // tokens come.
  static Result<std::unique_ptr<PagedKvCache>> Make(const KvCacheShape& shape, std::int64_t blocks,
                                                    int threads);

  const KvCacheShape& shape() const override { return shape_; }
  std::int64_t blocks() const override { return blocks_; }

  // Bytes of one block and head, of one block, of one layer: the same for keys and for values.
  std::uint64_t head_bytes() const { return head_bytes_; }
  std::uint64_t block_bytes() const { return block_bytes_; }
  std::uint64_t layer_bytes() const { return block_bytes_ * static_cast<std::uint64_t>(blocks_); }
  std::byte* keys(int layer) { return keys_.data() + static_cast<std::uint64_t>(layer) * layer_bytes(); }
  std::byte* values(int layer) { return values_.data() + static_cast<std::uint64_t>(layer) * layer_bytes(); }
  const std::byte* keys(int layer) const { return const_cast<PagedKvCache*>(this)->keys(layer); }
  const std::byte* values(int layer) const { return const_cast<PagedKvCache*>(this)->values(layer); }
  // A thread's [kAttentionRows][head_dim rounded up to 16] floats.
  float* scratch(int thread) const;

 private:
  PagedKvCache(const KvCacheShape& shape, std::int64_t blocks) : shape_(shape), blocks_(blocks) {}

  KvCacheShape shape_;
  std::int64_t blocks_ = 0;
  std::uint64_t head_bytes_ = 0;
  std::uint64_t block_bytes_ = 0;
  AlignedBuffer keys_;
  AlignedBuffer values_;
  mutable AlignedBuffer scratch_;  // per thread
};

// The kernels' name for a cache's dtype.
KernelType KernelTypeOf(const PagedKvCache& cache);

// Device::StoreKv.
void StoreKvRows(ThreadPool& pool, const KernelTable& kernels, PagedKvCache& cache, int layer, const float* k,
                 const float* v, std::int64_t stride, std::span<const SequenceSlice> slices);

// Device::CopyKvBlock.
void CopyBlock(ThreadPool& pool, PagedKvCache& cache, std::int32_t from, std::int32_t to);

}  // namespace bloomery
