// Which blocks of the KV cache belong to whom. Sequences that share a prefix (beams, several samples of one
// prompt) share its blocks; a block with several owners is never written.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "tensor/device.h"

namespace bloomery {

// Used by the engine's thread only.
class KvBlockPool {
 public:
  KvBlockPool(KvCache& cache, Device& device);

  std::int64_t free_blocks() const { return static_cast<std::int64_t>(free_.size()); }
  std::int64_t total_blocks() const { return static_cast<std::int64_t>(owners_.size()); }

  std::optional<std::int32_t> Take();  // nullopt when none is free
  void AddOwner(std::int32_t block) { ++owners_[static_cast<std::size_t>(block)]; }
  void Release(std::int32_t block);
  bool shared(std::int32_t block) const { return owners_[static_cast<std::size_t>(block)] > 1; }
  void Copy(std::int32_t from, std::int32_t to) { device_.CopyKvBlock(cache_, from, to); }

 private:
  KvCache& cache_;
  Device& device_;
  std::vector<std::int32_t> owners_;  // by block
  std::vector<std::int32_t> free_;
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
};

}  // namespace bloomery
