#include "collective/thread_group.h"

#include <algorithm>
#include <cassert>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <random>
#include <thread>
#include <utility>

namespace bloomery {
namespace {

// What all groups of one family (the first, and those split from it) share: one lock, and one fate.
struct Family {
  explicit Family(const ThreadGroupOptions& how) : options(how), random(how.seed) {}

  const ThreadGroupOptions options;
  std::mutex mutex;
  std::condition_variable changed;
  std::mt19937_64 random;                // guarded by mutex
  bool lost = false;                     // guarded by mutex
  std::int64_t calls_of_dying_rank = 0;  // guarded by mutex
};

// Guarded by the family's mutex.
struct Group {
  Group(std::shared_ptr<Family> one, int ranks)
      : family(std::move(one)), size(ranks), offers(static_cast<std::size_t>(ranks)) {}

  const std::shared_ptr<Family> family;
  const int size;
  std::vector<const void*> offers;  // by rank: an argument of the call in progress
  int arrived = 0;
  std::uint64_t meetings = 0;
  std::map<std::pair<int, int>, std::deque<std::vector<float>>> messages;        // by sender and receiver
  std::map<std::pair<int, int>, std::deque<std::vector<std::byte>>> broadcasts;  // by root and receiver
  std::map<int, std::shared_ptr<Group>> split;  // by colour, of the call in progress
};

class ThreadCommunicator final : public Communicator {
 public:
  // `identity`: its rank in the first group of the family.
  ThreadCommunicator(std::shared_ptr<Group> group, int rank, int identity)
      : group_(std::move(group)), rank_(rank), identity_(identity) {}

  int rank() const override { return rank_; }
  int size() const override { return group_->size; }

  Status AllReduceSum(std::span<float> data) override {
    std::vector<float> sum(data.size());
    RETURN_IF_ERROR(Offer(data.data(), [&] {
      for (std::size_t i = 0; i < data.size(); ++i) {
        sum[i] = OfferOf<float>(0)[i];
        for (int rank = 1; rank < size(); ++rank) sum[i] += OfferOf<float>(rank)[i];
      }
    }));
    std::copy(sum.begin(), sum.end(), data.begin());
    return {};
  }

  Status Broadcast(std::vector<std::byte>& message, int root) override {
    std::unique_lock lock(family().mutex);
    RETURN_IF_ERROR(Begin(lock));
    if (rank_ == root) {
      for (int rank = 0; rank < size(); ++rank) {
        if (rank != root) group_->broadcasts[{root, rank}].push_back(message);
      }
      family().changed.notify_all();
      return {};
    }
    ASSIGN_OR_RETURN(message, Take(lock, group_->broadcasts[{root, rank_}]));
    return {};
  }

  std::size_t broadcast_ahead_bytes() const override { return SIZE_MAX; }

  Status Gather(std::span<const float> mine, std::span<float> all, int root) override {
    return Offer(mine.data(), [&] {
      if (rank_ != root) return;
      assert(all.size() == mine.size() * static_cast<std::size_t>(size()));
      for (int rank = 0; rank < size(); ++rank)
        std::copy_n(OfferOf<float>(rank), mine.size(),
                    all.data() + static_cast<std::size_t>(rank) * mine.size());
    });
  }

  Status Send(std::span<const float> data, int to) override {
    std::unique_lock lock(family().mutex);
    RETURN_IF_ERROR(Begin(lock));
    group_->messages[{rank_, to}].emplace_back(data.begin(), data.end());
    family().changed.notify_all();
    return {};
  }

  Status Receive(std::span<float> data, int from) override {
    std::unique_lock lock(family().mutex);
    RETURN_IF_ERROR(Begin(lock));
    ASSIGN_OR_RETURN(const std::vector<float> message, Take(lock, group_->messages[{from, rank_}]));
    assert(message.size() == data.size());
    std::copy(message.begin(), message.end(), data.begin());
    return {};
  }

