#include "kernels/attention.h"

#include <algorithm>
#include <atomic>
#include <cassert>

#include "kernels/kv_cache.h"

namespace bloomery {
namespace {

// Rows of a slice that one task takes: they share the keys and values in L2; more would leave threads idle at
// the end of a short prefill.
constexpr std::int64_t kTaskRows = 16;

}  // namespace

void AttentionRunner::RunTask(const Device::AttentionArgs& args, const Task& task, int thread) const {
  const auto& cache = static_cast<const PagedKvCache&>(*args.cache);
  const KvCacheShape& shape = cache.shape();
  const int kv_head = task.head / (args.heads / shape.heads);
  const std::uint64_t offset = static_cast<std::uint64_t>(kv_head) * cache.head_bytes();
  for (std::int64_t row = task.first_row; row < task.first_row + task.rows; ++row) {
    const std::int64_t column = static_cast<std::int64_t>(task.head) * shape.head_dim;
    const std::int64_t step_row = task.slice->first_row + row;
    kernels_.attention_row[KernelTypeOf(cache)](
        {.q = args.q + step_row * args.q_stride + column,
         .out = args.out + step_row * args.out_stride + column,
         .scratch = cache.scratch(thread),
         .key_base = cache.keys(args.layer) + offset,
         .value_base = cache.values(args.layer) + offset,
         .block_bytes = static_cast<std::int64_t>(cache.block_bytes()),
         .blocks = task.slice->blocks,
         .keys = task.slice->first_position + row + 1,
         .head_dim = shape.head_dim,
         .scale = args.scale,
         .slope = args.alibi_slopes == nullptr ? 0.0F : args.alibi_slopes[task.head]});
  }
}

void AttentionRunner::Run(const Device::AttentionArgs& args) {
  const KvCacheShape& shape = args.cache->shape();
  assert(args.layer >= 0 && args.layer < shape.layers);
  assert(args.heads >= shape.heads && args.heads % shape.heads == 0);
  tasks_.clear();
  for (const SequenceSlice& slice : args.slices) {
    for (int head = 0; head < args.heads; ++head) {
      for (std::int64_t row = 0; row < slice.rows; row += kTaskRows) {
        tasks_.push_back({&slice, head, row, std::min(kTaskRows, slice.rows - row)});
      }
    }
  }
  if (tasks_.empty()) return;
  std::atomic<std::size_t> next{0};
  pool_.Run([&](int thread) {
    for (std::size_t i = 0; (i = next.fetch_add(1, std::memory_order_relaxed)) < tasks_.size();) {
      RunTask(args, tasks_[i], thread);
    }
  });
}

}  // namespace bloomery
