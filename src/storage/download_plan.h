// What a download fetches: the objects under a prefix, the files they become, how each is cut into parts, and
// how it is known to be whole. The transfers themselves are download.h.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "storage/s3_client.h"

namespace bloomery {

// How a file's bytes are checked once they are there.
//
//   parts:    |----16 MiB----|----16 MiB----|--7 MiB--|       each has a digest, taken as it arrives
//   kCombine  the store knows one CRC of the whole: the digests combine into it
//   kNested   the store knows a digest of its parts' digests: ours are cut as they were uploaded
//   kReread   the store knows an MD5 or SHA-256 of the whole: the file is read once more
//   kNone     the store knows nothing: size, and what TCP and TLS vouch for
enum class Verification : std::uint8_t { kNone, kCombine, kNested, kReread };

struct PlannedFile {
  std::string name;  // relative to the directory, no part of it is empty, "." or ".."
  S3Uri object{};
  std::uint64_t size_bytes = 0;
  std::string etag{};
  std::uint64_t part_bytes = 0;  // of all parts but the last
  Verification verification = Verification::kNone;
  ChecksumKind kind = ChecksumKind::kCrc32c;  // of the parts' digests
  S3Checksum expected{};                      // unless kNone
  // Asked for in one request, whose answer says what is expected.
  bool in_one = false;

  std::size_t parts() const {
    return size_bytes == 0 ? 1 : static_cast<std::size_t>((size_bytes + part_bytes - 1) / part_bytes);
  }
  S3Range part(std::size_t index) const {
    const std::uint64_t offset = index * part_bytes;
    return {offset, std::min(part_bytes, size_bytes - offset)};
  }
};

// The prefix is a folder ("opt" is "opt/", never "opt-30b/"), or one exact object, which becomes one file.
// kNotFound when there is neither; kUnsupported for keys that cannot be files side by side.
Result<std::vector<PlannedFile>> ListFiles(S3Client& s3, const S3Uri& uri, std::uint64_t part_bytes);

// Asks the store for the checksum of a file that takes several requests, and cuts it accordingly.
Status PlanParts(S3Client& s3, PlannedFile& file, std::uint64_t part_bytes);

// Takes over what the store knows of a file fetched in one request.
void PlanVerification(PlannedFile& file, const S3Head& head);

}  // namespace bloomery
