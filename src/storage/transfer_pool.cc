#include "storage/transfer_pool.h"

#include <chrono>
#include <thread>
#include <vector>

namespace bloomery {
namespace {

constexpr std::chrono::milliseconds kTickEvery{100};

}  // namespace

void TransferPool::Add(Job job) {
  {
    const std::scoped_lock lock(mutex_);
    jobs_.push_back(std::move(job));
  }
  changed_.notify_all();
}

void TransferPool::StopLocked(Error error) {
  if (!error_) error_ = std::move(error);  // the others' errors follow from the first
  stop_ = true;
  changed_.notify_all();
}

void TransferPool::Work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return !jobs_.empty() || running_ == 0 || stop_; });
    if (stop_ || jobs_.empty()) break;
    const Job job = std::move(jobs_.front());
    jobs_.pop_front();
    ++running_;
    lock.unlock();
    const Status done = job();
    lock.lock();
    --running_;
    if (!done) StopLocked(done.error());
  }
  changed_.notify_all();
}

Status TransferPool::Run(int threads, const std::function<bool()>& tick) {
  std::vector<std::jthread> workers;
  for (int thread = 0; thread < threads; ++thread) workers.emplace_back([this] { Work(); });
  const auto over = [this] { return stop_ || (jobs_.empty() && running_ == 0); };
  for (std::unique_lock lock(mutex_); !changed_.wait_for(lock, kTickEvery, over);) {
    lock.unlock();
    const bool go_on = tick();
    lock.lock();
    if (!go_on) StopLocked(Error{ErrorCode::kCancelled, "interrupted"});
  }
  workers.clear();  // joins
  if (error_) return std::unexpected(*std::move(error_));
  return {};
}

}  // namespace bloomery
