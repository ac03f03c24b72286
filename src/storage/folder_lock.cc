#include "storage/folder_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

namespace bloomery {
namespace {

constexpr std::chrono::milliseconds kPoll{50};

// Whoever held the lock before may have removed the file: then what we have locked is nobody's.
bool IsStill(int fd, const std::filesystem::path& path) {
  struct stat held{};
  struct stat named{};
  return ::fstat(fd, &held) == 0 && ::stat(path.c_str(), &named) == 0 && held.st_ino == named.st_ino &&
         held.st_dev == named.st_dev;
}

}  // namespace

Result<FolderLock> FolderLock::Take(const std::filesystem::path& path, const std::function<bool()>& waiting,
                                    AfterUse after) {
  const std::filesystem::path lock = path.string() + ".lock";
  for (;;) {
    UniqueFd fd(::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644));
    if (!fd) return Fail(ErrorCode::kIo, "{}: cannot create: {}", lock.string(), std::strerror(errno));
    while (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK && errno != EINTR)
        return Fail(ErrorCode::kIo, "{}: cannot lock: {}", lock.string(), std::strerror(errno));
      if (!waiting()) return Fail(ErrorCode::kCancelled, "interrupted");
      std::this_thread::sleep_for(kPoll);
    }
    if (IsStill(fd.get(), lock)) return FolderLock(lock, std::move(fd), after);
  }
}

FolderLock::~FolderLock() {
  if (fd_ && after_ == AfterUse::kRemove) ::unlink(path_.c_str());
}

}  // namespace bloomery
