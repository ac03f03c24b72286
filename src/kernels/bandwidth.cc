#include "kernels/bandwidth.h"

#include <algorithm>
#include <atomic>
#include <chrono>

#include "kernels/packed_linear.h"

namespace bloomery {

double MeasureReadBytesPerSecond(ThreadPool& pool, const KernelTable& kernels,
                                 std::span<const LinearWeights* const> weights, int budget_ms) {
  using Clock = std::chrono::steady_clock;
  const auto threads = static_cast<std::uint64_t>(pool.threads());
  double bytes = 0;
  for (const LinearWeights* layer : weights) bytes += static_cast<double>(layer->size_bytes());
  std::atomic<std::uint64_t> checksum{0};
  double best = 0;
  const auto deadline = Clock::now() + std::chrono::milliseconds(budget_ms);
  do {
    const auto start = Clock::now();
    pool.Run([&](int thread) {
      std::uint64_t sum = 0;
      for (const LinearWeights* layer : weights) {
        const std::uint64_t size = layer->size_bytes();
        const std::uint64_t begin = size * static_cast<std::uint64_t>(thread) / threads;
        const std::uint64_t end = size * (static_cast<std::uint64_t>(thread) + 1) / threads;
        sum += kernels.read_bytes(static_cast<const PackedLinear&>(*layer).data() + begin, end - begin);
      }
      checksum.fetch_add(sum, std::memory_order_relaxed);
    });
    best = std::max(best, bytes / std::chrono::duration<double>(Clock::now() - start).count());
  } while (Clock::now() < deadline);
  return best;
}

}  // namespace bloomery
