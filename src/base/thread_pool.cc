#include "base/thread_pool.h"

#include <immintrin.h>
#include <pthread.h>
#include <sched.h>

#include <chrono>

#include "base/system.h"

namespace bloomery {
namespace {

// Binds the calling thread to the index-th core it is allowed on. Failure is harmless: the scheduler decides
// instead.
void PinToCore(int index) {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return;
  for (int cpu = 0, seen = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed) || seen++ != index) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    pthread_setaffinity_np(pthread_self(), sizeof(one), &one);
    return;
  }
}

// Polls `done` for at most `spin_us`; the clock is read only every few hundred pauses.
template <typename Predicate>
bool SpinUntil(int spin_us, Predicate done) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::microseconds(spin_us);
  do {
    for (int i = 0; i < 64; ++i) {
      if (done()) return true;
      _mm_pause();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  return done();
}

}  // namespace

ThreadPool::ThreadPool(Options options) : threads_(options.threads > 0 ? options.threads : UsableCores()) {
  shares_ = std::make_unique<Share[]>(static_cast<std::size_t>(threads_));
  const bool oversubscribed = threads_ > UsableCores();
  // With more threads than cores a spinning thread keeps the one it waits for from running.
  spin_us_ = oversubscribed ? 0 : options.spin_us;
  for (int thread = 1; thread < threads_; ++thread) {
    workers_.emplace_back([this, thread, pin = options.pin && !oversubscribed] {
      if (pin) PinToCore(thread);
      WorkerLoop(thread);
    });
  }
}

ThreadPool::~ThreadPool() {
  stopping_ = true;
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  workers_.clear();  // joins, while the members the workers read are still alive
}

std::uint32_t ThreadPool::AwaitGeneration(std::uint32_t seen) const {
  std::uint32_t now = seen;
  if (SpinUntil(spin_us_, [&] { return (now = generation_.load(std::memory_order_acquire)) != seen; }))
    return now;
  generation_.wait(seen, std::memory_order_acquire);
  return generation_.load(std::memory_order_acquire);
}

void ThreadPool::WorkerLoop(int thread) {
  for (std::uint32_t seen = 0;;) {
    seen = AwaitGeneration(seen);
    if (stopping_) return;
    body_(context_, thread);
    if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) running_.notify_one();
  }
}

void ThreadPool::RunErased(ErasedBody body, void* context) {
  body_ = body;
  context_ = context;
  running_.store(static_cast<std::uint32_t>(threads_ - 1), std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  body(context, 0);
  std::uint32_t left = 0;
  if (SpinUntil(spin_us_, [&] { return (left = running_.load(std::memory_order_acquire)) == 0; })) return;
  while ((left = running_.load(std::memory_order_acquire)) != 0)
    running_.wait(left, std::memory_order_acquire);
}

}  // namespace bloomery
