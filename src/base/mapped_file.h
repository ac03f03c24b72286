// A read-only file mapped into memory. The mapping is private and shared-cache backed: pages are read on
// first touch.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "base/byte_source.h"

namespace bloomery {

class MappedFile final : public ByteSource {
 public:
  // kNotFound, kIo, or kInvalidArgument for a directory. An empty file maps to an empty span.
  static Result<std::shared_ptr<const MappedFile>> Open(const std::filesystem::path& path);

  ~MappedFile() override;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::string_view name() const override { return name_; }
  std::uint64_t size_bytes() const override { return bytes_.size(); }
  Status ReadAt(std::uint64_t offset, std::span<std::byte> out) const override;
  std::optional<std::span<const std::byte>> mapped() const override { return bytes_; }
  void Forget() const override;

  std::span<const std::byte> bytes() const { return bytes_; }
  std::string_view text() const { return {reinterpret_cast<const char*>(bytes_.data()), bytes_.size()}; }

 private:
  MappedFile(std::string name, std::span<const std::byte> bytes) : name_(std::move(name)), bytes_(bytes) {}

  std::string name_;
  std::span<const std::byte> bytes_;
};

// A ByteSource over memory it owns: for tests, fuzzers and small downloads.
class MemorySource final : public ByteSource {
 public:
  MemorySource(std::string name, std::string bytes) : name_(std::move(name)), bytes_(std::move(bytes)) {}

  std::string_view name() const override { return name_; }
  std::uint64_t size_bytes() const override { return bytes_.size(); }
  Status ReadAt(std::uint64_t offset, std::span<std::byte> out) const override;
  std::optional<std::span<const std::byte>> mapped() const override {
    return std::as_bytes(std::span(bytes_));
  }

 private:
  std::string name_;
  std::string bytes_;
};

// The whole of a small text file (configuration, merges, prompts); kTooLarge past `max_bytes`.
Result<std::string> ReadFileToString(const std::filesystem::path& path, std::uint64_t max_bytes = 64U << 20U);

}  // namespace bloomery
