// model.tar.gz and zip files, unpacked as if their author meant harm: nothing is written outside the
// directory, nothing links anywhere, and nothing fills the disk. What can stand in an archive and in no model
// is refused with the entry's name, not skipped. Left out: writing archives, encryption, and formats that
// models do not come in.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>

#include "base/result.h"
#include "storage/s3_client.h"

namespace bloomery {

struct ArchiveLimits {
  // Of all files together.
  std::uint64_t max_bytes = 1ULL << 40U;
  // Bytes that come out for each that goes in; DEFLATE ends at about 1,030, and weights shrink by half at
  // best. Only counts from kFreeBytes on: a megabyte of zeros in a model is no attack.
  std::uint64_t max_ratio = 100;
  static constexpr std::uint64_t kFreeBytes = 64U << 20U;
  std::uint64_t free_bytes = kFreeBytes;
  std::size_t max_entries = 100'000;
};

// Unpacks a tar, tar.gz or zip file. What it holds becomes `directory`, or, where all of it lies in one
// folder, what is in that folder. `directory` must not exist or be empty; it appears by rename when all is
// there.
//
// kUnsupported: an entry that is refused (a name with "..", "\", or from the root; links, devices; the same
// name twice). kTooLarge: over a limit. kCorrupt: damaged, cut short, or no such archive.
Status UnpackArchive(const std::filesystem::path& archive, const std::filesystem::path& directory,
                     const ArchiveLimits& limits = {}, const std::atomic<bool>* cancel = nullptr);

// The same with an object of S3, which is downloaded beside `directory` first.
Status UnpackArchive(S3Client& s3, const S3Uri& archive, const std::filesystem::path& directory,
                     const ArchiveLimits& limits = {}, const std::atomic<bool>* cancel = nullptr);

}  // namespace bloomery
