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
  // kKeep: the file is left for others, who do not look whether it is still the same (huggingface_hub).
  enum class AfterUse : std::uint8_t { kRemove, kKeep };

  // Waits for `path` + ".lock". `waiting` is called some times a second while another process has it; false
  // ends the wait with kCancelled.
  static Result<FolderLock> Take(const std::filesystem::path& path, const std::function<bool()>& waiting,
                                 AfterUse after = AfterUse::kRemove);

  ~FolderLock();
  FolderLock(FolderLock&&) noexcept = default;
  FolderLock& operator=(FolderLock&&) = delete;

 private:
  FolderLock(std::filesystem::path path, UniqueFd fd, AfterUse after)
      : path_(std::move(path)), fd_(std::move(fd)), after_(after) {}

  std::filesystem::path path_;
  UniqueFd fd_;
  AfterUse after_;
};

}  // namespace bloomery
