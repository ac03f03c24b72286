#include "storage/sigv4.h"

#include <fmt/format.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <algorithm>
#include <array>
#include <cstdint>

namespace bloomery {
namespace {

constexpr std::string_view kAlgorithm = "AWS4-HMAC-SHA256";
constexpr std::string_view kTerminator = "aws4_request";

using Digest = std::array<unsigned char, 32>;

std::string Hex(std::span<const unsigned char> bytes) {
  std::string text;
  text.reserve(bytes.size() * 2);
  for (const unsigned char byte : bytes) fmt::format_to(std::back_inserter(text), "{:02x}", byte);
  return text;
}

Digest Hmac(std::string_view key, std::string_view text) {
  Digest digest{};
  unsigned int size = 0;
  ::HMAC(::EVP_sha256(), key.data(), static_cast<int>(key.size()),
         reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest.data(), &size);
  return digest;
}

std::string_view AsText(const Digest& digest) {
  return {reinterpret_cast<const char*>(digest.data()), digest.size()};
}

std::string Lower(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return lower;
}

// Without spaces at the ends, and with one where there were several.
std::string Trimmed(std::string_view value) {
  std::string trimmed;
  for (const char c : value) {
    const bool space = c == ' ' || c == '\t';
    if (space && (trimmed.empty() || trimmed.back() == ' ')) continue;
    trimmed += space ? ' ' : c;
  }
  if (trimmed.ends_with(' ')) trimmed.pop_back();
  return trimmed;
}

std::vector<NameValue> CanonicalHeaders(const std::vector<NameValue>& headers) {
  std::vector<NameValue> canonical;
  for (const auto& [name, value] : headers) canonical.emplace_back(Lower(name), Trimmed(value));
  std::stable_sort(canonical.begin(), canonical.end(),
                   [](const NameValue& a, const NameValue& b) { return a.first < b.first; });
  return canonical;
}

std::string SignedHeaders(const std::vector<NameValue>& canonical) {
  std::string names;
  for (const auto& [name, value] : canonical) names += (names.empty() ? "" : ";") + name;
  return names;
}

}  // namespace

std::string AwsEncode(std::string_view text, bool keep_slashes) {
  std::string encoded;
  for (const char c : text) {
    const bool plain = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
                       c == '-' || c == '.' || c == '_' || c == '~' || (keep_slashes && c == '/');
    if (plain) {
      encoded += c;
    } else {
      fmt::format_to(std::back_inserter(encoded), "%{:02X}", static_cast<unsigned char>(c));
    }
  }
  return encoded;
}

std::string AwsQuery(const std::vector<NameValue>& query) {
  std::vector<NameValue> encoded;
  for (const auto& [name, value] : query) encoded.emplace_back(AwsEncode(name), AwsEncode(value));
  std::sort(encoded.begin(), encoded.end());
  std::string text;
  for (const auto& [name, value] : encoded)
    fmt::format_to(std::back_inserter(text), "{}{}={}", text.empty() ? "" : "&", name, value);
  return text;
}

std::string HexSha256(std::span<const std::byte> bytes) {
  Digest digest{};
  ::EVP_Digest(bytes.data(), bytes.size(), digest.data(), nullptr, ::EVP_sha256(), nullptr);
  return Hex(digest);
}

std::string HexSha256(std::string_view text) { return HexSha256(std::as_bytes(std::span(text))); }

std::string AmzDate(std::time_t time) {
  std::tm utc{};
  ::gmtime_r(&time, &utc);
  std::array<char, 32> text{};
  const std::size_t size = std::strftime(text.data(), text.size(), "%Y%m%dT%H%M%SZ", &utc);
  return {text.data(), size};
}

std::string CanonicalRequest(const SigningRequest& request) {
  const std::vector<NameValue> headers = CanonicalHeaders(request.headers);
  std::string text = fmt::format("{}\n{}\n{}\n", request.method, request.path, request.query);
  for (const auto& [name, value] : headers) text += name + ":" + value + "\n";
  return text + fmt::format("\n{}\n{}", SignedHeaders(headers), request.payload_hash);
}

std::string Authorization(const SigningRequest& request, const SigningKey& key) {
  const std::vector<NameValue> headers = CanonicalHeaders(request.headers);
  const auto date_header = std::find_if(headers.begin(), headers.end(),
                                        [](const NameValue& header) { return header.first == "x-amz-date"; });
  const std::string timestamp = date_header == headers.end() ? "" : date_header->second;
  const std::string date = timestamp.substr(0, 8);
  const std::string scope = fmt::format("{}/{}/{}/{}", date, key.region, key.service, kTerminator);
  const std::string to_sign =
      fmt::format("{}\n{}\n{}\n{}", kAlgorithm, timestamp, scope, HexSha256(CanonicalRequest(request)));
  Digest digest = Hmac(fmt::format("AWS4{}", key.secret_access_key), date);
  for (const std::string_view text : {key.region, key.service, kTerminator})
    digest = Hmac(AsText(digest), text);
  return fmt::format("{} Credential={}/{}, SignedHeaders={}, Signature={}", kAlgorithm, key.access_key_id,
                     scope, SignedHeaders(headers), Hex(Hmac(AsText(digest), to_sign)));
}

}  // namespace bloomery
