#include "storage/hub_blob.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "base/log.h"
#include "base/unique_fd.h"
#include "storage/checksum.h"

namespace bloomery {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kSha1Digits = 40;
constexpr std::size_t kReadBytes = 1U << 20U;
// Connections in a row that bring nothing, and the wait after the first of them, longer after each.
constexpr int kIdleTries = 5;
constexpr std::chrono::milliseconds kIdleWait{200};

std::unexpected<Error> IoError(const fs::path& path, std::string_view what) {
  return Fail(ErrorCode::kIo, "{}: cannot {}: {}", path.string(), what, std::strerror(errno));
}

// What a blob is named by.
class BlobDigest {
 public:
  explicit BlobDigest(const HubBlob& blob) : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
    const bool git = blob.etag.size() == kSha1Digits;
    EVP_DigestInit_ex(context_.get(), git ? EVP_sha1() : EVP_sha256(), nullptr);
    // Git hashes a header before the contents.
    if (const std::string header = fmt::format("blob {}", blob.size_bytes); git)
      EVP_DigestUpdate(context_.get(), header.c_str(), header.size() + 1);
  }

  void Update(std::span<const std::byte> bytes) {
    EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size());
  }

  std::string Finish() {
    std::string digest(EVP_MAX_MD_SIZE, '\0');
    unsigned int size = 0;
    EVP_DigestFinal_ex(context_.get(), reinterpret_cast<unsigned char*>(digest.data()), &size);
    return ToHex(std::string_view(digest).substr(0, size));
  }

 private:
  std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context_;
};

// Appends what arrives to the file; a transfer that is begun anew goes on where the last one was cut.
class AppendSink final : public BodySink {
 public:
  AppendSink(const HubBlob& blob, const fs::path& path, int fd, std::uint64_t at, BlobDigest& digest,
             std::atomic<std::uint64_t>& moved)
      : blob_(blob), path_(path), fd_(fd), at_(at), digest_(digest), moved_(moved) {}

  std::uint64_t at() const { return at_; }

  Status Begin(const HttpResponse& head) override {
    const std::string_view range = head.Header("content-range");
    if (at_ > 0 && (head.status != 206 || !range.starts_with(fmt::format("bytes {}-", at_)) ||
                    !range.ends_with(fmt::format("/{}", blob_.size_bytes))))
      return Fail(ErrorCode::kCorrupt, "{}: was not answered with the range that was asked for", blob_.url);
    return {};
  }

  Status Write(std::span<const std::byte> bytes) override {
    if (bytes.size() > blob_.size_bytes - at_)
      return Fail(ErrorCode::kCorrupt, "{}: is longer than the hub says", blob_.url);
    digest_.Update(bytes);
    while (!bytes.empty()) {
      const ssize_t written = ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(at_));
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) return IoError(path_, "write");
      bytes = bytes.subspan(static_cast<std::size_t>(written));
      at_ += static_cast<std::uint64_t>(written);
      moved_ += static_cast<std::uint64_t>(written);
    }
    return {};
  }

 private:
  const HubBlob& blob_;
  const fs::path& path_;
  const int fd_;
  std::uint64_t at_;
  BlobDigest& digest_;
  std::atomic<std::uint64_t>& moved_;
};

// Hashes what an earlier download has left; its length.
std::uint64_t TakeOver(int fd, const HubBlob& blob, BlobDigest& digest) {
  std::vector<std::byte> buffer(kReadBytes);
  std::uint64_t length = 0;
  for (;;) {
    const ssize_t got = ::pread(fd, buffer.data(), buffer.size(), static_cast<off_t>(length));
    if (got <= 0) return length;
    length += static_cast<std::uint64_t>(got);
    if (length > blob.size_bytes) return length;
    digest.Update(std::span(buffer).first(static_cast<std::size_t>(got)));
  }
}

// One attempt at the whole of it; false: the bytes are not the blob's.
Result<bool> FetchOnce(const HubBlob& blob, const fs::path& path, int fd, const HubRequest& perform,
                       std::atomic<std::uint64_t>& moved) {
  std::optional<BlobDigest> digest(std::in_place, blob);
  std::uint64_t length = TakeOver(fd, blob, *digest);
  if (length > blob.size_bytes) {  // of something else
    if (::ftruncate(fd, 0) != 0) return IoError(path, "resize");
    digest.emplace(blob);
    length = 0;
  }
  for (int idle = 0; length < blob.size_bytes;) {
    AppendSink sink(blob, path, fd, length, *digest, moved);
    HttpRequest request{.url = blob.url, .sink = &sink};
    if (length > 0) request.headers.emplace_back("range", fmt::format("bytes={}-", length));
    const auto answer = perform(std::move(request));
    if (!answer && answer.error().code != ErrorCode::kUnavailable) return std::unexpected(answer.error());
    // A connection that was cut after some bytes is made again at once.
    idle = sink.at() == length ? idle + 1 : 0;
    if (idle == kIdleTries) {
      if (!answer) return std::unexpected(answer.error());
      return Fail(ErrorCode::kUnavailable, "{}: answers end too early", blob.url);
    }
    std::this_thread::sleep_for(idle * kIdleWait);
    length = sink.at();
  }
  return digest->Finish() == blob.etag;
}

}  // namespace

Status FetchBlob(const HubBlob& blob, const fs::path& folder, const HubRequest& perform,
                 std::atomic<std::uint64_t>& moved) {
  const fs::path path = folder / (blob.etag + ".incomplete");
  const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644));
  if (!fd) return IoError(path, "create");
  for (const bool last : {false, true}) {
    const std::uint64_t before = moved;
    ASSIGN_OR_RETURN(const bool whole, FetchOnce(blob, path, fd.get(), perform, moved));
    if (whole) {
      std::error_code error;
      fs::rename(path, folder / blob.etag, error);
      return error ? Status(Fail(ErrorCode::kIo, "{}: {}", path.string(), error.message())) : Status();
    }
    // What was left by an interrupted download may have been wrong, too: from the beginning, once.
    if (::ftruncate(fd.get(), 0) != 0) return IoError(path, "resize");
    if (!last) {
      spdlog::warn("{}: what arrived is not what the hub has; fetching it again", blob.url);
      moved -= moved - before;
    }
  }
  return Fail(
      ErrorCode::kCorrupt,
      "{}: what arrives has not the digest that the hub names it by; something between here and there "
      "changes bytes, or the file is damaged there",
      blob.url);
}

}  // namespace bloomery
