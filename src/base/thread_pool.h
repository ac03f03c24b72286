// The compute threads. One pool per engine: its workers are pinned, spin for a short while after a job and
// then park, so that the hundreds of short parallel sections of a decode step cost microseconds and an idle
// server burns no core. Left out: task queues and nesting. A section is split by its caller; each part is a
// pure function of its index.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

namespace bloomery {

// Run() may be called from one thread at a time; the calling thread works as thread 0.
class ThreadPool {
 public:
  struct Options {
    int threads = 0;  // 0: every usable core
    bool pin = true;  // bind worker i to the i-th core of the affinity mask; off where threads exceed cores
    int spin_us =
        50;  // how long a worker polls before it parks: longer than the gap between sections of one step
  };

  explicit ThreadPool(Options options);
  explicit ThreadPool(int threads) : ThreadPool(Options{.threads = threads}) {}
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }

  // Calls body(thread) once on each thread, thread in [0, threads()), and returns when all are done.
  // Everything written before Run is seen by body; everything body writes is seen after Run.
  template <typename Body>
  void Run(Body&& body) {
    if (threads_ == 1) {
      body(0);
      return;
    }
    RunErased(
        [](void* context, int thread) { (*static_cast<std::remove_reference_t<Body>*>(context))(thread); },
        const_cast<void*>(static_cast<const void*>(std::addressof(body))));
  }

  // Splits [0, count) into chunks of `grain`, handed out in order to whichever thread is free; body(begin,
  // end) must not depend on who calls it. Chunks never straddle a multiple of `grain`.
  template <typename Body>
  void ParallelFor(std::int64_t count, std::int64_t grain, Body&& body) {
    if (count <= 0) return;
    if (threads_ == 1 || count <= grain) {
      for (std::int64_t begin = 0; begin < count; begin += grain)
        body(begin, begin + grain < count ? begin + grain : count);
      return;
    }
    std::atomic<std::int64_t> next{0};
    Run([&](int) {
      for (;;) {
        const std::int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
        if (begin >= count) return;
        body(begin, begin + grain < count ? begin + grain : count);
      }
    });
  }

  // Calls body(thread, index) once for each index in [0, count). Each thread goes through a contiguous share
  // of its own in order, the same share of every section with this count; one that is done takes what the
  // others have left. For what streams through memory: each thread reads in order, from pages that it touched
  // first.
  template <typename Body>
  void ParallelStream(std::int64_t count, Body&& body) {
    for (int thread = 0; thread < threads_; ++thread) {
      Share& share = ShareOf(thread);
      share.next.store(count * thread / threads_, std::memory_order_relaxed);
      share.end = count * (thread + 1) / threads_;
    }
    Run([&](int thread) {
      for (int turn = 0; turn < threads_; ++turn) {
        Share& share = ShareOf((thread + turn) % threads_);
        for (;;) {
          const std::int64_t index = share.next.fetch_add(1, std::memory_order_relaxed);
          if (index >= share.end) break;
          body(thread, index);
        }
      }
    });
  }

 private:
  struct alignas(64) Share {
    std::atomic<std::int64_t> next{0};
    std::int64_t end = 0;
  };

  Share& ShareOf(int thread) { return shares_[static_cast<std::size_t>(thread)]; }

  using ErasedBody = void (*)(void* context, int thread);

  void RunErased(ErasedBody body, void* context);
  void WorkerLoop(int thread);
  // Waits until generation_ differs from `seen`: polls for spin_us_, then sleeps in the kernel.
  std::uint32_t AwaitGeneration(std::uint32_t seen) const;

  // Constant after construction.
  int threads_ = 1;
  int spin_us_ = 0;
  std::unique_ptr<Share[]> shares_;  // of the current ParallelStream, one a thread
  std::vector<std::jthread> workers_;

  // Written by the caller of Run before generation_ is raised (release), read by workers after they see it
  // (acquire).
  ErasedBody body_ = nullptr;
  void* context_ = nullptr;
  bool stopping_ = false;

  alignas(64) std::atomic<std::uint32_t> generation_{0};
  alignas(64) std::atomic<std::uint32_t> running_{0};  // workers still inside the current section
};

}  // namespace bloomery
