#include "storage/s3_client.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <charconv>
#include <ctime>
#include <pugixml.hpp>
#include <random>
#include <sstream>
#include <thread>
#include <utility>

namespace bloomery {

// One request before it is signed.
struct S3Client::Call {
  std::string_view action;  // as policies name it: "s3:GetObject"
  std::string_view method;
  S3Uri object;
  std::vector<NameValue> query = {};
  std::vector<NameValue> headers = {};
  std::span<const std::byte> body = {};
  BodySink* sink = nullptr;
  const std::atomic<bool>* cancel = nullptr;  // null: the client's
};

namespace {

constexpr std::chrono::milliseconds kLongestWait{20'000};
constexpr std::chrono::milliseconds kCancelPoll{20};
constexpr std::chrono::seconds kStallTimeout{20};
// S3 takes the parts of an upload apart and puts them together when it is finished: minutes for hundreds of
// GB.
constexpr std::chrono::seconds kFinishTimeout{600};
// A page has 1,000 keys. What goes on for longer is no model, or never ends.
constexpr int kMaxPages = 1000;
constexpr std::size_t kMaxObjects = 1'000'000;

bool OneOf(std::string_view text, std::initializer_list<std::string_view> list) {
  return std::find(list.begin(), list.end(), text) != list.end();
}

std::optional<std::uint64_t> ParseNumber(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || text.empty()) return std::nullopt;
  return value;
}

// Of encoding-type=url: percent signs, and "+" for a space.
std::string UrlDecoded(std::string_view text) {
  std::string decoded;
  for (std::size_t i = 0; i < text.size(); ++i) {
    unsigned int byte = 0;
    if (text[i] == '%' && i + 2 < text.size() &&
        std::from_chars(text.data() + i + 1, text.data() + i + 3, byte, 16).ptr == text.data() + i + 3) {
      decoded += static_cast<char>(byte);
      i += 2;
    } else {
      decoded += text[i] == '+' ? ' ' : text[i];
    }
  }
  return decoded;
}

struct ServiceError {
  std::string code;
  std::string region;
};

ServiceError ParseError(const HttpResponse& response) {
  ServiceError error;
  pugi::xml_document document;
  if (document.load_buffer(response.body.data(), response.body.size())) {
    error.code = document.child("Error").child_value("Code");
    error.region = document.child("Error").child_value("Region");
  }
  if (error.region.empty()) error.region = response.Header("x-amz-bucket-region");
  return error;
}

bool IsRegionName(std::string_view text) {
  return !text.empty() && text.size() < 64 &&
         text.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-") == std::string_view::npos;
}

// An ETag as the MD5 of the bytes, or of their parts' MD5s.
std::optional<S3Checksum> Md5OfEtag(const HttpResponse& response) {
  std::string_view etag = response.Header("etag");
  if (etag.size() < 34 || etag.front() != '"' || etag.back() != '"') return std::nullopt;
  etag = etag.substr(1, etag.size() - 2);
  const auto digest = FromHex(etag.substr(0, 32));
  const std::string_view rest = etag.substr(32);
  const auto parts = rest.starts_with('-') ? ParseNumber(rest.substr(1)) : std::nullopt;
  if (!digest || (!rest.empty() && !parts)) return std::nullopt;
  return S3Checksum{ChecksumKind::kMd5, *digest, static_cast<std::int64_t>(parts.value_or(0))};
}

std::string HostOf(std::string_view url) {
  url = url.substr(url.find("://") + 3);
  return std::string(url.substr(0, url.find('/')));
}

}  // namespace

bool IsS3Uri(std::string_view text) { return text.starts_with("s3://"); }

Result<S3Uri> ParseS3Uri(std::string_view text) {
  const auto wrong = [text](std::string_view why) {
    return Fail(ErrorCode::kInvalidArgument, "\"{}\" {}; write s3://BUCKET/PREFIX", text, why);
  };
  if (!IsS3Uri(text)) return wrong("is no S3 URI");
  const std::string_view rest = text.substr(5);
  const std::size_t slash = rest.find('/');
  S3Uri uri{.bucket = std::string(rest.substr(0, slash)),
            .key = slash == std::string_view::npos ? "" : std::string(rest.substr(slash + 1))};
  if (uri.bucket.empty()) return wrong("names no bucket");
  // The bucket becomes a part of a host's name: nothing else may come in with it.
  if (uri.bucket.size() > 255 ||
      uri.bucket.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") !=
          std::string::npos)
    return wrong("has a bucket with characters that no bucket has");
  if (uri.key.size() > 1024) return wrong("has a key of more than 1024 bytes");
  return uri;
}

S3Head ParseS3Head(const HttpResponse& response) {
  S3Head head;
  head.size_bytes = ParseNumber(response.Header("content-length")).value_or(0);
  head.etag = response.Header("etag");
  const std::optional<S3Checksum> md5 = Md5OfEtag(response);
  // The quickest first.
  for (const ChecksumKind kind :
       {ChecksumKind::kCrc32c, ChecksumKind::kCrc64Nvme, ChecksumKind::kCrc32, ChecksumKind::kSha256}) {
    const std::string_view value = response.Header(fmt::format("x-amz-checksum-{}", ChecksumName(kind)));
    const std::size_t dash = value.find('-');
    auto digest = FromBase64(value.substr(0, dash));
    if (!digest) continue;
    head.checksum = S3Checksum{kind, *std::move(digest), 0};
    if (dash != std::string_view::npos) {
      head.checksum->parts = static_cast<std::int64_t>(ParseNumber(value.substr(dash + 1)).value_or(1));
    } else if (md5 && kind != ChecksumKind::kCrc64Nvme &&
               response.Header("x-amz-checksum-type") != "FULL_OBJECT") {
      // Stores that leave out how many parts: before there were checksums of whole objects, those of uploads
      // in parts were nested, and CRC-64/NVME came with them.
      head.checksum->parts = md5->parts;
    }
    return head;
  }
  // Encrypted with a key of KMS or of the client's, the ETag is no MD5.
  if (!response.Header("x-amz-server-side-encryption").starts_with("aws:") &&
      response.Header("x-amz-server-side-encryption-customer-algorithm").empty())
    head.checksum = md5;
  return head;
}

S3Client::S3Client(HttpClient& http, CredentialChain& credentials, S3Options options)
    : http_(http), credentials_(credentials), options_(std::move(options)) {}

// --- one request

std::string S3Client::RegionOf(const std::string& bucket) {
  const std::scoped_lock lock(mutex_);
  const auto found = regions_.find(bucket);
  return found == regions_.end() ? options_.endpoint.region : found->second;
}

// Scheme and host, and whether the bucket goes into the path. Not into the host's name where it has dots:
// AWS's certificate stands for one label.
std::string S3Client::BaseUrl(const std::string& bucket, const std::string& region, bool& path_style) const {
  const std::string& url = options_.endpoint.url;
  const bool odd_name = bucket.find_first_of("._ABCDEFGHIJKLMNOPQRSTUVWXYZ") != std::string::npos;
  path_style = options_.endpoint.path_style || odd_name;
  if (!url.empty()) {
    if (path_style) return url;
    const std::size_t host = url.find("://") + 3;
    return fmt::format("{}{}.{}", url.substr(0, host), bucket, url.substr(host));
  }
  const std::string_view china = region.starts_with("cn-") ? ".cn" : "";
  if (path_style) return fmt::format("https://s3.{}.amazonaws.com{}", region, china);
  return fmt::format("https://{}.s3.{}.amazonaws.com{}", bucket, region, china);
}

Result<HttpResponse> S3Client::PerformOnce(const Call& call,
                                           const std::optional<AwsCredentials>& credentials) {
  const std::string region = RegionOf(call.object.bucket);
  bool path_style = false;
  const std::string base = BaseUrl(call.object.bucket, region, path_style);
  std::string path = path_style ? "/" + call.object.bucket : "";
  if (!call.object.key.empty() || path.empty()) path += "/" + call.object.key;
  path = AwsEncode(path, /*keep_slashes=*/true);
  const std::string query = AwsQuery(call.query);
  // A path in the endpoint (http://host/s3) is signed as it is sent.
  const std::size_t endpoint_path = base.find('/', base.find("://") + 3);
  if (endpoint_path != std::string::npos) path = base.substr(endpoint_path) + path;

  HttpRequest request{
      .method = std::string(call.method),
      .url = base.substr(0, endpoint_path) + path + (query.empty() ? "" : "?" + query),
      .headers = call.headers,
      .body = call.body,
      .sink = call.sink,
      .stall_timeout = call.query.empty() || call.method != "POST" ? kStallTimeout : kFinishTimeout,
      .cancel = call.cancel != nullptr ? call.cancel : options_.cancel};
  if (credentials) {
    // TLS vouches for the body; in the clear its hash is signed.
    const std::string hash = call.body.empty() || !base.starts_with("https:") ? HexSha256(call.body)
                                                                              : std::string(kUnsignedPayload);
    request.headers.emplace_back("host", HostOf(base));
    request.headers.emplace_back("x-amz-date", AmzDate(std::time(nullptr)));
    request.headers.emplace_back("x-amz-content-sha256", hash);
    if (!credentials->session_token.empty())
      request.headers.emplace_back("x-amz-security-token", credentials->session_token);
    request.headers.emplace_back(
        "authorization",
        Authorization({call.method, path, query, request.headers, hash},
                      {credentials->access_key_id, credentials->secret_access_key, region, "s3"}));
  }
  return http_.Perform(request);
}

// What an answer means. May learn the bucket's region, or that the credentials have expired.
S3Client::Next S3Client::Judge(const Call& call, const HttpResponse& response,
                               const std::optional<AwsCredentials>& credentials, int attempt) {
  const bool error_in_body = response.status == 200 && response.body.find("<Error>") < 200;
  if (response.status / 100 == 2 && !error_in_body) return Next::kDone;
  const ServiceError error = ParseError(response);
  const int status = response.status;
  const bool elsewhere =
      OneOf(error.code, {"PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed",
                         "IllegalLocationConstraintException"}) ||
      response.status == 301 || response.status == 307 || (call.method == "HEAD" && response.status == 400);
  if (elsewhere && IsRegionName(error.region) && error.region != RegionOf(call.object.bucket)) {
    const std::scoped_lock lock(mutex_);
    regions_[call.object.bucket] = error.region;
    return Next::kRetryAtOnce;
  }
  // HEAD has no body to say why.
  const bool maybe_expired =
      OneOf(error.code, {"ExpiredToken", "TokenRefreshRequired", "ExpiredTokenException"}) ||
      (call.method == "HEAD" && (status == 400 || status == 403) && credentials && credentials->expires);
  if (maybe_expired && credentials && attempt <= 2) {
    credentials_.Expire(*credentials);
    return Next::kRetryAtOnce;
  }
  const bool busy = status == 429 || (status >= 500 && status <= 504 && status != 501) ||
                    OneOf(error.code, {"SlowDown", "InternalError", "RequestTimeout", "ServiceUnavailable",
                                       "ThrottlingException", "OperationAborted", "BadDigest"});
  return busy ? Next::kRetry : Next::kFail;
}

Status S3Client::Wait(int attempt, const std::atomic<bool>* cancel) {
  ++retries_;
  const auto longest = std::min(kLongestWait, options_.first_wait * (1L << std::min(attempt, 20)));
  thread_local std::mt19937 random{std::random_device{}()};
  std::uniform_int_distribution<std::int64_t> share(longest.count() / 4, longest.count());
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(share(random));
  while (std::chrono::steady_clock::now() < end) {
    if (cancel != nullptr && *cancel) return Fail(ErrorCode::kCancelled, "interrupted");
    std::this_thread::sleep_for(
        std::min<std::chrono::nanoseconds>(kCancelPoll, end - std::chrono::steady_clock::now()));
  }
  return {};
}

Result<HttpResponse> S3Client::Perform(const Call& call) {
  const std::atomic<bool>* cancel = call.cancel != nullptr ? call.cancel : options_.cancel;
  for (int attempt = 1;; ++attempt) {
    ASSIGN_OR_RETURN(const auto credentials, credentials_.Get());
    auto response = PerformOnce(call, credentials);
    if (!response) {
      const ErrorCode code = response.error().code;
      const bool passing = code == ErrorCode::kUnavailable || code == ErrorCode::kDeadlineExceeded;
      if (!passing || attempt >= options_.attempts) return response;
      spdlog::debug("{} {}: {}; trying again", call.action, call.object.ToString(), response.error().message);
      RETURN_IF_ERROR(Wait(attempt, cancel));
      continue;
    }
    const Next next = Judge(call, *response, credentials, attempt);
    if (next == Next::kDone) return response;
    if (next == Next::kFail || attempt >= options_.attempts)
      return std::unexpected(Describe(call, *response, credentials));
    spdlog::debug("{} {}: status {}; trying again", call.action, call.object.ToString(), response->status);
    if (next == Next::kRetry) RETURN_IF_ERROR(Wait(attempt, cancel));
  }
}

// What was refused, and what to check. The service's own message is left out: it may quote a signature.
Error S3Client::Describe(const Call& call, const HttpResponse& response,
                         const std::optional<AwsCredentials>& credentials) const {
  const ServiceError error = ParseError(response);
  const std::string what = call.object.ToString();
  const std::string who = credentials ? credentials->source : "an unsigned request";
  const auto made = [&](ErrorCode code, std::string_view why) {
    return Error{code, fmt::format("{}: {}", what, why)};
  };
  const std::string& code = error.code;
  if (code == "NoSuchBucket" || (response.status == 404 && call.object.key.empty()))
    return made(ErrorCode::kNotFound, "there is no such bucket; check its name and the endpoint");
  if (code == "NoSuchUpload")
    return made(ErrorCode::kNotFound, "the upload was ended by somebody else; start it again");
  if (response.status == 404) return made(ErrorCode::kNotFound, "there is no such object");
  if (response.status == 412)
    return made(ErrorCode::kCorrupt, "the object was changed while it was read; start again");
  if (response.status == 416)
    return made(ErrorCode::kCorrupt, "the object is shorter than its listing says; start again");
  if (code == "SignatureDoesNotMatch") {
    return made(ErrorCode::kPermissionDenied,
                fmt::format("{} was refused (SignatureDoesNotMatch): the secret access key from {} does not "
                            "belong to its access key ID",
                            call.action, who));
  }
  if (OneOf(code, {"InvalidAccessKeyId", "InvalidToken", "ExpiredToken"})) {
    return made(ErrorCode::kPermissionDenied,
                fmt::format("{} was refused ({}): the service does not accept the credentials from {}",
                            call.action, code, who));
  }
  if (code == "RequestTimeTooSkewed")
    return made(ErrorCode::kPermissionDenied, "the clock of this host is wrong by more than 15 minutes");
  if (response.status == 401 || response.status == 403) {
    return made(
        ErrorCode::kPermissionDenied,
        fmt::format("{} was refused ({}) with {}; check that the user, role and bucket policies allow "
                    "{} on arn:aws:s3:::{}/{}*",
                    call.action, code.empty() ? "AccessDenied" : code, who, call.action, call.object.bucket,
                    call.object.key));
  }
  const std::string status =
      fmt::format("{} was answered with {}{}{}", call.action, response.status, code.empty() ? "" : " ", code);
  if (response.status >= 500 || response.status == 429 || code == "SlowDown")
    return made(ErrorCode::kUnavailable,
                fmt::format("{}, {} times; try again later", status, options_.attempts));
  if (response.status / 100 == 3)
    return made(ErrorCode::kUnavailable, status + "; check AWS_REGION and the endpoint");
  return made(ErrorCode::kInternal, status);
}

// --- the operations

Result<std::vector<S3Object>> S3Client::List(const std::string& bucket, const std::string& prefix,
                                             std::size_t limit) {
  std::vector<S3Object> objects;
  std::string token;
  for (int page = 0; page < kMaxPages; ++page) {
    Call call{.action = "s3:ListBucket", .method = "GET", .object = {bucket, ""}};
    call.query = {{"list-type", "2"}, {"encoding-type", "url"}, {"prefix", prefix}};
    if (limit < 1000) call.query.emplace_back("max-keys", fmt::to_string(limit));
    if (!token.empty()) call.query.emplace_back("continuation-token", token);
    ASSIGN_OR_RETURN(const HttpResponse response, Perform(call));
    pugi::xml_document document;
    const pugi::xml_parse_result parsed = document.load_buffer(response.body.data(), response.body.size(),
                                                               pugi::parse_default | pugi::parse_ws_pcdata);
    const pugi::xml_node result = document.child("ListBucketResult");
    if (!parsed || !result)
      return Fail(ErrorCode::kCorrupt, "s3://{}: the answer is not a listing; is the endpoint one of S3?",
                  bucket);
    const bool encoded = std::string_view(result.child_value("EncodingType")) == "url";
    for (const pugi::xml_node node : result.children("Contents")) {
      const std::string_view key = node.child_value("Key");
      std::string etag = node.child_value("ETag");
      if (!etag.empty() && etag.find('"') == std::string::npos) etag = fmt::format("\"{}\"", etag);
      objects.push_back({.key = encoded ? UrlDecoded(key) : std::string(key),
                         .size_bytes = ParseNumber(node.child_value("Size")).value_or(0),
                         .etag = std::move(etag)});
      if (objects.size() == limit) return objects;
    }
    const std::string asked = std::exchange(token, result.child_value("NextContinuationToken"));
    if (std::string_view(result.child_value("IsTruncated")) != "true") return objects;
    if (token.empty()) {
      return Fail(ErrorCode::kCorrupt,
                  "s3://{}/{}: the listing is cut short, and does not say where it goes on", bucket, prefix);
    }
    if (token == asked || objects.size() > kMaxObjects) break;
  }
  return Fail(ErrorCode::kTooLarge, "s3://{}/{}: the listing does not end", bucket, prefix);
}

Result<S3Head> S3Client::Head(const S3Uri& object, int part) {
  Call call{.action = "s3:GetObject", .method = "HEAD", .object = object};
  call.headers = {{"x-amz-checksum-mode", "ENABLED"}};
  if (part > 0) call.query = {{"partNumber", fmt::to_string(part)}};
  ASSIGN_OR_RETURN(const HttpResponse response, Perform(call));
  return ParseS3Head(response);
}

Status S3Client::Get(const S3Uri& object, std::optional<S3Range> range, const std::string& etag,
                     BodySink& sink, const std::atomic<bool>* cancel) {
  Call call{.action = "s3:GetObject", .method = "GET", .object = object, .sink = &sink, .cancel = cancel};
  if (range) {
    call.headers.emplace_back("range",
                              fmt::format("bytes={}-{}", range->offset, range->offset + range->bytes - 1));
  } else {
    call.headers.emplace_back("x-amz-checksum-mode", "ENABLED");
  }
  if (!etag.empty()) call.headers.emplace_back("if-match", etag);
  RETURN_IF_ERROR(Perform(call));
  return {};
}

namespace {

NameValue Crc32cHeader(std::span<const std::byte> bytes) {
  return {"x-amz-checksum-crc32c", ToBase64(ChecksumOf(ChecksumKind::kCrc32c, bytes))};
}

}  // namespace

Status S3Client::Put(const S3Uri& object, std::span<const std::byte> bytes) {
  Call call{.action = "s3:PutObject", .method = "PUT", .object = object};
  call.headers = {Crc32cHeader(bytes)};
  call.body = bytes;
  RETURN_IF_ERROR(Perform(call));
  return {};
}

Result<std::string> S3Client::BeginUpload(const S3Uri& object) {
  Call call{.action = "s3:PutObject", .method = "POST", .object = object};
  call.query = {{"uploads", ""}};
  call.headers = {{"x-amz-checksum-algorithm", "CRC32C"}};
  ASSIGN_OR_RETURN(const HttpResponse response, Perform(call));
  pugi::xml_document document;
  document.load_buffer(response.body.data(), response.body.size());
  std::string upload = document.child("InitiateMultipartUploadResult").child_value("UploadId");
  if (upload.empty())
    return Fail(ErrorCode::kCorrupt, "{}: the answer names no upload; is the endpoint one of S3?",
                object.ToString());
  return upload;
}

Result<S3Part> S3Client::UploadPart(const S3Uri& object, const std::string& upload, int number,
                                    std::span<const std::byte> bytes, const std::atomic<bool>* cancel) {
  Call call{.action = "s3:PutObject", .method = "PUT", .object = object};
  call.cancel = cancel;
  call.query = {{"partNumber", fmt::to_string(number)}, {"uploadId", upload}};
  call.headers = {Crc32cHeader(bytes)};
  call.body = bytes;
  ASSIGN_OR_RETURN(const HttpResponse response, Perform(call));
  return S3Part{number, std::string(response.Header("etag")), call.headers.front().second};
}

Status S3Client::FinishUpload(const S3Uri& object, const std::string& upload,
                              const std::vector<S3Part>& parts) {
  pugi::xml_document document;
  pugi::xml_node root = document.append_child("CompleteMultipartUpload");
  for (const S3Part& part : parts) {
    pugi::xml_node node = root.append_child("Part");
    node.append_child("PartNumber").text().set(part.number);
    node.append_child("ETag").text().set(part.etag.c_str());
    node.append_child("ChecksumCRC32C").text().set(part.checksum.c_str());
  }
  std::ostringstream body;
  document.save(body, "", pugi::format_raw);
  const std::string text = body.str();
  Call call{.action = "s3:PutObject", .method = "POST", .object = object};
  call.query = {{"uploadId", upload}};
  call.headers = {{"content-type", "application/xml"}};
  call.body = std::as_bytes(std::span(text));
  RETURN_IF_ERROR(Perform(call));
  return {};
}

Status S3Client::AbortUpload(const S3Uri& object, const std::string& upload) {
  static const std::atomic<bool> kNever{false};
  Call call{.action = "s3:AbortMultipartUpload", .method = "DELETE", .object = object};
  call.cancel = &kNever;
  call.query = {{"uploadId", upload}};
  RETURN_IF_ERROR(Perform(call));
  return {};
}

}  // namespace bloomery
