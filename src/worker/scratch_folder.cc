#include "worker/scratch_folder.h"

#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstring>
#include <string>
#include <utility>

namespace bloomery {
namespace {

namespace fs = std::filesystem;

// Followed by the owner's process id, a hyphen and six random letters.
constexpr std::string_view kPrefix = "bloomery-";

fs::path Parent() {
  std::error_code ignored;
  const fs::path memory = "/dev/shm";
  return ::access(memory.c_str(), W_OK) == 0 ? memory : fs::temp_directory_path(ignored);
}

bool OwnerIsGone(const std::string& name) {
  if (!name.starts_with(kPrefix)) return false;
  pid_t owner = 0;
  const char* begin = name.data() + kPrefix.size();
  const auto [end, error] = std::from_chars(begin, name.data() + name.size(), owner);
  return error == std::errc() && end != name.data() + name.size() && *end == '-' && owner > 0 &&
         ::kill(owner, 0) != 0 && errno == ESRCH;
}

void RemoveWhatOthersLeft(const fs::path& parent) {
  std::error_code error;
  for (fs::directory_iterator entry(parent, error), end; !error && entry != end; entry.increment(error)) {
    std::error_code ignored;  // another user's, or removed by another gateway meanwhile
    if (OwnerIsGone(entry->path().filename().string())) fs::remove_all(entry->path(), ignored);
  }
}

}  // namespace

Result<ScratchFolder> ScratchFolder::Make() {
  const fs::path parent = Parent();
  RemoveWhatOthersLeft(parent);
  std::string path = (parent / fmt::format("{}{}-XXXXXX", kPrefix, ::getpid())).string();
  if (::mkdtemp(path.data()) == nullptr)
    return Fail(ErrorCode::kIo, "cannot make the folder {}: {}", path, std::strerror(errno));
  return ScratchFolder(path);
}

ScratchFolder::ScratchFolder(ScratchFolder&& other) noexcept : path_(std::exchange(other.path_, {})) {}

ScratchFolder& ScratchFolder::operator=(ScratchFolder&& other) noexcept {
  std::swap(path_, other.path_);
  return *this;
}

ScratchFolder::~ScratchFolder() {
  std::error_code ignored;
  if (!path_.empty()) fs::remove_all(path_, ignored);
}

}  // namespace bloomery
