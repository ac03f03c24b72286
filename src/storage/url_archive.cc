#include "storage/url_archive.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <optional>
#include <thread>

#include "base/unique_fd.h"
#include "storage/checksum.h"
#include "storage/folder_lock.h"

namespace bloomery {
namespace {

namespace fs = std::filesystem;

constexpr int kMaxRedirects = 5;
// Attempts in a row that bring nothing, and the wait after the first of them, longer after each.
constexpr int kIdleTries = 5;
constexpr std::chrono::milliseconds kIdleWait{300};

std::string VersionOf(const HttpResponse& head) {
  for (const std::string_view name : {"etag", "last-modified"}) {
    if (const std::string_view value = head.Header(name); !value.empty()) return std::string(value);
  }
  return {};
}

class ArchiveSink final : public BodySink {
 public:
  using Known = std::function<bool(const std::string& version)>;

  ArchiveSink(std::string name, fs::path path, int fd, std::uint64_t max_bytes, Known known,
              const std::function<bool(const TransferProgress&)>& progress)
      : name_(std::move(name)),
        path_(std::move(path)),
        fd_(fd),
        max_bytes_(max_bytes),
        known_(std::move(known)),
        progress_(progress) {}

  std::uint64_t at() const { return at_; }
  const std::string& version() const { return version_; }
  bool is_known() const { return is_known_; }
  // What to ask for, to go on; empty: all of it.
  std::string range() const { return at_ > 0 && !version_.empty() ? fmt::format("bytes={}-", at_) : ""; }

  Status Begin(const HttpResponse& head) override {
    const std::string version = VersionOf(head);
    if (head.status == 206) {
      if (version == version_ && head.Header("content-range").starts_with(fmt::format("bytes {}-", at_)))
        return {};
      return Fail(ErrorCode::kCorrupt, "{}: was not answered with the range that was asked for", name_);
    }
    version_ = version;
    at_ = 0;
    size_ = SizeIn(head.Header("content-length"));
    if (size_ && *size_ > max_bytes_)
      return Fail(ErrorCode::kTooLarge, "{}: {} bytes, and {} are the limit", name_, *size_, max_bytes_);
    is_known_ = known_(version_);
    if (is_known_) return Fail(ErrorCode::kAlreadyExists, "{}: is here already", name_);
    if (::ftruncate(fd_, 0) != 0) return IoError("empty");
    return {};
  }

  Status Write(std::span<const std::byte> bytes) override {
    if (bytes.size() > max_bytes_ - at_)
      return Fail(ErrorCode::kTooLarge, "{}: more than {} bytes, which are the limit", name_, max_bytes_);
    while (!bytes.empty()) {
      const ssize_t written = ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(at_));
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) return IoError("write");
      bytes = bytes.subspan(static_cast<std::size_t>(written));
      at_ += static_cast<std::uint64_t>(written);
      moved_ += static_cast<std::uint64_t>(written);
    }
    TransferProgress told;
    told.total_bytes = size_.value_or(at_);
    told.done_bytes = at_;
    told.moved_bytes = moved_;
    if (progress_ && !progress_(told)) return Fail(ErrorCode::kCancelled, "{}: interrupted", name_);
    return {};
  }

 private:
  static std::optional<std::uint64_t> SizeIn(std::string_view text) {
    std::uint64_t size = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), size);
    if (text.empty() || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
    return size;
  }
  std::unexpected<Error> IoError(std::string_view what) const {
    return Fail(ErrorCode::kIo, "{}: cannot {}: {}", path_.string(), what, std::strerror(errno));
  }

  const std::string name_;
  const fs::path path_;
  const int fd_;
  const std::uint64_t max_bytes_;
  const Known known_;
  const std::function<bool(const TransferProgress&)>& progress_;
  std::string version_;
  std::optional<std::uint64_t> size_;
  std::uint64_t at_ = 0;
  std::uint64_t moved_ = 0;
  bool is_known_ = false;
};

