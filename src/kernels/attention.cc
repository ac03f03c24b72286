#include "kernels/attention.h"

#include <algorithm>
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
  const std::int64_t column = static_cast<std::int64_t>(task.head) * shape.head_dim;
  const std::int64_t end = task.first_row + task.rows;
  for (std::int64_t row = task.first_row; row < end;) {
    const int rows = end - row >= kAttentionRows ? kAttentionRows : 1;
    const std::int64_t step_row = task.slice->first_row + row;
    kernels_.attention[KernelTypeOf(cache)](
        {.rows = rows,
         .q = args.q + step_row * args.q_stride + column,
         .q_stride = args.q_stride,
         .out = args.out + step_row * args.out_stride + column,
         .out_stride = args.out_stride,
         .scratch = cache.scratch(thread),
         .key_base = cache.keys(args.layer) + offset,
         .value_base = cache.values(args.layer) + offset,
         .block_bytes = static_cast<std::int64_t>(cache.block_bytes()),
         .head_bytes = static_cast<std::int64_t>(cache.head_bytes()),
         .blocks = task.slice->blocks,
         .keys = task.slice->first_position + row + 1,
         .head_dim = shape.head_dim,
         .scale = args.scale,
         .slope = args.alibi_slopes == nullptr ? 0.0F : args.alibi_slopes[task.head]});
    row += rows;
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
  pool_.ParallelStream(static_cast<std::int64_t>(tasks_.size()), [&](int thread, std::int64_t task) {
    RunTask(args, tasks_[static_cast<std::size_t>(task)], thread);
  });
}

}  // namespace bloomery
