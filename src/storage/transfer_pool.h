// Threads that wait for a network: each does one job at a time, and a job may add others. The first error
// ends all. Not the compute threads of base/thread_pool.h: these sleep most of the time.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>

#include "base/result.h"

namespace bloomery {

// Thread safe, but for Run, which is called once.
class TransferPool {
 public:
  using Job = std::function<Status()>;

  // Jobs begin in the order in which they were added.
  void Add(Job job);

  // Until there are no jobs any more, or one fails: then the first one's error. `tick` is called from this
  // thread about ten times a second; false ends all with kCancelled.
  Status Run(int threads, const std::function<bool()>& tick);

  // Turns true when the others are to end: for the requests that a job makes.
  const std::atomic<bool>& stop() const { return stop_; }

 private:
  void Work();
  void StopLocked(Error error);

  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> jobs_;  // guarded by mutex_, as what follows
  int running_ = 0;
  std::optional<Error> error_;
};

}  // namespace bloomery
