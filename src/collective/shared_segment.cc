#include "collective/shared_segment.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstring>

namespace bloomery {
namespace {

constexpr std::size_t kBufferFloats = SharedSegment::kBufferBytes / sizeof(float);
// Below this, or between two ranks, reading all of everybody's data costs less than a second wait.
constexpr std::size_t kSlicedFloats = 64 * 1024 / sizeof(float);

// What a sender writes before it says so: the receiver copies one piece while the sender copies the next.
constexpr std::size_t kPieceBytes = 64 * 1024;

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Between processes, hence without FUTEX_PRIVATE_FLAG.
void FutexWait(std::atomic<std::uint32_t>& word, std::uint32_t seen) {
  ::syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), FUTEX_WAIT, seen, nullptr, nullptr, 0);
}
void FutexWakeAll(std::atomic<std::uint32_t>& word) {
  ::syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

float* Floats(std::byte* bytes) { return reinterpret_cast<float*>(bytes); }

}  // namespace

template <typename Condition>
void SharedGroup::SpinUntil(Condition condition) const {
  for (int spins = 0; !condition(); ++spins) {
    if (spins < spins_) {
      Pause();
    } else {
      ::sched_yield();
    }
  }
}

void SharedGroup::Arrive() {
  const std::uint64_t call = ++calls_;
  mine().arrived.store(call, std::memory_order_release);
  for (int rank = 0; rank < size(); ++rank)
    SpinUntil([&] { return of(rank).arrived.load(std::memory_order_acquire) >= call; });
}

void SharedGroup::AllReduceSum(std::span<float> data) {
  for (; !data.empty(); data = data.subspan(std::min(kBufferFloats, data.size())))
    SumChunk(data.first(std::min(kBufferFloats, data.size())));
}

void SharedGroup::SumChunk(std::span<float> chunk) {
  const std::size_t count = chunk.size();
  const auto sum = [this](std::uint64_t which, std::size_t begin, std::size_t end, float* out) {
    const float* first = Floats(of(0).buffer[which]);
    const float* second = Floats(of(1).buffer[which]);
    for (std::size_t i = begin; i < end; ++i) out[i] = first[i] + second[i];
    for (int rank = 2; rank < size(); ++rank) {
      const float* next = Floats(of(rank).buffer[which]);
      for (std::size_t i = begin; i < end; ++i) out[i] += next[i];
    }
  };
  if (size() == 1) return;
  std::memcpy(buffer(rank_), chunk.data(), chunk.size_bytes());
  const std::uint64_t which = (calls_ + 1) % 2;
  Arrive();
  if (size() == 2 || count <= kSlicedFloats) {
    sum(which, 0, count, chunk.data());
    return;
  }
  // Each rank sums a slice, and all take the slices from where they are: the other buffer of each.
  const auto begin_of = [&](int rank) {
    return count * static_cast<std::size_t>(rank) / static_cast<std::size_t>(size());
  };
  sum(which, begin_of(rank_), begin_of(rank_ + 1), Floats(buffer(rank_)));
  const std::uint64_t sums = (calls_ + 1) % 2;
  Arrive();
  for (int rank = 0; rank < size(); ++rank) {
    std::memcpy(chunk.data() + begin_of(rank), Floats(of(rank).buffer[sums]) + begin_of(rank),
                (begin_of(rank + 1) - begin_of(rank)) * sizeof(float));
  }
}

void SharedGroup::Gather(std::span<const float> mine, std::span<float> all, int root) {
  const std::size_t total = mine.size();
  for (std::size_t done = 0; done < total; done += kBufferFloats) {
    const std::size_t count = std::min(kBufferFloats, total - done);
    if (rank_ != root) std::memcpy(buffer(rank_), mine.data() + done, count * sizeof(float));
    const std::uint64_t which = (calls_ + 1) % 2;
    Arrive();
    if (rank_ != root) continue;
    for (int rank = 0; rank < size(); ++rank) {
      const float* from = rank == root ? mine.data() + done : Floats(of(rank).buffer[which]);
      std::memcpy(all.data() + static_cast<std::size_t>(rank) * total + done, from, count * sizeof(float));
    }
  }
}

