// Reads the same ranges of files again and again in a fixed order, ahead of their use: for what does not fit
// into memory and is gone through in order. Reads past the page cache (O_DIRECT) where the file system can,
// so that what is used once does not push out what stays.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace bloomery {

struct FileRange {
  std::size_t file = 0;      // which of the files
  std::uint64_t offset = 0;  // both multiples of kReadAheadStep
  std::uint64_t bytes = 0;
};

inline constexpr std::uint64_t kReadAheadStep = 4096;

class ReadAhead {
 public:
  // An item's ranges lie one after the other in its slot. Slots are somebody else's memory, aligned to
  // kReadAheadStep and each large enough for every item. Item n is always read into slot n % slots.size(),
  // where n counts through all rounds. At least two slots, so that one is read while another is used. kIo.
  static Result<std::unique_ptr<ReadAhead>> Start(const std::vector<std::filesystem::path>& files,
                                                  std::vector<std::vector<FileRange>> items,
                                                  std::vector<std::span<std::byte>> slots);
  ~ReadAhead();
  ReadAhead(const ReadAhead&) = delete;
  ReadAhead& operator=(const ReadAhead&) = delete;

  // Waits for the next item of the round and returns the number of its slot, which keeps it until Release.
  // kIo, kCorrupt for a file that ends too soon: from then on every call fails. Used by one thread at a time.
  Result<std::size_t> Acquire();
  void Release();

  std::uint64_t bytes_read() const;

 private:
  struct Piece {
    FileRange range;
    std::uint64_t slot_offset = 0;
  };

  ReadAhead() = default;
  void ThreadMain(const std::stop_token& stop);
  Status ReadPiece(const Piece& piece, std::size_t slot);

  std::vector<UniqueFd> files_;
  std::vector<std::vector<Piece>> items_;
  std::vector<std::span<std::byte>> slots_;

  mutable std::mutex mutex_;
  std::condition_variable_any changed_;
  // Guarded by mutex_. Items are counted from the start, through all rounds.
  std::uint64_t next_item_ = 0;  // of which a piece is read next
  std::size_t next_piece_ = 0;
  std::uint64_t used_ = 0;            // items released
  std::vector<std::size_t> missing_;  // by slot: pieces that its item still lacks
  std::uint64_t bytes_read_ = 0;
  std::optional<Error> error_;

  std::vector<std::jthread> threads_;  // last: end before the rest goes
};

}  // namespace bloomery
