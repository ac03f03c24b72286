// One process a host at a time works on a folder: a lock file beside it, which the kernel frees when its
// holder dies.
#pragma once

#include <filesystem>
#include <functional>

#include "base/result.h"
#include "base/unique_fd.h"

namespace bloomery {

class FolderLock {
 public:
  // Waits for `path` + ".lock". `waiting` is called some times a second while another process has it; false
  // ends the wait with kCancelled.
  static Result<FolderLock> Take(const std::filesystem::path& path, const std::function<bool()>& waiting);

  // Frees the lock and removes its file.
  ~FolderLock();
  FolderLock(FolderLock&&) noexcept = default;
  FolderLock& operator=(FolderLock&&) = delete;

 private:
  FolderLock(std::filesystem::path path, UniqueFd fd) : path_(std::move(path)), fd_(std::move(fd)) {}

  std::filesystem::path path_;
  UniqueFd fd_;
};

}  // namespace bloomery
