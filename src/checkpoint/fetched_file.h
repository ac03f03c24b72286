// A file that is elsewhere (an object in a store) as memory of its size, of which those parts are there that
// were fetched. Nothing of it touches a disk, and what is not fetched takes no memory.
#pragma once

#include <memory>
#include <string>

#include "base/byte_source.h"

namespace bloomery {

// Thread safe: any number of threads may fetch different parts at once.
class FetchedFile final : public ByteSource {
 public:
  // Nothing is fetched yet. kOutOfMemory where there is no room in the address space.
  static Result<std::shared_ptr<const FetchedFile>> Make(std::shared_ptr<const ByteSource> source);

  ~FetchedFile() override;
  FetchedFile(const FetchedFile&) = delete;
  FetchedFile& operator=(const FetchedFile&) = delete;

  std::string_view name() const override { return source_->name(); }
  std::uint64_t size_bytes() const override { return bytes_.size(); }
  Status ReadAt(std::uint64_t offset, std::span<std::byte> out) const override {
    return source_->ReadAt(offset, out);
  }
  // Zeros where nothing was fetched.
  std::optional<std::span<const std::byte>> mapped() const override { return bytes_; }

  // Brings `part`, which lies in mapped(), into memory.
  Status Fetch(std::span<const std::byte> part) const;

 private:
  FetchedFile(std::shared_ptr<const ByteSource> source, std::span<std::byte> bytes)
      : source_(std::move(source)), bytes_(bytes) {}

  const std::shared_ptr<const ByteSource> source_;
  const std::span<std::byte> bytes_;
};

}  // namespace bloomery
