#include "server/auth.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <algorithm>
#include <cstring>

#include "base/mapped_file.h"

namespace bloomery {
namespace {

// Names of authentication schemes are case-insensitive (RFC 9110, 11.1).
bool StartsWithIgnoringCase(std::string_view text, std::string_view lower_case) {
  const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; };
  return text.size() >= lower_case.size() && std::equal(lower_case.begin(), lower_case.end(), text.begin(),
                                                        [&](char a, char b) { return a == lower(b); });
}

}  // namespace

ApiKeys::ApiKeys(const std::vector<std::string>& keys) {
  for (const std::string& key : keys) digests_.push_back(Sha256(key));
}

ApiKeys::Digest ApiKeys::Sha256(std::string_view text) {
  Digest digest{};
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest.data());
  return digest;
}

bool ApiKeys::Knows(const Digest& digest) const {
  bool known = false;
  for (const Digest& allowed : digests_)
    known = (CRYPTO_memcmp(digest.data(), allowed.data(), digest.size()) == 0) || known;
  return known;
}

std::optional<ApiKeys::Digest> ApiKeys::KnownKey(std::string_view authorization,
                                                 std::string_view x_api_key) const {
  static constexpr std::string_view kBearer = "bearer ";
  if (StartsWithIgnoringCase(authorization, kBearer)) {
    const Digest digest = Sha256(authorization.substr(kBearer.size()));
    if (Knows(digest)) return digest;
  }
  if (x_api_key.empty()) return std::nullopt;
  const Digest digest = Sha256(x_api_key);
  return Knows(digest) ? std::optional(digest) : std::nullopt;
}

bool ApiKeys::Allows(std::string_view authorization, std::string_view x_api_key) const {
  return !required() || KnownKey(authorization, x_api_key).has_value();
}

std::uint64_t ApiKeys::SaltOf(std::string_view authorization, std::string_view x_api_key) const {
  std::uint64_t salt = 0;
  if (const auto digest = KnownKey(authorization, x_api_key))
    std::memcpy(&salt, digest->data(), sizeof(salt));
  return salt;
}

Result<std::vector<std::string>> ReadApiKeys(const std::filesystem::path& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadFileToString(path, 1U << 20U));
  std::vector<std::string> keys;
  std::string_view rest = text;
  while (!rest.empty()) {
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ' || line.back() == '\t'))
      line.remove_suffix(1);
    if (!line.empty() && !line.starts_with('#')) keys.emplace_back(line);
  }
  if (keys.empty()) return Fail(ErrorCode::kInvalidArgument, "{}: no API key in it", path.string());
  return keys;
}

}  // namespace bloomery
