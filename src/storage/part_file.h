// A file that is written in parts by several threads at once, in large pieces, and past the page cache where
// that is quicker. Left out: what the parts are and whether they are right (download.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

#include "base/result.h"
#include "base/unique_fd.h"

namespace bloomery {

// What direct writing wants offsets, lengths and addresses to be multiples of, on every disk there is.
inline constexpr std::size_t kDirectBlockBytes = 4096;

// Open and Close by one thread; the rest from several.
class PartFile {
 public:
  // The file at its full size, with its folders: parts can come in any order, and a full disk is found out at
  // once. What it holds already stays. `direct`: past the page cache, where the file system can.
  Status Open(const std::filesystem::path& path, std::uint64_t size_bytes, bool direct);
  void Close();
  bool is_open() const { return static_cast<bool>(cached_); }

  // Whole blocks at a block's place go past the page cache, if it was opened so; the rest does not. No two
  // threads write to one block.
  Status WriteAt(std::uint64_t offset, std::span<const std::byte> bytes) const;
  // False at the end, and where it cannot be read.
  bool ReadAt(std::uint64_t offset, std::span<std::byte> bytes) const;

 private:
  std::filesystem::path path_;
  UniqueFd cached_;
  UniqueFd direct_;
};

// Gathers one part's bytes, and writes them in pieces of kPieceBytes. One a thread: the piece is the
// thread's.
class PartWriter {
 public:
  // The network brings 16 KiB at a time. Written so, a page cache takes twice as long as by megabytes; a disk
  // needs pieces of this size to be written at its speed.
  static constexpr std::size_t kPieceBytes = 4U << 20U;

  PartWriter(const PartFile& file, std::uint64_t offset) : file_(&file), offset_(offset) {}

  Status Add(std::span<const std::byte> bytes);
  Status Flush();

 private:
  const PartFile* file_;
  std::uint64_t offset_;  // of the piece
  std::size_t filled_bytes_ = 0;
};

}  // namespace bloomery
