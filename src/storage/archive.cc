#include "storage/archive.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <memory>
#include <vector>

#include "base/unique_fd.h"
#include "base/utf8.h"
#include "storage/download.h"

namespace bloomery {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kReadBytes = 1U << 20U;
// A path that the kernel takes, and a folder in a folder so often that no model does it.
constexpr std::size_t kMaxNameBytes = 1024;

struct Free {
  void operator()(archive* reader) const { ::archive_read_free(reader); }
};
using Reader = std::unique_ptr<archive, Free>;

std::string Reason(archive* reader) {
  const char* text = ::archive_error_string(reader);
  return text == nullptr ? "damaged" : text;
}

// Names as others would print them: bytes that are no text are not shown.
std::string Shown(std::string_view name) { return ReplaceInvalidUtf8(name.substr(0, kMaxNameBytes)); }

std::unexpected<Error> Refused(std::string_view name, std::string_view why) {
  return Fail(ErrorCode::kUnsupported, "\"{}\" is refused: {}", Shown(name), why);
}

// The name without "./" and slashes at its end; "" for the root itself.
Result<std::string> SafeName(const char* raw) {
  if (raw == nullptr || *raw == '\0') return Refused("", "an entry without a name");
  const std::string_view name = raw;
  if (name.size() > kMaxNameBytes) return Refused(name, "its name is too long");
  if (name.front() == '/') return Refused(name, "a path from the root");
  if (name.find('\\') != std::string_view::npos) return Refused(name, "a backslash in a name");
  if (name.size() > 1 && name[1] == ':') return Refused(name, "a drive in a name");
  std::string safe;
  for (std::size_t begin = 0; begin < name.size();) {
    const std::size_t end = std::min(name.find('/', begin), name.size());
    const std::string_view part = name.substr(begin, end - begin);
    if (part == "..") return Refused(name, "it leads out of the directory");
    if (!part.empty() && part != ".") {
      if (!safe.empty()) safe += '/';
      safe += part;
    }
    begin = end + 1;
  }
  return safe;
}

class Unpacker {
 public:
  Unpacker(archive* reader, const fs::path& folder, std::uint64_t packed_bytes, const ArchiveLimits& limits,
           const std::atomic<bool>* cancel)
      : reader_(reader), folder_(folder), packed_bytes_(packed_bytes), limits_(limits), cancel_(cancel) {}

  Status Run() {
    for (std::size_t entries = 0;; ++entries) {
      archive_entry* entry = nullptr;
      const int got = ::archive_read_next_header(reader_, &entry);
      if (got == ARCHIVE_EOF) return {};
      // A warning is a name in another encoding; it is taken byte by byte below.
      if (got != ARCHIVE_OK && got != ARCHIVE_WARN) return Fail(ErrorCode::kCorrupt, "{}", Reason(reader_));
      if (entries == limits_.max_entries)
        return Fail(ErrorCode::kTooLarge, "more than {} entries", limits_.max_entries);
      RETURN_IF_ERROR(Unpack(entry));
    }
  }

 private:
  Status Unpack(archive_entry* entry) {
    const char* raw = ::archive_entry_pathname_utf8(entry);
    if (raw == nullptr) raw = ::archive_entry_pathname(entry);
    ASSIGN_OR_RETURN(const std::string name, SafeName(raw));
    if (::archive_entry_hardlink(entry) != nullptr || ::archive_entry_hardlink_utf8(entry) != nullptr)
      return Refused(name, "a hard link");
    if (::archive_entry_is_encrypted(entry) != 0) return Refused(name, "it is encrypted");
    switch (::archive_entry_filetype(entry)) {
      case AE_IFDIR:
        return name.empty() ? Status() : MakeFolder(name);
      case AE_IFREG:
        break;
      case AE_IFLNK:
        return Refused(name, "a symbolic link");
      default:
        return Refused(name, "neither a file nor a folder");
    }
    if (name.empty()) return Refused(raw, "a file without a name");
    if (const std::size_t slash = name.rfind('/'); slash != std::string::npos)
      RETURN_IF_ERROR(MakeFolder(name.substr(0, slash)));
    if (!seen_.emplace(name, Kind::kFile).second) return Refused(name, "its name is there twice");
    return WriteFile(name, (::archive_entry_perm(entry) & 0111) != 0 ? 0755 : 0644);
  }

  Status MakeFolder(const std::string& name) {
    for (std::size_t slash = 0; slash != std::string::npos;) {
      slash = name.find('/', slash + 1);
      const std::string part = name.substr(0, slash);
      const auto [found, fresh] = seen_.emplace(part, Kind::kFolder);
      if (found->second == Kind::kFile) return Refused(name, "a file has this name");
      if (fresh && ::mkdir((folder_ / part).c_str(), 0755) != 0)
        return Fail(ErrorCode::kIo, "{}: {}", Shown(part), std::strerror(errno));
    }
    return {};
  }

