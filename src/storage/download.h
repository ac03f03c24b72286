// A prefix of a bucket, made a directory: parallel ranged requests straight into the files, each byte hashed
// as it passes, checked against what the store knows, and shown only when all of it is there.
//
//   DIR.lock      held while this is at work: other processes of the host wait, and then find DIR finished
//   DIR.partial   the files so far, at their full size, and the journal of the parts that have arrived
//   DIR           appears by rename, with .bloomery-download.json, which says what it was made of
//
// A second download of the same prefix compares that record with the bucket, and fetches nothing if nothing
// has changed; otherwise it fetches all of it and exchanges the directories, so that what runs from the old
// one keeps its files. Left out: synchronising with the disk, as every download tool does; a host that loses
// power before the kernel has written everything must download again.
#pragma once

#include <filesystem>
#include <functional>

#include "base/result.h"
#include "base/system.h"
#include "storage/s3_client.h"

namespace bloomery {

struct TransferProgress {
  std::uint64_t done_bytes = 0;
  std::uint64_t total_bytes = 0;
  std::uint64_t moved_bytes = 0;  // over the network, by this process
  bool waiting = false;           // for another process that downloads the same
};

struct DownloadOptions {
  // In flight. One connection of S3 gives 50 to 100 MB/s.
  int connections = 16;
  // S3 answers a request after 20 to 100 ms, which at that speed is a third of 16 MiB's time: with several in
  // flight, nothing of the line's.
  std::uint64_t part_bytes = 16U << 20U;
  // A larger download is written past the page cache, which takes a fraction of the processor's time and
  // pushes nothing out of memory. From a fifth of what is free (vm.dirty_ratio) the kernel lets nobody write
  // faster than the disk.
  std::uint64_t max_cached_bytes = AvailableMemoryBytes() / 5;
  // Called from the caller's thread, about ten times a second; false ends the download with kCancelled.
  std::function<bool(const TransferProgress&)> progress;
};

struct DownloadReport {
  std::size_t files = 0;
  std::uint64_t total_bytes = 0;
  std::uint64_t moved_bytes = 0;  // over the network
  std::uint64_t kept_bytes = 0;   // were there from an interrupted download
  bool was_there = false;         // nothing had changed
  std::size_t unverified = 0;     // files of which the store knows no checksum
};

// `directory` must not exist, or be empty, or have been downloaded from the same `uri`. After an error or an
// interruption the same call goes on where this one was.
Result<DownloadReport> DownloadDirectory(S3Client& s3, const S3Uri& uri,
                                         const std::filesystem::path& directory,
                                         const DownloadOptions& options);

}  // namespace bloomery
