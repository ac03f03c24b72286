// A folder in memory that a group of ranks keeps its files in (the gateway's socket, Open MPI's session and
// shared memory), so that whoever started them can remove every trace, however they ended.
#pragma once

#include <filesystem>

#include "base/result.h"

namespace bloomery {

// Removed with the object. What a killed owner left is removed when the next folder is made.
class ScratchFolder {
 public:
  // Under /dev/shm, or where temporary files go without one; readable by this user alone. kIo.
  static Result<ScratchFolder> Make();

  ScratchFolder(ScratchFolder&& other) noexcept;
  ScratchFolder& operator=(ScratchFolder&& other) noexcept;
  ~ScratchFolder();

  const std::filesystem::path& path() const { return path_; }

 private:
  explicit ScratchFolder(std::filesystem::path path) : path_(std::move(path)) {}

  std::filesystem::path path_;  // empty: moved from
};

}  // namespace bloomery
