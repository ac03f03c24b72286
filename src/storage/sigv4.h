// AWS Signature Version 4, for requests signed in their headers. Ours because libcurl's own signer of Debian
// 12 fails on keys with "=" and on queries that are not sorted. Left out: presigned URLs, chunk signatures,
// SigV4A.
//
// The algorithm: "Create a signed AWS API request" in the IAM user guide.
#pragma once

#include <cstddef>
#include <ctime>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace bloomery {

using NameValue = std::pair<std::string, std::string>;

// For x-amz-content-sha256 where TLS protects the body already.
inline constexpr std::string_view kUnsignedPayload = "UNSIGNED-PAYLOAD";

// Percent-encodes UTF-8 text as AWS does: all but letters, digits and "-._~", in upper-case hexadecimal.
std::string AwsEncode(std::string_view text, bool keep_slashes = false);

// "a=1&b=2" of decoded pairs, encoded and sorted: the canonical query, which is also sent as it is.
std::string AwsQuery(const std::vector<NameValue>& query);

std::string HexSha256(std::span<const std::byte> bytes);
std::string HexSha256(std::string_view text);

// "20150830T123600Z", the value of x-amz-date.
std::string AmzDate(std::time_t time);

struct SigningRequest {
  std::string_view method;
  std::string_view path;           // encoded, as it is sent; S3 encodes once and never normalises
  std::string_view query;          // of AwsQuery
  std::vector<NameValue> headers;  // all are signed; must hold host and x-amz-date
  std::string_view payload_hash;   // hexadecimal SHA-256, or kUnsignedPayload
};

struct SigningKey {
  std::string_view access_key_id;
  std::string_view secret_access_key;
  std::string_view region;
  std::string_view service;
};

// What is hashed of the request; for tests and for those who look for a signature's mistake.
std::string CanonicalRequest(const SigningRequest& request);

// The value of the Authorization header. A session token is a header of the request (x-amz-security-token).
std::string Authorization(const SigningRequest& request, const SigningKey& key);

}  // namespace bloomery
