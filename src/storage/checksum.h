// The checksums that object stores keep of objects, computed as bytes arrive. CRCs of consecutive pieces
// combine into that of the whole, so that pieces may come in any order; MD5 and SHA-256 need theirs in
// sequence.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace bloomery {

enum class ChecksumKind : std::uint8_t { kCrc32, kCrc32c, kCrc64Nvme, kMd5, kSha256 };
inline constexpr std::array<ChecksumKind, 5> kChecksumKinds = {ChecksumKind::kCrc32, ChecksumKind::kCrc32c,
                                                               ChecksumKind::kCrc64Nvme, ChecksumKind::kMd5,
                                                               ChecksumKind::kSha256};

// "crc32c": as in the header x-amz-checksum-crc32c.
std::string_view ChecksumName(ChecksumKind kind);
bool IsCrc(ChecksumKind kind);

class Checksum {
 public:
  explicit Checksum(ChecksumKind kind);
  ~Checksum();
  Checksum(Checksum&&) noexcept;
  Checksum& operator=(Checksum&&) noexcept;

  void Update(std::span<const std::byte> bytes);
  // The digest as the store would send it, before base64: big-endian for CRCs. Nothing may be added after.
  std::string Finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string ChecksumOf(ChecksumKind kind, std::span<const std::byte> bytes);

// The CRC of a and b together, from theirs and b's length.
std::string CombineCrcs(ChecksumKind kind, const std::string& a, const std::string& b, std::uint64_t b_bytes);

std::string ToBase64(std::string_view bytes);
std::optional<std::string> FromBase64(std::string_view text);
std::string ToHex(std::string_view bytes);
std::optional<std::string> FromHex(std::string_view text);

}  // namespace bloomery
