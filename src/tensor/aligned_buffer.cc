#include "tensor/aligned_buffer.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace bloomery {
namespace {

// Below this a transparent huge page cannot fit, and asking for one only costs a system call.
constexpr std::size_t kHugePageBytes = 2U << 20U;

}  // namespace

Result<AlignedBuffer> AlignedBuffer::Allocate(std::size_t size_bytes) {
  if (size_bytes == 0) return AlignedBuffer();
  // mmap rather than malloc: zero pages for nothing, page alignment, and the memory goes back when it is
  // freed.
  void* address =
      ::mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (address == MAP_FAILED) {
    return Fail(ErrorCode::kOutOfMemory, "cannot allocate {} bytes: {}", size_bytes, std::strerror(errno));
  }
  if (size_bytes >= kHugePageBytes) ::madvise(address, size_bytes, MADV_HUGEPAGE);
  return AlignedBuffer(static_cast<std::byte*>(address), size_bytes);
}

AlignedBuffer::AlignedBuffer(AlignedBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_bytes_(std::exchange(other.size_bytes_, 0)) {}

AlignedBuffer& AlignedBuffer::operator=(AlignedBuffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_bytes_, other.size_bytes_);
  return *this;
}

AlignedBuffer::~AlignedBuffer() {
  if (data_ != nullptr) ::munmap(data_, size_bytes_);
}

}  // namespace bloomery
