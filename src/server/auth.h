// API keys: whether a request carries one, found out in constant time.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace bloomery {

// Immutable and thread safe. Keeps digests only.
class ApiKeys {
 public:
  explicit ApiKeys(const std::vector<std::string>& keys);

  bool required() const { return !digests_.empty(); }
  // `authorization`: the header's value ("Bearer KEY"); `x_api_key`: that header's. Takes the same time for
  // every wrong key.
  bool Allows(std::string_view authorization, std::string_view x_api_key) const;
  // A number that stands for the key a request carries; 0 for none. Those with different keys share no
  // prefix.
  std::uint64_t SaltOf(std::string_view authorization, std::string_view x_api_key) const;

 private:
  using Digest = std::array<unsigned char, 32>;
  static Digest Sha256(std::string_view text);
  bool Knows(const Digest& digest) const;
  // Of the key that a request carries, if we know it.
  std::optional<Digest> KnownKey(std::string_view authorization, std::string_view x_api_key) const;

  std::vector<Digest> digests_;
};

// One key a line, without the white space around it; blank lines and lines that start with # are skipped. A
// file without any is an error, lest a server be open by mistake.
Result<std::vector<std::string>> ReadApiKeys(const std::filesystem::path& path);

}  // namespace bloomery
