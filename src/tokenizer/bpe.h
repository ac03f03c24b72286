// Byte-pair encoding over bytes: a vocabulary, ranked merges, and the merging itself in O(n log n).
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <boost/unordered/unordered_flat_map.hpp>

#include "base/result.h"

namespace bloomery {

// Immutable once built, then thread safe.
class Bpe {
 public:
  // Vocabulary entries are in the byte alphabet ("Ġthe"). Ids may have gaps but stay below kMaxId.
  static constexpr std::int32_t kMaxId = 1 << 21U;
  Status AddToken(std::string_view content, std::int32_t id);
  // In order of rank. Both halves and their union must be in the vocabulary, except that merges that make
  // nothing known are an error.
  Status AddMerge(std::string_view left, std::string_view right);
  void Reserve(std::size_t tokens, std::size_t merges);
  // After the last AddToken: finds each byte's own token.
  void IndexBytes(std::optional<std::int32_t> unknown);
  void set_ignore_merges(bool value) { ignore_merges_ = value; }

  std::optional<std::int32_t> Find(std::string_view content) const;
  // Content of an id in the byte alphabet; empty for gaps.
  const std::string& content(std::int32_t id) const;
  std::int32_t size() const { return static_cast<std::int32_t>(contents_.size()); }

  // Appends the ids of one piece of raw bytes.
  void Encode(std::string_view bytes, std::vector<std::int32_t>& out) const;

 private:
  struct Merge {
    std::int32_t rank = 0;
    std::int32_t id = 0;
  };

  std::vector<std::int32_t> ByteIds(std::string_view bytes) const;
  const Merge* FindMerge(std::int32_t left, std::int32_t right) const;

  std::deque<std::string> contents_;  // by id; a deque, so that the views in ids_ stay valid
  boost::unordered_flat_map<std::string_view, std::int32_t> ids_;
  boost::unordered_flat_map<std::uint64_t, Merge> merges_;  // left << 32 | right
  std::array<std::int32_t, 256> byte_ids_{};                // −1: this byte has no token
  bool ignore_merges_ = false;
};

}  // namespace bloomery
