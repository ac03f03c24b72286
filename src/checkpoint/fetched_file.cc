#include "checkpoint/fetched_file.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

namespace bloomery {

Result<std::shared_ptr<const FetchedFile>> FetchedFile::Make(std::shared_ptr<const ByteSource> source) {
  const std::uint64_t size = source->size_bytes();
  if (size == 0) return Fail(ErrorCode::kCorrupt, "{}: is empty", source->name());
  void* memory =
      ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    return Fail(ErrorCode::kOutOfMemory, "{}: no room for {} bytes: {}", source->name(), size,
                std::strerror(errno));
  }
  ::madvise(memory, size, MADV_HUGEPAGE);  // a wish
  return std::shared_ptr<const FetchedFile>(
      new FetchedFile(std::move(source), {static_cast<std::byte*>(memory), size}));
}

FetchedFile::~FetchedFile() { ::munmap(bytes_.data(), bytes_.size()); }

Status FetchedFile::Fetch(std::span<const std::byte> part) const {
  const auto offset = static_cast<std::size_t>(part.data() - bytes_.data());
  return source_->ReadAt(offset, bytes_.subspan(offset, part.size()));
}

}  // namespace bloomery
