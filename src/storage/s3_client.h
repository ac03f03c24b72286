// The requests of Amazon S3's API that moving models takes, against S3 and what speaks its protocol (MinIO,
// Ceph, moto, versitygw): signed, tried again when the service is busy or the network fails, and with errors
// that say what was refused and what to check. Left out: whole directories (download.h, upload.h), and
// everything that administers buckets.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "storage/aws_config.h"
#include "storage/checksum.h"
#include "storage/credentials.h"
#include "storage/http_client.h"
#include "storage/sigv4.h"

namespace bloomery {

struct S3Uri {
  std::string bucket{};
  std::string key{};  // without a leading slash; "" is the whole bucket

  std::string ToString() const { return fmt::format("s3://{}/{}", bucket, key); }
};

bool IsS3Uri(std::string_view text);
// kInvalidArgument for what is no s3://bucket or s3://bucket/key. The key is taken as it stands: "%20" is
// three characters.
Result<S3Uri> ParseS3Uri(std::string_view text);

struct S3Object {
  std::string key{};
  std::uint64_t size_bytes = 0;
  std::string etag{};  // with its quotes, as If-Match wants it
};

// What the service knows of an object's bytes.
struct S3Checksum {
  ChecksumKind kind = ChecksumKind::kMd5;
  std::string digest;
  // 0: of the whole object. Otherwise the digest of the digests of so many parts, as they were uploaded.
  std::int64_t parts = 0;
};

struct S3Head {
  std::uint64_t size_bytes = 0;
  std::string etag;
  std::optional<S3Checksum> checksum;  // the quickest to compute of those there are
};

// Reads the headers of an answer to HEAD or GET that was asked for checksums.
S3Head ParseS3Head(const HttpResponse& response);

struct S3Range {
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
};

struct S3Part {
  int number = 0;  // from 1
  std::string etag;
  std::string checksum;  // base64, of the kind the upload was begun with
};

struct S3Options {
  AwsEndpoint endpoint{};
  // Each waits twice as long as the one before, up to 20 s, of which a random share: a minute in all.
  int attempts = 9;
  std::chrono::milliseconds first_wait{100};
  const std::atomic<bool>* cancel = nullptr;  // ends requests and waits
};

// Thread safe.
class S3Client {
 public:
  // Both must outlive the client.
  S3Client(HttpClient& http, CredentialChain& credentials, S3Options options);

  // Objects whose key begins with `prefix`, in the order of their keys; the first `limit` of them.
  Result<std::vector<S3Object>> List(const std::string& bucket, const std::string& prefix,
                                     std::size_t limit = kNoLimit);
  static constexpr std::size_t kNoLimit = ~std::size_t{0};

  // `part`: of the object's part with this number, from 1, as it was uploaded; 0: of the whole.
  Result<S3Head> Head(const S3Uri& object, int part = 0);

  // The object, or a range of it, into `sink`, whose Begin is called again when a transfer is begun anew.
  // Only if it is still the one with this ETag, where one is given: kCorrupt when it has changed. `cancel`
  // stands in for the client's own.
  Status Get(const S3Uri& object, std::optional<S3Range> range, const std::string& etag, BodySink& sink,
             const std::atomic<bool>* cancel = nullptr);

  // The service checks what arrives against the CRC-32C that is sent with it.
  Status Put(const S3Uri& object, std::span<const std::byte> bytes);

  Result<std::string> BeginUpload(const S3Uri& object);
  Result<S3Part> UploadPart(const S3Uri& object, const std::string& upload, int number,
                            std::span<const std::byte> bytes, const std::atomic<bool>* cancel = nullptr);
  Status FinishUpload(const S3Uri& object, const std::string& upload, const std::vector<S3Part>& parts);
  // Done even where the client is cancelled.
  Status AbortUpload(const S3Uri& object, const std::string& upload);

  // Requests that were sent again, for reports.
  std::uint64_t retries() const { return retries_; }

 private:
  struct Call;
  enum class Next : std::uint8_t { kDone, kRetry, kRetryAtOnce, kFail };

  Result<HttpResponse> Perform(const Call& call);
  Result<HttpResponse> PerformOnce(const Call& call, const std::optional<AwsCredentials>& credentials);
  Next Judge(const Call& call, const HttpResponse& response, const std::optional<AwsCredentials>& credentials,
             int attempt);
  Error Describe(const Call& call, const HttpResponse& response,
                 const std::optional<AwsCredentials>& credentials) const;
  Status Wait(int attempt, const std::atomic<bool>* cancel);
  std::string RegionOf(const std::string& bucket);
  std::string BaseUrl(const std::string& bucket, const std::string& region, bool& path_style) const;

  // Constant after construction.
  HttpClient& http_;
  CredentialChain& credentials_;
  S3Options options_;

  std::atomic<std::uint64_t> retries_{0};
  std::mutex mutex_;
  std::map<std::string, std::string> regions_;  // of buckets that are elsewhere; guarded by mutex_
};

}  // namespace bloomery