  Status Barrier() override {
    return Offer(nullptr, [] {});
  }

  Result<std::unique_ptr<Communicator>> Split(int color) override {
    std::shared_ptr<Group> group;
    int rank = 0;
    RETURN_IF_ERROR(Offer(&color, [&] {
      int members = 0;
      for (int other = 0; other < size(); ++other) {
        if (*OfferOf<int>(other) != color) continue;
        if (other == rank_) rank = members;
        ++members;
      }
      const std::scoped_lock lock(family().mutex);
      std::shared_ptr<Group>& made = group_->split[color];
      if (!made) made = std::make_shared<Group>(group_->family, members);
      group = made;
    }));
    // The next split makes new groups; nobody asks for these any more.
    RETURN_IF_ERROR(Offer(nullptr, [&] {
      const std::scoped_lock lock(family().mutex);
      group_->split.erase(color);
    }));
    return std::make_unique<ThreadCommunicator>(std::move(group), rank, identity_);
  }

 private:
  Family& family() const { return *group_->family; }
  static std::unexpected<Error> Lost() { return Fail(ErrorCode::kUnavailable, "a rank was lost"); }

  template <typename T>
  const T* OfferOf(int rank) const {
    return static_cast<const T*>(group_->offers[static_cast<std::size_t>(rank)]);
  }

  // Waits for a message.
  template <typename Message>
  Result<Message> Take(std::unique_lock<std::mutex>& lock, std::deque<Message>& queue) {
    family().changed.wait(lock, [&] { return !queue.empty() || family().lost; });
    if (queue.empty()) return Lost();
    Message message = std::move(queue.front());
    queue.pop_front();
    return message;
  }

  // Delays, and dies where that is due.
  Status Begin(std::unique_lock<std::mutex>& lock) {
    const ThreadGroupOptions& options = family().options;
    if (options.max_delay.count() > 0) {
      const auto limit = static_cast<std::uint64_t>(options.max_delay.count()) + 1;
      const std::chrono::microseconds delay(family().random() % limit);
      lock.unlock();
      std::this_thread::sleep_for(delay);
      lock.lock();
    }
    if (identity_ == options.dying_rank && family().calls_of_dying_rank++ >= options.dies_at_call) {
      family().lost = true;
      family().changed.notify_all();
    }
    if (family().lost) return Lost();
    return {};
  }

  // Waits until every rank has come here.
  Status Meet(std::unique_lock<std::mutex>& lock) {
    const std::uint64_t meeting = group_->meetings;
    if (++group_->arrived == group_->size) {
      group_->arrived = 0;
      ++group_->meetings;
      family().changed.notify_all();
      return {};
    }
    family().changed.wait(lock, [&] { return group_->meetings != meeting || family().lost; });
    if (group_->meetings == meeting) return Lost();
    return {};
  }

  // Shows the others `argument` and calls `look` while all of them show theirs.
  template <typename Look>
  Status Offer(const void* argument, Look look) {
    std::unique_lock lock(family().mutex);
    RETURN_IF_ERROR(Begin(lock));
    group_->offers[static_cast<std::size_t>(rank_)] = argument;
    RETURN_IF_ERROR(Meet(lock));
    lock.unlock();
    look();
    lock.lock();
    return Meet(lock);
  }

  const std::shared_ptr<Group> group_;
  const int rank_;
  const int identity_;
};

}  // namespace

std::vector<std::unique_ptr<Communicator>> MakeThreadGroup(int size, const ThreadGroupOptions& options) {
  const auto group = std::make_shared<Group>(std::make_shared<Family>(options), size);
  std::vector<std::unique_ptr<Communicator>> ranks;
  for (int rank = 0; rank < size; ++rank)
    ranks.push_back(std::make_unique<ThreadCommunicator>(group, rank, rank));
  return ranks;
}

}  // namespace bloomery
