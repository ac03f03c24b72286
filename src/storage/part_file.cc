#include "storage/part_file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>

namespace bloomery {
namespace {

namespace fs = std::filesystem;

std::unexpected<Error> IoError(const fs::path& path, std::string_view what) {
  return Fail(ErrorCode::kIo, "{}: cannot {}: {}", path.string(), what, std::strerror(errno));
}

// Bytes written before an error; errno is the error's.
std::size_t WriteSome(int fd, std::uint64_t offset, std::span<const std::byte> bytes) {
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t written =
        ::pwrite(fd, bytes.data() + done, bytes.size() - done, static_cast<off_t>(offset + done));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) break;
    done += static_cast<std::size_t>(written);
  }
  return done;
}

struct FreeMemory {
  void operator()(std::byte* memory) const { std::free(memory); }
};

std::byte* Piece() {
  thread_local const std::unique_ptr<std::byte, FreeMemory> piece(
      static_cast<std::byte*>(std::aligned_alloc(kDirectBlockBytes, PartWriter::kPieceBytes)));
  return piece.get();
}

}  // namespace

Status PartFile::Open(const fs::path& path, std::uint64_t size_bytes, bool direct) {
  path_ = path;
  std::error_code error;
  fs::create_directories(path.parent_path(), error);
  if (error) return Fail(ErrorCode::kIo, "{}: {}", path.parent_path().string(), error.message());
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644));
  if (!fd) return IoError(path, "create");
  const auto size = static_cast<off_t>(size_bytes);
  struct stat info{};
  if (::fstat(fd.get(), &info) != 0) return IoError(path, "examine");
  if (info.st_size != size && ::ftruncate(fd.get(), size) != 0) return IoError(path, "resize");
  if (size > 0 && ::fallocate(fd.get(), 0, 0, size) != 0 && errno != EOPNOTSUPP)
    return IoError(path, fmt::format("reserve {} bytes for", size));
  // Refused by file systems that have no disk below them; then everything goes through the cache.
  if (direct) direct_ = UniqueFd(::open(path.c_str(), O_WRONLY | O_DIRECT | O_CLOEXEC | O_NOFOLLOW));
  cached_ = std::move(fd);
  return {};
}

void PartFile::Close() {
  cached_.Reset();
  direct_.Reset();
}

Status PartFile::WriteAt(std::uint64_t offset, std::span<const std::byte> bytes) const {
  std::size_t done = 0;
  if (direct_ && offset % kDirectBlockBytes == 0) {
    done = WriteSome(direct_.get(), offset, bytes.first(bytes.size() - bytes.size() % kDirectBlockBytes));
    // Blocks of another size: through the cache.
    if (done == 0 && errno != EINVAL && bytes.size() >= kDirectBlockBytes) return IoError(path_, "write");
  }
  done += WriteSome(cached_.get(), offset + done, bytes.subspan(done));
  if (done < bytes.size()) return IoError(path_, "write");
  return {};
}

bool PartFile::ReadAt(std::uint64_t offset, std::span<std::byte> bytes) const {
  while (!bytes.empty()) {
    const ssize_t got = ::pread(cached_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    offset += static_cast<std::uint64_t>(got);
    bytes = bytes.subspan(static_cast<std::size_t>(got));
  }
  return true;
}

Status PartWriter::Add(std::span<const std::byte> bytes) {
  std::byte* const piece = Piece();
  if (piece == nullptr) return Fail(ErrorCode::kOutOfMemory, "no memory for a part that arrives");
  while (!bytes.empty()) {
    const auto now = bytes.first(std::min(bytes.size(), kPieceBytes - filled_bytes_));
    std::memcpy(piece + filled_bytes_, now.data(), now.size());
    filled_bytes_ += now.size();
    bytes = bytes.subspan(now.size());
    if (filled_bytes_ == kPieceBytes) RETURN_IF_ERROR(Flush());
  }
  return {};
}

Status PartWriter::Flush() {
  const std::size_t bytes = std::exchange(filled_bytes_, 0);
  offset_ += bytes;
  return file_->WriteAt(offset_ - bytes, {Piece(), bytes});
}

}  // namespace bloomery
