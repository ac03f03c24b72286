#include "engine/kv_blocks.h"

#include <cassert>
#include <utility>

namespace bloomery {
namespace {

std::int64_t BlocksFor(std::int64_t tokens) { return (tokens + kKvBlockTokens - 1) / kKvBlockTokens; }

}  // namespace

KvBlockPool::KvBlockPool(std::int64_t blocks, CopyBlock copy, bool keep_prefixes)
    : copy_(std::move(copy)),
      keep_prefixes_(keep_prefixes),
      prefixes_(blocks),
      owners_(static_cast<std::size_t>(blocks), 0),
      released_(owners_.size(), 0) {
  free_.reserve(owners_.size());
  for (std::int64_t block = blocks - 1; block >= 0; --block)
    free_.push_back(static_cast<std::int32_t>(block));
}

std::optional<std::int32_t> KvBlockPool::Take() {
  std::int32_t block = 0;
  if (!free_.empty()) {
    block = free_.back();
    free_.pop_back();
  } else if (!idle_.empty()) {
    block = idle_.begin()->second;
    idle_.erase(idle_.begin());
    prefixes_.Forget(block);
  } else {
    return std::nullopt;
  }
  owners_[static_cast<std::size_t>(block)] = 1;
  return block;
}

void KvBlockPool::AddOwner(std::int32_t block) {
  if (owners_[static_cast<std::size_t>(block)]++ == 0)
    idle_.erase(released_[static_cast<std::size_t>(block)]);
}

void KvBlockPool::Release(std::int32_t block) {
  std::int32_t& owners = owners_[static_cast<std::size_t>(block)];
  assert(owners > 0);
  if (--owners > 0) return;
  if (prefixes_.knows(block)) {
    released_[static_cast<std::size_t>(block)] = ++clock_;
    idle_.emplace(clock_, block);
  } else {
    free_.push_back(block);
  }
}

BlockTable::BlockTable(BlockTable&& other) noexcept
    : pool_(other.pool_),
      blocks_(std::exchange(other.blocks_, {})),
      published_(std::exchange(other.published_, 0)),
      published_id_(other.published_id_) {}

BlockTable& BlockTable::operator=(BlockTable&& other) noexcept {
  std::swap(pool_, other.pool_);
  std::swap(blocks_, other.blocks_);
  std::swap(published_, other.published_);
  std::swap(published_id_, other.published_id_);
  return *this;
}

BlockTable BlockTable::Fork() const {
  BlockTable copy(*pool_);
  copy.blocks_ = blocks_;
  copy.published_ = published_;
  copy.published_id_ = published_id_;
  for (const std::int32_t block : blocks_) pool_->AddOwner(block);
  return copy;
}

void BlockTable::Clear() {
  // The last first: when room is needed, the ends of texts go before their beginnings, which more requests
  // share.
  for (auto block = blocks_.rbegin(); block != blocks_.rend(); ++block) pool_->Release(*block);
  blocks_.clear();
  published_ = 0;
}

std::int64_t BlockTable::Adopt(std::uint64_t salt, std::span<const std::int32_t> tokens) {
  assert(blocks_.empty());
  if (!pool_->keeps_prefixes()) return 0;
  published_id_ = PrefixIndex::Root(salt);
  while (std::cmp_less((published_ + 1) * kKvBlockTokens, tokens.size())) {
    const auto block_tokens =
        tokens.subspan(static_cast<std::size_t>(published_ * kKvBlockTokens), kKvBlockTokens);
    const auto match = pool_->prefixes().Find(published_id_, block_tokens);
    if (!match) break;
    pool_->AddOwner(match->block);
    blocks_.push_back(match->block);
    published_id_ = match->id;
    ++published_;
  }
  return published_ * kKvBlockTokens;
}

void BlockTable::Publish(std::uint64_t salt, std::span<const std::int32_t> tokens, std::int64_t computed) {
  if (!pool_->keeps_prefixes()) return;
  if (published_ == 0) published_id_ = PrefixIndex::Root(salt);
  for (; (published_ + 1) * kKvBlockTokens <= computed; ++published_) {
    const auto first = static_cast<std::size_t>(published_ * kKvBlockTokens);
    published_id_ = pool_->prefixes().Add(published_id_, tokens.subspan(first, kKvBlockTokens),
                                          blocks_[static_cast<std::size_t>(published_)]);
  }
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