// One GET, with redirects followed.
Result<HttpResponse> Get(HttpClient& http, std::string url, ArchiveSink& sink) {
  for (int hops = 0;; ++hops) {
    HttpRequest request{.url = url, .sink = &sink};
    if (const std::string range = sink.range(); !range.empty()) {
      request.headers.emplace_back("range", range);
      // Of a weak ETag no range may be asked for: all of it comes, and begins anew.
      request.headers.emplace_back("if-range", sink.version());
    }
    ASSIGN_OR_RETURN(HttpResponse answer, http.Perform(request));
    const std::string location(answer.Header("location"));
    if (answer.status / 100 != 3 || location.empty()) return answer;
    if (hops == kMaxRedirects)
      return Fail(ErrorCode::kUnavailable, "{}: too many redirects", WithoutQuery(url));
    const std::string next = location.starts_with("/") ? OriginOf(url) + location : location;
    if (!IsHttpUrl(next) || (url.starts_with("https://") && !next.starts_with("https://")))
      return Fail(ErrorCode::kPermissionDenied, "{}: redirects to where no file may be taken from",
                  WithoutQuery(url));
    url = next;
  }
}

Status Judge(const HttpResponse& answer, const std::string& name) {
  const int status = answer.status;
  if (status / 100 == 2) return {};
  if (status == 404 || status == 410) return Fail(ErrorCode::kNotFound, "{}: not found ({})", name, status);
  if (status == 401 || status == 403)
    return Fail(ErrorCode::kPermissionDenied, "{}: refused with {}; a signed URL may have expired", name,
                status);
  const bool passing = status == 429 || status / 100 == 5;
  return Fail(passing ? ErrorCode::kUnavailable : ErrorCode::kInvalidArgument, "{}: answered with {}", name,
              status);
}

// Until all of it is there. What was cut short goes on; what brings nothing any more is given up.
Status Fetch(HttpClient& http, const std::string& url, ArchiveSink& sink) {
  for (int idle = 0;;) {
    const std::uint64_t before = sink.at();
    auto answer = Get(http, url, sink);
    if (!answer && answer.error().code != ErrorCode::kUnavailable) return std::unexpected(answer.error());
    Status judged = answer ? Judge(*answer, WithoutQuery(url)) : std::unexpected(answer.error());
    if (judged || judged.error().code != ErrorCode::kUnavailable) return judged;
    idle = sink.at() > before ? 0 : idle + 1;
    if (idle == kIdleTries) return judged;
    std::this_thread::sleep_for(idle * kIdleWait);
  }
}

}  // namespace

bool IsHttpUrl(std::string_view text) { return text.starts_with("https://") || text.starts_with("http://"); }

Result<fs::path> FetchUrlArchive(HttpClient& http, const std::string& url, const fs::path& folder,
                                 const std::function<bool(const TransferProgress&)>& progress,
                                 const ArchiveLimits& limits, const std::atomic<bool>* cancel) {
  const std::string name = WithoutQuery(url);
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) return Fail(ErrorCode::kIo, "{}: {}", folder.string(), error.message());
  const fs::path packed = folder / (HexSha256(std::string_view(name)).substr(0, 32) + ".packed");
  ASSIGN_OR_RETURN(const FolderLock lock, FolderLock::Take(packed, [&] {
                     TransferProgress told;
                     told.waiting = true;
                     return !progress || progress(told);
                   }));
  const auto directory_of = [&](const std::string& version) {
    const std::string both = name + "\n" + version;
    return folder / HexSha256(std::string_view(both));
  };
  const UniqueFd file(::open(packed.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (!file) return Fail(ErrorCode::kIo, "{}: {}", packed.string(), std::strerror(errno));
  // Without a version nobody knows whether what is here is still what is there.
  const auto known = [&](const std::string& version) {
    std::error_code ignored;
    return !version.empty() && fs::exists(directory_of(version), ignored);
  };
  ArchiveSink sink(name, packed, file.get(), limits.max_bytes, known, progress);
  Status fetched = Fetch(http, url, sink);
  if (fetched) {
    if (sink.version().empty()) fs::remove_all(directory_of(sink.version()), error);
    fetched = UnpackArchive(packed, directory_of(sink.version()), limits, cancel);
    if (!fetched) fetched = WithContext(fetched.error(), name);
  } else if (sink.is_known()) {
    fetched = {};
  }
  fs::remove(packed, error);
  RETURN_IF_ERROR(fetched);
  return directory_of(sink.version());
}

}  // namespace bloomery
