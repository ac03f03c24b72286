#include "storage/download_journal.h"

#include <fcntl.h>

#include <cerrno>
#include <cstring>
#include <fstream>

namespace bloomery {
namespace {

namespace fs = std::filesystem;

// Everything that makes a part another one: the object's version, how it is cut, and the digest's kind.
std::string LineKey(const PlannedFile& file, std::size_t part) {
  return fmt::format("{} {} {} {} {} {}", AwsEncode(file.name), AwsEncode(file.etag), file.size_bytes,
                     file.part_bytes, part, ChecksumName(file.kind));
}

Status Append(int fd, const fs::path& path, const std::string& line) {
  const ssize_t written = ::write(fd, line.data(), line.size());
  if (written != static_cast<ssize_t>(line.size()))
    return Fail(ErrorCode::kIo, "{}: cannot write: {}", path.string(), std::strerror(errno));
  return {};
}

Status RemoveAll(const fs::path& folder) {
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    fs::remove_all(entry.path(), error);
    if (error) break;
  }
  if (error) return Fail(ErrorCode::kIo, "{}: {}", folder.string(), error.message());
  return {};
}

}  // namespace

Result<std::unique_ptr<DownloadJournal>> DownloadJournal::Open(const fs::path& folder, const S3Uri& uri) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) return Fail(ErrorCode::kIo, "{}: {}", folder.string(), error.message());
  std::unique_ptr<DownloadJournal> journal(new DownloadJournal(folder / kName));
  const std::string first = fmt::format("bloomery-download 1 {}", AwsEncode(uri.ToString()));
  std::ifstream file(journal->path_);
  bool same = false;
  if (file) {
    std::string line;
    same = std::getline(file, line) && line == first && !file.eof();
    // A last line without its end was cut short.
    while (same && std::getline(file, line) && !file.eof()) {
      const std::size_t space = line.rfind(' ');
      if (space == std::string::npos) continue;
      if (auto digest = FromHex(line.substr(space + 1)))
        journal->found_[line.substr(0, space)] = *std::move(digest);
    }
    if (!same) RETURN_IF_ERROR(RemoveAll(folder));
  } else if (fs::exists(folder / kRecordName, error)) {
    RETURN_IF_ERROR(RemoveAll(folder));  // an older download that a newer one has just replaced
  } else if (!fs::is_empty(folder, error)) {
    return Fail(ErrorCode::kInvalidArgument,
                "{} is in the way: it is no unfinished download; remove it, or choose another directory",
                folder.string());
  }
  journal->fd_ =
      UniqueFd(::open(journal->path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0644));
  if (!journal->fd_)
    return Fail(ErrorCode::kIo, "{}: cannot create: {}", journal->path_.string(), std::strerror(errno));
  // Ends a line that was cut short, too.
  RETURN_IF_ERROR(Append(journal->fd_.get(), journal->path_, same ? "\n" : first + "\n"));
  return journal;
}

std::optional<std::string> DownloadJournal::Find(const PlannedFile& file, std::size_t part) const {
  const auto found = found_.find(LineKey(file, part));
  return found == found_.end() ? std::nullopt : std::optional(found->second);
}

Status DownloadJournal::Add(const PlannedFile& file, std::size_t part, const std::string& digest) {
  return Append(fd_.get(), path_, fmt::format("{} {}\n", LineKey(file, part), ToHex(digest)));
}

}  // namespace bloomery
