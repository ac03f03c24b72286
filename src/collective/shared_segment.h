// Memory that the ranks of one host share, and how they sum, broadcast and gather through it. Left out: where
// the memory comes from.
//
// Each rank owns a segment and writes in it alone (but for `sleepers` and `taken`); the others read. Counters
// only grow (release when written, acquire when read), and two buffers are used in turns:
//
//   rank:      write my buffer[n % 2] ▸ arrived = n ▸ wait until every rank's arrived ≥ n ▸ read all buffers
//
// A buffer is written again at n + 2, which a rank reaches only after all have arrived at n + 1, hence have
// read what was there at n: one wait a call is enough.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "collective/communicator.h"

namespace bloomery {

// Lies in shared memory, zero at first; everything in it is free of pointers.
struct SharedSegment {
  static constexpr std::size_t kBufferBytes = 256 * 1024;

  alignas(64) std::atomic<std::uint64_t> arrived{0};
  // Broadcasts: the root's count of pieces, on which others sleep, and how many of every root's each rank has
  // read. Piece i lies in message[i % kPieces].
  static constexpr std::uint32_t kPieces = 16;
  static constexpr std::size_t kPieceBytes = 64 * 1024;
  alignas(64) std::atomic<std::uint32_t> sent{0};
  alignas(64) std::atomic<std::uint32_t> sleepers{0};
  alignas(64) std::uint64_t message_bytes[kPieces] = {};  // of the whole message that a piece is of
  static constexpr int kMaxRanks = 256;
  alignas(64) std::atomic<std::uint32_t> read[kMaxRanks] = {};  // by root
  // Messages to one rank at a time: bytes written by this rank, and taken by the other, since the beginning.
  alignas(64) std::atomic<std::uint64_t> written{0};
  std::atomic<std::int32_t> to{-1};
  alignas(64) std::atomic<std::uint64_t> taken{0};
  alignas(64) std::byte outbox[kBufferBytes];  // byte i of all lies at i % kBufferBytes
  alignas(64) std::byte buffer[2][kBufferBytes];
  alignas(64) std::byte message[kPieces][kPieceBytes];
};
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

// One rank's view of all segments of its group. Used by one thread at a time. Ranks that die leave the others
// waiting: whoever started them ends them.
class SharedGroup {
 public:
  // `segments`: by rank. `oversubscribed`: there are more ranks than cores, so that waiting must give way.
  SharedGroup(std::vector<SharedSegment*> segments, int rank, bool oversubscribed)
      : segments_(std::move(segments)), rank_(rank), spins_(oversubscribed ? 0 : kSpins) {}

  // Messages of so many bytes need at most a piece each more than they would fill.
  static constexpr std::size_t kBroadcastAheadBytes =
      (SharedSegment::kPieces - Communicator::kBroadcastsAhead) * SharedSegment::kPieceBytes;

  void AllReduceSum(std::span<float> data);
  void Broadcast(std::vector<std::byte>& message, int root);
  void Gather(std::span<const float> mine, std::span<float> all, int root);
  void Send(std::span<const std::byte> data, int to);
  void Receive(std::span<std::byte> data, int from);
  void Barrier() { Arrive(); }

 private:
  // Pauses before a waiting rank gives way: some 100 microseconds.
  static constexpr int kSpins = 4000;

  int size() const { return static_cast<int>(segments_.size()); }
  SharedSegment& mine() { return *segments_[static_cast<std::size_t>(rank_)]; }
  SharedSegment& of(int rank) { return *segments_[static_cast<std::size_t>(rank)]; }
  std::byte* buffer(int rank) { return of(rank).buffer[(calls_ + 1) % 2]; }
  // Ends a call's writing: waits until every rank has done the same.
  void Arrive();
  void SumChunk(std::span<float> chunk);
  void SendPiece(std::span<const std::byte> piece, std::size_t message_bytes);
  void AwaitPiece(SharedSegment& root, std::uint32_t number);  // from 0
  template <typename Condition>
  void SpinUntil(Condition condition) const;

  const std::vector<SharedSegment*> segments_;
  const int rank_;
  const int spins_;
  std::uint64_t calls_ = 0;
};

}  // namespace bloomery
