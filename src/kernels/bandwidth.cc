#include "kernels/bandwidth.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <vector>

#include "kernels/packed_linear.h"

namespace bloomery {
namespace {

// Packed weights without their scales and bias, which are few.
void AddPanels(const LinearWeights& layer, std::vector<std::span<const std::byte>>& parts) {
  for (const auto& piece : layer.pieces()) AddPanels(*piece, parts);
  if (!layer.pieces().empty()) return;
  const auto& packed = static_cast<const PackedLinear&>(layer);
  const auto panels = static_cast<std::uint64_t>(packed.shape().panels);
  parts.emplace_back(packed.panel(0), panels * packed.shape().panel_bytes);
}

}  // namespace

double MeasureReadBytesPerSecond(ThreadPool& pool, const KernelTable& kernels,
                                 std::span<const LinearWeights* const> weights, int budget_ms) {
  using Clock = std::chrono::steady_clock;
  const auto threads = static_cast<std::uint64_t>(pool.threads());
  std::vector<std::span<const std::byte>> parts;
  for (const LinearWeights* layer : weights) AddPanels(*layer, parts);
  double bytes = 0;
  for (const auto& part : parts) bytes += static_cast<double>(part.size());
  std::atomic<std::uint64_t> checksum{0};
  double best = 0;
  const auto deadline = Clock::now() + std::chrono::milliseconds(budget_ms);
  do {
    const auto start = Clock::now();
    pool.Run([&](int thread) {
      std::uint64_t sum = 0;
      for (const auto& part : parts) {
        const std::uint64_t begin = part.size() * static_cast<std::uint64_t>(thread) / threads;
        const std::uint64_t end = part.size() * (static_cast<std::uint64_t>(thread) + 1) / threads;
        sum += kernels.read_bytes(part.data() + begin, end - begin);
      }
      checksum.fetch_add(sum, std::memory_order_relaxed);
    });
    best = std::max(best, bytes / std::chrono::duration<double>(Clock::now() - start).count());
  } while (Clock::now() < deadline);
  return best;
}

}  // namespace bloomery
