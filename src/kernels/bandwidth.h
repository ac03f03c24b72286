// How fast this machine's memory can be read: the limit that decode is measured against.
#pragma once

#include "base/result.h"
#include "base/thread_pool.h"
#include "kernels/kernel_table.h"

namespace bloomery {

// Device::MeasureReadBandwidth. kOutOfMemory where a buffer far larger than the caches does not fit.
Result<double> MeasureReadBytesPerSecond(ThreadPool& pool, const KernelTable& kernels, int budget_ms);

}  // namespace bloomery