  Status WriteFile(const std::string& name, mode_t mode) {
    const UniqueFd fd(
        ::open((folder_ / name).c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode));
    if (!fd) return Fail(ErrorCode::kIo, "{}: {}", Shown(name), std::strerror(errno));
    for (;;) {
      if (cancel_ != nullptr && *cancel_) return Fail(ErrorCode::kCancelled, "interrupted");
      const la_ssize_t got = ::archive_read_data(reader_, buffer_.data(), buffer_.size());
      if (got == 0) return {};
      if (got < 0) return Fail(ErrorCode::kCorrupt, "{}: {}", Shown(name), Reason(reader_));
      // What has come out counts, not what the archive says will come.
      written_bytes_ += static_cast<std::uint64_t>(got);
      RETURN_IF_ERROR(CheckSize());
      for (la_ssize_t done = 0; done < got;) {
        const ssize_t wrote = ::write(fd.get(), buffer_.data() + done, static_cast<std::size_t>(got - done));
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote <= 0) return Fail(ErrorCode::kIo, "{}: {}", Shown(name), std::strerror(errno));
        done += wrote;
      }
    }
  }

  Status CheckSize() const {
    if (written_bytes_ > limits_.max_bytes)
      return Fail(ErrorCode::kTooLarge, "more than {} bytes when unpacked", limits_.max_bytes);
    if (written_bytes_ > limits_.free_bytes && written_bytes_ / limits_.max_ratio > packed_bytes_) {
      return Fail(ErrorCode::kTooLarge,
                  "more than {} times its own size when unpacked: made to fill a disk, not to carry a model",
                  limits_.max_ratio);
    }
    return {};
  }

  enum class Kind : std::uint8_t { kFile, kFolder };

  archive* reader_;
  const fs::path& folder_;
  std::uint64_t packed_bytes_;
  const ArchiveLimits& limits_;
  const std::atomic<bool>* cancel_;
  std::map<std::string, Kind> seen_;
  std::uint64_t written_bytes_ = 0;
  std::vector<char> buffer_ = std::vector<char>(kReadBytes);
};

Status UnpackInto(const fs::path& file, const fs::path& folder, const ArchiveLimits& limits,
                  const std::atomic<bool>* cancel) {
  std::error_code error;
  const std::uint64_t packed_bytes = fs::file_size(file, error);
  if (error) return Fail(ErrorCode::kNotFound, "{}", error.message());
  const Reader reader(::archive_read_new());
  ::archive_read_support_filter_gzip(reader.get());
  ::archive_read_support_format_tar(reader.get());
  ::archive_read_support_format_zip(reader.get());
  if (::archive_read_open_filename(reader.get(), file.c_str(), kReadBytes) != ARCHIVE_OK)
    return Fail(ErrorCode::kCorrupt, "cannot be read as tar, tar.gz or zip: {}", Reason(reader.get()));
  return Unpacker(reader.get(), folder, packed_bytes, limits, cancel).Run();
}

// The one folder that everything lies in, or the directory itself.
fs::path Top(const fs::path& folder) {
  std::error_code error;
  fs::directory_iterator it(folder, error);
  if (error || it == fs::directory_iterator()) return folder;
  const fs::directory_entry first = *it;
  return ++it == fs::directory_iterator() && first.is_directory(error) ? first.path() : folder;
}

}  // namespace

Status UnpackArchive(const fs::path& archive, const fs::path& directory, const ArchiveLimits& limits,
                     const std::atomic<bool>* cancel) {
  std::error_code error;
  if (fs::exists(directory, error) && !fs::is_empty(directory, error))
    return Fail(ErrorCode::kInvalidArgument, "{} is there and not empty", directory.string());
  const fs::path partial = directory.string() + ".unpacking";
  fs::remove_all(partial, error);  // of one that was killed
  fs::create_directories(partial, error);
  if (error) return Fail(ErrorCode::kIo, "{}: {}", partial.string(), error.message());
  Status unpacked = UnpackInto(archive, partial, limits, cancel);
  if (unpacked && ::rename(Top(partial).c_str(), directory.c_str()) != 0)
    unpacked = Fail(ErrorCode::kIo, "cannot put into {}: {}", directory.string(), std::strerror(errno));
  fs::remove_all(partial, error);
  if (!unpacked) return WithContext(unpacked.error(), archive.string());
  return {};
}

Status UnpackArchive(S3Client& s3, const S3Uri& archive, const fs::path& directory,
                     const ArchiveLimits& limits, const std::atomic<bool>* cancel) {
  const fs::path packed = directory.string() + ".packed";
  DownloadOptions options;
  options.progress = [cancel](const TransferProgress&) { return cancel == nullptr || !*cancel; };
  RETURN_IF_ERROR(DownloadDirectory(s3, archive, packed, options));
  const std::size_t slash = archive.key.rfind('/');
  const std::string name = archive.key.substr(slash == std::string::npos ? 0 : slash + 1);
  Status unpacked = UnpackArchive(packed / name, directory, limits, cancel);
  std::error_code ignored;
  fs::remove_all(packed, ignored);
  return unpacked;
}

}  // namespace bloomery
