// Ranged reads from something of known size: a mapped file today, an S3 object later. checkpoint/ reads
// through this interface, so that it never needs to know where the bytes are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "base/result.h"

namespace bloomery {

// Thread safe: any number of threads may read at once.
class ByteSource {
 public:
  virtual ~ByteSource() = default;

  // What error messages call this source: a path or a URL without credentials.
  virtual std::string_view name() const = 0;
  virtual std::uint64_t size_bytes() const = 0;

  // Fills `out` from `offset`. A range past the end is kCorrupt (the file is shorter than something claimed).
  virtual Status ReadAt(std::uint64_t offset, std::span<std::byte> out) const = 0;

  // Gives back what memory holds of the source and can read again; bytes and views stay valid.
  virtual void Forget() const {}

  // The whole source in memory, if it is there without a copy (a mapped file); empty otherwise.
  virtual std::optional<std::span<const std::byte>> mapped() const { return std::nullopt; }
};

}  // namespace bloomery