void SharedGroup::Broadcast(std::vector<std::byte>& message, int root) {
  if (rank_ == root) {
    std::span<const std::byte> rest = message;
    do {
      const std::size_t count = std::min(SharedSegment::kPieceBytes, rest.size());
      SendPiece(rest.first(count), message.size());
      rest = rest.subspan(count);
    } while (!rest.empty());
    return;
  }
  SharedSegment& from = of(root);
  std::atomic<std::uint32_t>& read = mine().read[root];
  std::size_t done = 0;
  do {
    const std::uint32_t number = read.load(std::memory_order_relaxed);
    AwaitPiece(from, number);
    const std::uint32_t slot = number % SharedSegment::kPieces;
    message.resize(from.message_bytes[slot]);
    const std::size_t count = std::min(SharedSegment::kPieceBytes, message.size() - done);
    if (count > 0) std::memcpy(message.data() + done, from.message[slot], count);
    done += count;
    read.store(number + 1, std::memory_order_release);
  } while (done < message.size());
}

void SharedGroup::Send(std::span<const std::byte> data, int to) {
  SharedSegment& segment = mine();
  std::uint64_t written = segment.written.load(std::memory_order_relaxed);
  const auto waiting = [&] { return written - segment.taken.load(std::memory_order_acquire); };
  if (segment.to.load(std::memory_order_relaxed) != to) {
    SpinUntil([&] { return waiting() == 0; });
    segment.to.store(to, std::memory_order_release);
  }
  while (!data.empty()) {
    SpinUntil([&] { return waiting() < SharedSegment::kBufferBytes; });
    const std::size_t at = written % SharedSegment::kBufferBytes;
    const std::size_t count = std::min({data.size(), kPieceBytes, SharedSegment::kBufferBytes - at,
                                        SharedSegment::kBufferBytes - static_cast<std::size_t>(waiting())});
    std::memcpy(segment.outbox + at, data.data(), count);
    data = data.subspan(count);
    written += count;
    segment.written.store(written, std::memory_order_release);
  }
}

void SharedGroup::Receive(std::span<std::byte> data, int from) {
  SharedSegment& segment = of(from);
  SpinUntil([&] { return segment.to.load(std::memory_order_acquire) == rank_; });
  std::uint64_t taken = segment.taken.load(std::memory_order_relaxed);
  while (!data.empty()) {
    std::uint64_t written = taken;
    SpinUntil([&] { return (written = segment.written.load(std::memory_order_acquire)) != taken; });
    const std::size_t at = taken % SharedSegment::kBufferBytes;
    const std::size_t count =
        std::min({data.size(), static_cast<std::size_t>(written - taken), SharedSegment::kBufferBytes - at});
    std::memcpy(data.data(), segment.outbox + at, count);
    data = data.subspan(count);
    taken += count;
    segment.taken.store(taken, std::memory_order_release);
  }
}

void SharedGroup::SendPiece(std::span<const std::byte> piece, std::size_t message_bytes) {
  SharedSegment& segment = mine();
  const std::uint32_t number = segment.sent.load(std::memory_order_relaxed);
  for (int rank = 0; rank < size(); ++rank) {
    if (rank == rank_) continue;
    SpinUntil([&] {
      return number - of(rank).read[rank_].load(std::memory_order_acquire) < SharedSegment::kPieces;
    });
  }
  const std::uint32_t slot = number % SharedSegment::kPieces;
  segment.message_bytes[slot] = message_bytes;
  if (!piece.empty()) std::memcpy(segment.message[slot], piece.data(), piece.size());
  // seq_cst on both sides: a rank that is about to sleep is seen, or sees the new count.
  segment.sent.store(number + 1, std::memory_order_seq_cst);
  if (segment.sleepers.load(std::memory_order_seq_cst) > 0) FutexWakeAll(segment.sent);
}

void SharedGroup::AwaitPiece(SharedSegment& root, std::uint32_t number) {
  // A root is never more than kPieces ahead: another count than `number` is a larger one.
  for (int spins = 0; spins < spins_; ++spins) {
    if (root.sent.load(std::memory_order_acquire) != number) return;
    Pause();
  }
  root.sleepers.fetch_add(1, std::memory_order_seq_cst);
  while (root.sent.load(std::memory_order_seq_cst) == number) FutexWait(root.sent, number);
  root.sleepers.fetch_sub(1, std::memory_order_relaxed);
}

}  // namespace bloomery
