#include "base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>

#include "base/unique_fd.h"

namespace bloomery {
namespace {

Status CopyRange(std::string_view name, std::span<const std::byte> from, std::uint64_t offset,
                 std::span<std::byte> out) {
  if (offset > from.size() || out.size() > from.size() - offset) {
    return Fail(ErrorCode::kCorrupt, "{}: read of {} bytes at {} is past the end ({} bytes)", name,
                out.size(), offset, from.size());
  }
  if (!out.empty()) std::memcpy(out.data(), from.data() + offset, out.size());
  return {};
}

}  // namespace

Result<std::shared_ptr<const MappedFile>> MappedFile::Open(const std::filesystem::path& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) {
    const ErrorCode code = errno == ENOENT ? ErrorCode::kNotFound : ErrorCode::kIo;
    return Fail(code, "{}: cannot open: {}", path.string(), std::strerror(errno));
  }
  struct stat info{};
  if (::fstat(fd.get(), &info) != 0)
    return Fail(ErrorCode::kIo, "{}: {}", path.string(), std::strerror(errno));
  if (!S_ISREG(info.st_mode))
    return Fail(ErrorCode::kInvalidArgument, "{}: not a regular file", path.string());
  const auto size = static_cast<std::size_t>(info.st_size);
  std::span<const std::byte> bytes;
  if (size > 0) {
    void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd.get(), 0);
    if (address == MAP_FAILED)
      return Fail(ErrorCode::kIo, "{}: cannot map: {}", path.string(), std::strerror(errno));
    bytes = {static_cast<const std::byte*>(address), size};
  }
  return std::shared_ptr<const MappedFile>(new MappedFile(path.string(), bytes));
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

void MappedFile::Forget() const {
  if (!bytes_.empty()) ::madvise(const_cast<std::byte*>(bytes_.data()), bytes_.size(), MADV_DONTNEED);
}

Status MappedFile::ReadAt(std::uint64_t offset, std::span<std::byte> out) const {
  return CopyRange(name_, bytes_, offset, out);
}

Status MemorySource::ReadAt(std::uint64_t offset, std::span<std::byte> out) const {
  return CopyRange(name_, std::as_bytes(std::span(bytes_)), offset, out);
}

Result<std::string> ReadFileToString(const std::filesystem::path& path, std::uint64_t max_bytes) {
  ASSIGN_OR_RETURN(const auto file, MappedFile::Open(path));
  if (file->size_bytes() > max_bytes) {
    return Fail(ErrorCode::kTooLarge, "{}: {} bytes, the limit is {}", path.string(), file->size_bytes(),
                max_bytes);
  }
  return std::string(file->text());
}

}  // namespace bloomery
