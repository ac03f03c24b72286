// Which full blocks of the KV cache hold which tokens, so that a request that begins like an earlier one
// takes over its keys and values instead of computing them. Left out: who owns the blocks and which are free
// (kv_blocks.h).
//
// A block is known by the tokens in it and by the prefix before it: a chain of entries from a root, one root
// for each salt. Tokens are compared, not only hashed, so a match is never a coincidence; and keys and values
// do not depend on how they were computed (tensor/device.h), so taking them over changes no bit of an answer.
//
//   root(salt) ─▶ tokens [0, 16) ─▶ tokens [16, 32) ─▶ …
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "tensor/device.h"

namespace bloomery {

// Used by the engine's thread only.
class PrefixIndex {
 public:
  // Names a prefix of whole blocks. Never used twice, so that the children of a forgotten block are
  // unreachable.
  using Id = std::uint64_t;

  struct Match {
    Id id = 0;
    std::int32_t block = 0;
  };

  explicit PrefixIndex(std::int64_t blocks) : entry_of_(static_cast<std::size_t>(blocks)) {}

  // The empty prefix of those who share `salt`: nothing is ever shared between two roots.
  static Id Root(std::uint64_t salt) { return salt | kRootBit; }

  // The block that holds `tokens` ([16]) after `prefix`.
  std::optional<Match> Find(Id prefix, std::span<const std::int32_t> tokens) const;

  // Remembers that `block` holds `tokens` after `prefix`, unless another block is known for that; the id of
  // the prefix that ends here.
  Id Add(Id prefix, std::span<const std::int32_t> tokens, std::int32_t block);

  bool knows(std::int32_t block) const { return entry_of_[static_cast<std::size_t>(block)].has_value(); }
  void Forget(std::int32_t block);

 private:
  static constexpr Id kRootBit = Id{1} << 63U;

  struct Key {
    Id prefix = 0;
    std::array<std::int32_t, kKvBlockTokens> tokens{};
    bool operator==(const Key&) const = default;
  };
  struct Hash {
    std::size_t operator()(const Key& key) const;
  };
  static Key MakeKey(Id prefix, std::span<const std::int32_t> tokens);

  std::unordered_map<Key, Match, Hash> entries_;
  std::vector<std::optional<Key>> entry_of_;  // by block
  Id next_id_ = 1;
};

}  // namespace bloomery
