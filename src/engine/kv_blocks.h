// Which blocks of the KV cache belong to whom. Sequences that share a prefix (beams, several samples of one
// prompt, requests that begin alike) share its blocks; a block with several owners is never written.
//
//   free ──Take──▶ owned ──Release──▶ free, or idle where its tokens are known to the prefix index
//   idle ──Adopt──▶ owned;  idle ──Take, when none is free, longest idle first──▶ owned, its tokens forgotten
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "engine/prefix_index.h"
#include "tensor/device.h"

namespace bloomery {

// Used by the engine's thread only.
class KvBlockPool {
 public:
  // Copies what a block holds in every layer.
  using CopyBlock = std::function<void(std::int32_t from, std::int32_t to)>;

  // `keep_prefixes`: remember what full blocks hold, for Adopt.
  KvBlockPool(std::int64_t blocks, CopyBlock copy, bool keep_prefixes = true);

  // Blocks that Take can hand out, idle ones included.
  std::int64_t free_blocks() const { return static_cast<std::int64_t>(free_.size() + idle_.size()); }
  std::int64_t total_blocks() const { return static_cast<std::int64_t>(owners_.size()); }

  std::optional<std::int32_t> Take();  // nullopt when none is free
  void AddOwner(std::int32_t block);
  void Release(std::int32_t block);
  bool shared(std::int32_t block) const { return owners_[static_cast<std::size_t>(block)] > 1; }
  void Copy(std::int32_t from, std::int32_t to) { copy_(from, to); }

  bool keeps_prefixes() const { return keep_prefixes_; }
  PrefixIndex& prefixes() { return prefixes_; }

 private:
  const CopyBlock copy_;
  const bool keep_prefixes_;
  PrefixIndex prefixes_;
  std::vector<std::int32_t> owners_;  // by block
  std::vector<std::int32_t> free_;
  std::map<std::uint64_t, std::int32_t> idle_;  // without owners, tokens known; by time of release
  std::vector<std::uint64_t> released_;         // by block: its key in idle_
  std::uint64_t clock_ = 0;
};

// One sequence's blocks, in token order. Movable; Fork() copies by sharing.
class BlockTable {
 public:
  explicit BlockTable(KvBlockPool& pool) : pool_(&pool) {}
  BlockTable(BlockTable&& other) noexcept;
  BlockTable& operator=(BlockTable&& other) noexcept;
  ~BlockTable() { Clear(); }

  BlockTable Fork() const;
  void Clear();

  // For an empty table: takes over known blocks that hold the beginning of `tokens`, under one salt; the
  // number of tokens covered, a multiple of kKvBlockTokens. At least one token is left, for its logits.
  std::int64_t Adopt(std::uint64_t salt, std::span<const std::int32_t> tokens);

  // Makes the full blocks of tokens[0, computed) known for others to adopt. Call with the same salt always.
  void Publish(std::uint64_t salt, std::span<const std::int32_t> tokens, std::int64_t computed);

  // Blocks that Reserve(used, tokens) would take from the pool.
  std::int64_t BlocksNeeded(std::int64_t used_tokens, std::int64_t tokens) const;

  // Makes positions [used_tokens, tokens) writable: takes new blocks, and a copy of a partly filled block
  // that others share. False when the pool has too few; the table is then unchanged.
  bool Reserve(std::int64_t used_tokens, std::int64_t tokens);

  const std::int32_t* data() const { return blocks_.data(); }
  std::size_t size() const { return blocks_.size(); }

 private:
  bool LastIsShared(std::int64_t used_tokens) const;

  KvBlockPool* pool_;
  std::vector<std::int32_t> blocks_;
  // Blocks [0, published_) are known to the index, as the prefix published_id_.
  std::int64_t published_ = 0;
  PrefixIndex::Id published_id_ = 0;
};

}  // namespace bloomery
