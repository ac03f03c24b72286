#include "kernels/memory.h"

#include "base/system.h"

namespace bloomery {
namespace {

// Below this the check costs more than it can save: reading /proc takes tens of microseconds.
constexpr std::uint64_t kCheckFromBytes = 1U << 20U;

}  // namespace

Result<AlignedBuffer> AllocateChecked(std::uint64_t size_bytes, std::string_view what) {
  if (size_bytes >= kCheckFromBytes) {
    const std::uint64_t available = AvailableMemoryBytes();
    if (size_bytes > available) {
      return Fail(ErrorCode::kOutOfMemory, "{} needs {} bytes, {} are available: {} bytes are missing", what,
                  size_bytes, available, size_bytes - available);
    }
  }
  return AlignedBuffer::Allocate(size_bytes);
}

}  // namespace bloomery
