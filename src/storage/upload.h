// A directory, or one file, put under a prefix of a bucket. Large files go up in parts, many at a time; what
// is there already with the same bytes is left out, so that an interrupted upload goes on when it is started
// again.
#pragma once

#include <filesystem>

#include "base/result.h"
#include "storage/download.h"
#include "storage/s3_client.h"

namespace bloomery {

struct UploadOptions {
  int connections = 16;  // in flight
  // S3 takes parts from 5 MiB on, 10,000 a file at most: larger files have larger parts.
  std::uint64_t part_bytes = 16U << 20U;
  // Of a directory: the name of a file that is sent when all others are there, since readers take its
  // presence for theirs.
  std::string last{};
  // As in DownloadOptions.
  std::function<bool(const TransferProgress&)> progress{};
};

struct UploadReport {
  std::size_t files = 0;
  std::size_t kept_files = 0;  // were there
  std::uint64_t total_bytes = 0;
  std::uint64_t moved_bytes = 0;
};

// A directory's files become `uri`/name, at any depth; links are followed. One file becomes `uri`, or
// `uri`name where `uri` ends in a slash. Ended early, what was begun in parts is removed from the bucket, and
// whole files stay.
Result<UploadReport> UploadPath(S3Client& s3, const std::filesystem::path& path, const S3Uri& uri,
                                const UploadOptions& options);

}  // namespace bloomery
