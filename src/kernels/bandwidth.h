// How fast weights can be read: the limit that decode is measured against.
#pragma once

#include <span>

#include "base/thread_pool.h"
#include "kernels/kernel_table.h"
#include "tensor/device.h"

namespace bloomery {

// Device::MeasureReadBandwidth.
double MeasureReadBytesPerSecond(ThreadPool& pool, const KernelTable& kernels,
                                 std::span<const LinearWeights* const> weights, int budget_ms);

}  // namespace bloomery
