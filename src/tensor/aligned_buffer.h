// Owned, zero-filled memory aligned for the widest vectors, in huge pages where the kernel gives them.
#pragma once

#include <cstddef>
#include <span>

#include "base/result.h"

namespace bloomery {

class AlignedBuffer {
 public:
  static constexpr std::size_t kAlignment = 64;  // one cache line, one 512-bit register

  AlignedBuffer() = default;
  // kOutOfMemory where the system refuses. Pages are zero and untouched: the first thread to write one places
  // it (NUMA first touch).
  static Result<AlignedBuffer> Allocate(std::size_t size_bytes);

  AlignedBuffer(AlignedBuffer&& other) noexcept;
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept;
  ~AlignedBuffer();

  std::byte* data() { return data_; }
  const std::byte* data() const { return data_; }
  std::size_t size_bytes() const { return size_bytes_; }

  template <typename T>
  T* as() {
    return reinterpret_cast<T*>(data_);
  }
  template <typename T>
  const T* as() const {
    return reinterpret_cast<const T*>(data_);
  }

 private:
  AlignedBuffer(std::byte* data, std::size_t size_bytes) : data_(data), size_bytes_(size_bytes) {}

  std::byte* data_ = nullptr;
  std::size_t size_bytes_ = 0;
};

}  // namespace bloomery
