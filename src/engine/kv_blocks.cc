#include "engine/kv_blocks.h"

#include <cassert>
#include <utility>

namespace bloomery {
namespace {

std::int64_t BlocksFor(std::int64_t tokens) { return (tokens + kKvBlockTokens - 1) / kKvBlockTokens; }

}  // namespace

KvBlockPool::KvBlockPool(KvCache& cache, Device& device)
    : cache_(cache), device_(device), owners_(static_cast<std::size_t>(cache.blocks()), 0) {
  free_.reserve(owners_.size());
  for (std::int64_t block = cache.blocks() - 1; block >= 0; --block)
    free_.push_back(static_cast<std::int32_t>(block));
}

std::optional<std::int32_t> KvBlockPool::Take() {
  if (free_.empty()) return std::nullopt;
  const std::int32_t block = free_.back();
  free_.pop_back();
  owners_[static_cast<std::size_t>(block)] = 1;
  return block;
}

void KvBlockPool::Release(std::int32_t block) {
  std::int32_t& owners = owners_[static_cast<std::size_t>(block)];
  assert(owners > 0);
  if (--owners == 0) free_.push_back(block);
}

BlockTable::BlockTable(BlockTable&& other) noexcept
    : pool_(other.pool_), blocks_(std::exchange(other.blocks_, {})) {}

BlockTable& BlockTable::operator=(BlockTable&& other) noexcept {
  std::swap(pool_, other.pool_);
  std::swap(blocks_, other.blocks_);
  return *this;
}

BlockTable BlockTable::Fork() const {
  BlockTable copy(*pool_);
  copy.blocks_ = blocks_;
  for (const std::int32_t block : blocks_) pool_->AddOwner(block);
  return copy;
}

void BlockTable::Clear() {
  for (const std::int32_t block : blocks_) pool_->Release(block);
  blocks_.clear();
}

bool BlockTable::LastIsShared(std::int64_t used_tokens) const {
  const bool partly_filled = used_tokens % kKvBlockTokens != 0;
  return partly_filled && pool_->shared(blocks_[static_cast<std::size_t>(used_tokens / kKvBlockTokens)]);
}

std::int64_t BlockTable::BlocksNeeded(std::int64_t used_tokens, std::int64_t tokens) const {
  const std::int64_t added = BlocksFor(tokens) - static_cast<std::int64_t>(blocks_.size());
  return std::max<std::int64_t>(added, 0) + (LastIsShared(used_tokens) ? 1 : 0);
}

bool BlockTable::Reserve(std::int64_t used_tokens, std::int64_t tokens) {
  if (BlocksNeeded(used_tokens, tokens) > pool_->free_blocks()) return false;
  if (LastIsShared(used_tokens)) {
    std::int32_t& last = blocks_[static_cast<std::size_t>(used_tokens / kKvBlockTokens)];
    const std::int32_t own = pool_->Take().value();
    pool_->Copy(last, own);
    pool_->Release(last);
    last = own;
  }
  while (static_cast<std::int64_t>(blocks_.size()) < BlocksFor(tokens))
    blocks_.push_back(pool_->Take().value());
  return true;
}

}  // namespace bloomery
