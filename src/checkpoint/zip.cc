#include "checkpoint/zip.h"

#include <cstdint>
#include <cstring>
#include <optional>

namespace bloomery {
namespace {

constexpr std::uint32_t kEndSignature = 0x06054b50;
constexpr std::uint32_t kZip64EndSignature = 0x06064b50;
constexpr std::uint32_t kZip64LocatorSignature = 0x07064b50;
constexpr std::uint32_t kCentralSignature = 0x02014b50;
constexpr std::uint32_t kLocalSignature = 0x04034b50;
constexpr std::size_t kEndBytes = 22;
constexpr std::size_t kZip64LocatorBytes = 20;
constexpr std::size_t kZip64EndBytes = 56;
constexpr std::size_t kCentralBytes = 46;
constexpr std::size_t kLocalBytes = 30;
constexpr std::size_t kMaxComment = 65535;
constexpr std::size_t kMaxEntries = 1'000'000;
constexpr std::uint16_t kZip64Extra = 0x0001;
constexpr std::uint16_t kEncryptedFlag = 0x0001;

using Bytes = std::span<const std::byte>;

// Little-endian field at an offset the caller has checked.
template <typename T>
T Field(Bytes bytes, std::size_t offset) {
  T value = 0;
  std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

// A record of `size` bytes at `offset`, if the archive holds it.
std::optional<Bytes> Record(Bytes archive, std::uint64_t offset, std::uint64_t size) {
  if (offset > archive.size() || size > archive.size() - offset) return std::nullopt;
  return archive.subspan(offset, size);
}

struct Directory {
  std::uint64_t offset = 0;
  std::uint64_t size_bytes = 0;
  std::uint64_t entries = 0;
};

Result<Directory> FindZip64Directory(Bytes archive, std::size_t end_offset) {
  if (end_offset < kZip64LocatorBytes) return Fail(ErrorCode::kCorrupt, "zip64 locator missing");
  const Bytes locator = archive.subspan(end_offset - kZip64LocatorBytes, kZip64LocatorBytes);
  if (Field<std::uint32_t>(locator, 0) != kZip64LocatorSignature)
    return Fail(ErrorCode::kCorrupt, "zip64 locator missing");
  const auto end = Record(archive, Field<std::uint64_t>(locator, 8), kZip64EndBytes);
  if (!end || Field<std::uint32_t>(*end, 0) != kZip64EndSignature)
    return Fail(ErrorCode::kCorrupt, "zip64 end record missing");
  return Directory{Field<std::uint64_t>(*end, 48), Field<std::uint64_t>(*end, 40),
                   Field<std::uint64_t>(*end, 32)};
}

Result<Directory> FindDirectory(Bytes archive) {
  if (archive.size() < kEndBytes)
    return Fail(ErrorCode::kCorrupt, "{} bytes are too few for a zip archive", archive.size());
  const std::size_t last = archive.size() - kEndBytes;
  const std::size_t first = last > kMaxComment ? last - kMaxComment : 0;
  for (std::size_t at = last + 1; at-- > first;) {
    if (Field<std::uint32_t>(archive, at) != kEndSignature) continue;
    const Bytes end = archive.subspan(at, kEndBytes);
    if (Field<std::uint16_t>(end, 20) != archive.size() - at - kEndBytes)
      continue;  // the comment must reach the end of the file
    const Directory directory{Field<std::uint32_t>(end, 16), Field<std::uint32_t>(end, 12),
                              Field<std::uint16_t>(end, 10)};
    const bool zip64 =
        directory.offset == 0xFFFFFFFF || directory.size_bytes == 0xFFFFFFFF || directory.entries == 0xFFFF;
    return zip64 ? FindZip64Directory(archive, at) : Result<Directory>(directory);
  }
  return Fail(ErrorCode::kCorrupt, "no end-of-archive record (truncated download?)");
}

struct Sizes {
  std::uint64_t uncompressed = 0;
  std::uint64_t compressed = 0;
  std::uint64_t local_offset = 0;
};

// Fields that do not fit 32 bits are in the zip64 extra field, in this order, only those that overflowed.
bool ReadZip64Extra(Bytes extra, Sizes& sizes) {
  std::size_t at = 0;
  while (extra.size() - at >= 4) {
    const auto id = Field<std::uint16_t>(extra, at);
    const std::size_t length = Field<std::uint16_t>(extra, at + 2);
    at += 4;
    if (length > extra.size() - at) return false;
    if (id == kZip64Extra) {
      Bytes body = extra.subspan(at, length);
      for (std::uint64_t* field : {&sizes.uncompressed, &sizes.compressed, &sizes.local_offset}) {
        if (*field != 0xFFFFFFFF) continue;
        if (body.size() < 8) return false;
        *field = Field<std::uint64_t>(body, 0);
        body = body.subspan(8);
      }
      return true;
    }
    at += length;
  }
  return sizes.uncompressed != 0xFFFFFFFF && sizes.compressed != 0xFFFFFFFF &&
         sizes.local_offset != 0xFFFFFFFF;
}

Result<Bytes> EntryData(Bytes archive, const Sizes& sizes) {
  const auto local = Record(archive, sizes.local_offset, kLocalBytes);
  if (!local || Field<std::uint32_t>(*local, 0) != kLocalSignature)
    return Fail(ErrorCode::kCorrupt, "its local header is missing");
  const std::uint64_t data =
      sizes.local_offset + kLocalBytes + Field<std::uint16_t>(*local, 26) + Field<std::uint16_t>(*local, 28);
  const auto bytes = Record(archive, data, sizes.uncompressed);
  if (!bytes)
    return Fail(ErrorCode::kCorrupt, "{} bytes at {} are past the end of the file", sizes.uncompressed, data);
  return *bytes;
}

}  // namespace

Result<ZipEntries> ReadZipDirectory(std::span<const std::byte> archive) {
  ASSIGN_OR_RETURN(const Directory directory, FindDirectory(archive));
  if (directory.entries > kMaxEntries)
    return Fail(ErrorCode::kCorrupt, "{} entries, the limit is {}", directory.entries, kMaxEntries);
  const auto records = Record(archive, directory.offset, directory.size_bytes);
  if (!records) return Fail(ErrorCode::kCorrupt, "the central directory is past the end of the file");
  ZipEntries entries;
  Bytes rest = *records;
  for (std::uint64_t i = 0; i < directory.entries; ++i) {
    if (rest.size() < kCentralBytes || Field<std::uint32_t>(rest, 0) != kCentralSignature) {
      return Fail(ErrorCode::kCorrupt, "the central directory ends after {} of {} entries", i,
                  directory.entries);
    }
    const std::size_t name_bytes = Field<std::uint16_t>(rest, 28);
    const std::size_t extra_bytes = Field<std::uint16_t>(rest, 30);
    const std::size_t record_bytes =
        kCentralBytes + name_bytes + extra_bytes + Field<std::uint16_t>(rest, 32);
    if (record_bytes > rest.size())
      return Fail(ErrorCode::kCorrupt, "entry {} of the central directory is cut off", i);
    std::string name(reinterpret_cast<const char*>(rest.data()) + kCentralBytes, name_bytes);
    if ((Field<std::uint16_t>(rest, 8) & kEncryptedFlag) != 0)
      return Fail(ErrorCode::kUnsupported, "entry \"{}\" is encrypted", name);
    if (Field<std::uint16_t>(rest, 10) != 0) {
      return Fail(ErrorCode::kUnsupported,
                  "entry \"{}\" is compressed; torch.save writes entries as they are", name);
    }
    Sizes sizes{Field<std::uint32_t>(rest, 24), Field<std::uint32_t>(rest, 20),
                Field<std::uint32_t>(rest, 42)};
    if (!ReadZip64Extra(rest.subspan(kCentralBytes + name_bytes, extra_bytes), sizes) ||
        sizes.uncompressed != sizes.compressed) {
      return Fail(ErrorCode::kCorrupt, "entry \"{}\": sizes do not agree", name);
    }
    auto data = EntryData(archive, sizes);
    if (!data) return WithContext(std::move(data).error(), fmt::format("entry \"{}\"", name));
    if (!entries.emplace(name, *data).second)
      return Fail(ErrorCode::kCorrupt, "entry \"{}\" is there twice", name);
    rest = rest.subspan(record_bytes);
  }
  return entries;
}

}  // namespace bloomery
