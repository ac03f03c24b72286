#include "base/read_ahead.h"

#include <fcntl.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <utility>

namespace bloomery {
namespace {

// Requests in flight, and how long each is: what disks need to be read at their full speed.
constexpr int kThreads = 4;
constexpr std::uint64_t kPieceBytes = 4U << 20U;

Result<UniqueFd> Open(const std::filesystem::path& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT));
  if (!fd && errno == EINVAL)
    fd.Reset(::open(path.c_str(), O_RDONLY | O_CLOEXEC));  // memory as a file system
  if (!fd) return Fail(ErrorCode::kIo, "{}: cannot open: {}", path.string(), std::strerror(errno));
  return fd;
}

}  // namespace

Result<std::unique_ptr<ReadAhead>> ReadAhead::Start(const std::vector<std::filesystem::path>& files,
                                                    std::vector<std::vector<FileRange>> items,
                                                    std::vector<std::span<std::byte>> slots) {
  assert(slots.size() >= 2 && !items.empty());
  std::unique_ptr<ReadAhead> reader(new ReadAhead());
  for (const auto& path : files) {
    ASSIGN_OR_RETURN(UniqueFd fd, Open(path));
    reader->files_.push_back(std::move(fd));
  }
  for (const std::vector<FileRange>& ranges : items) {
    std::vector<Piece>& pieces = reader->items_.emplace_back();
    std::uint64_t at = 0;
    for (const FileRange& range : ranges) {
      for (std::uint64_t done = 0; done < range.bytes; done += kPieceBytes) {
        const std::uint64_t bytes = std::min(kPieceBytes, range.bytes - done);
        pieces.push_back({{range.file, range.offset + done, bytes}, at});
        at += bytes;
      }
    }
    assert(!pieces.empty() && at <= slots.front().size());
  }
  reader->slots_ = std::move(slots);
  reader->missing_.assign(reader->slots_.size(), 0);
  for (int i = 0; i < kThreads; ++i)
    reader->threads_.emplace_back(
        [raw = reader.get()](const std::stop_token& stop) { raw->ThreadMain(stop); });
  return reader;
}

ReadAhead::~ReadAhead() {
  for (std::jthread& thread : threads_) thread.request_stop();
  changed_.notify_all();
}

void ReadAhead::ThreadMain(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  for (;;) {
    // The slot of the next piece's item is free once the item before in it was used.
    if (!changed_.wait(lock, stop, [this] { return error_ || next_item_ < used_ + slots_.size(); }) || error_)
      return;
    const std::vector<Piece>& pieces = items_[next_item_ % items_.size()];
    const std::size_t slot = next_item_ % slots_.size();
    if (next_piece_ == 0) missing_[slot] = pieces.size();
    const Piece& piece = pieces[next_piece_];
    if (++next_piece_ == pieces.size()) {
      next_piece_ = 0;
      ++next_item_;
    }
    lock.unlock();
    const Status read = ReadPiece(piece, slot);
    lock.lock();
    if (!read) error_ = read.error();
    bytes_read_ += piece.range.bytes;
    if (--missing_[slot] == 0 || error_) changed_.notify_all();
  }
}

Status ReadAhead::ReadPiece(const Piece& piece, std::size_t slot) {
  std::byte* out = slots_[slot].data() + piece.slot_offset;
  for (std::uint64_t done = 0; done < piece.range.bytes;) {
    const ssize_t got = ::pread(files_[piece.range.file].get(), out + done, piece.range.bytes - done,
                                static_cast<off_t>(piece.range.offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return Fail(ErrorCode::kIo, "reading weights from disk: {}", std::strerror(errno));
    if (got == 0)
      return Fail(ErrorCode::kCorrupt, "a file of weights has become shorter while it was in use");
    done += static_cast<std::uint64_t>(got);
  }
  return {};
}

Result<std::size_t> ReadAhead::Acquire() {
  std::unique_lock lock(mutex_);
  const std::size_t slot = used_ % slots_.size();
  // Taken up by the readers, all pieces of it, and all read.
  changed_.wait(lock, [&] { return error_ || (next_item_ > used_ && missing_[slot] == 0); });
  if (error_) return std::unexpected(*error_);
  return slot;
}

void ReadAhead::Release() {
  {
    const std::scoped_lock lock(mutex_);
    ++used_;
  }
  changed_.notify_all();
}

std::uint64_t ReadAhead::bytes_read() const {
  const std::scoped_lock lock(mutex_);
  return bytes_read_;
}

}  // namespace bloomery
