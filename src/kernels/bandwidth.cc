#include "kernels/bandwidth.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

#include "kernels/memory.h"

namespace bloomery {
namespace {

using Clock = std::chrono::steady_clock;

// 8 times the last-level cache and at least 512 MiB, so that at most an eighth of a pass can come from cache.
std::uint64_t BufferBytes() {
  constexpr std::uint64_t kLeast = 512ULL << 20U;
  const long cache = ::sysconf(_SC_LEVEL3_CACHE_SIZE);
  return std::max(kLeast, cache > 0 ? 8 * static_cast<std::uint64_t>(cache) : 0);
}

// One thread's contiguous share, whole cache lines.
struct Share {
  std::uint64_t offset;
  std::uint64_t bytes;
};

Share ShareOf(std::uint64_t total, int thread, int threads) {
  const std::uint64_t each = total / static_cast<std::uint64_t>(threads) / 4096 * 4096;
  return {each * static_cast<std::uint64_t>(thread), each};
}

}  // namespace

Result<double> MeasureReadBytesPerSecond(ThreadPool& pool, const KernelTable& kernels, int budget_ms) {
  const std::uint64_t bytes = BufferBytes();
  ASSIGN_OR_RETURN(AlignedBuffer buffer, AllocateChecked(bytes, "measuring memory bandwidth"));
  const auto share = [&](int thread) { return ShareOf(bytes, thread, pool.threads()); };
  // Every page is written by the thread that will read it: unwritten pages all map to one page of zeros.
  pool.Run([&](int thread) {
    const Share mine = share(thread);
    std::memset(buffer.data() + mine.offset, 1, mine.bytes);
  });
  const auto deadline = Clock::now() + std::chrono::milliseconds(budget_ms);
  const double pass_bytes = static_cast<double>(share(0).bytes) * pool.threads();
  std::atomic<std::uint64_t> checksum{0};
  double best = 0;
  do {
    const auto start = Clock::now();
    pool.Run([&](int thread) {
      const Share mine = share(thread);
      checksum += kernels.read_bytes(buffer.data() + mine.offset, mine.bytes);
    });
    best = std::max(best, pass_bytes / std::chrono::duration<double>(Clock::now() - start).count());
  } while (Clock::now() < deadline);
  if (checksum.load() == 0) return Fail(ErrorCode::kInternal, "memory lost what was written to it");
  return best;
}

}  // namespace bloomery
