// Attention of a step: cuts it into tasks of a head and some rows for the kernels of one instruction set.
// Left out: the cache (kv_cache.h) and the arithmetic (generic/attention_body.h).
#pragma once

#include <cstdint>
#include <vector>

#include "base/thread_pool.h"
#include "kernels/kernel_table.h"
#include "tensor/device.h"

namespace bloomery {

// Device::Attention. Keeps its list of tasks from call to call; used by the device's driving thread.
class AttentionRunner {
 public:
  AttentionRunner(ThreadPool& pool, const KernelTable& kernels) : pool_(pool), kernels_(kernels) {}

  void Run(const Device::AttentionArgs& args);

 private:
  // Some rows of one slice and head.
  struct Task {
    const SequenceSlice* slice;
    int head;
    std::int64_t first_row;  // within the slice
    std::int64_t rows;
  };

  void RunTask(const Device::AttentionArgs& args, const Task& task, int thread) const;

  ThreadPool& pool_;
  const KernelTable& kernels_;
  std::vector<Task> tasks_;
};

}  // namespace bloomery
