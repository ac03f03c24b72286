#include "engine/prefix_index.h"

#include <algorithm>
#include <cassert>

namespace bloomery {

std::size_t PrefixIndex::Hash::operator()(const Key& key) const {
  // FNV-1a over whole values, then SplitMix64's finaliser so that the low bits depend on all.
  std::uint64_t hash = 0xCBF29CE484222325ULL ^ key.prefix;
  for (const std::int32_t token : key.tokens)
    hash = (hash ^ static_cast<std::uint32_t>(token)) * 0x100000001B3ULL;
  hash = (hash ^ (hash >> 30U)) * 0xBF58476D1CE4E5B9ULL;
  hash = (hash ^ (hash >> 27U)) * 0x94D049BB133111EBULL;
  return hash ^ (hash >> 31U);
}

PrefixIndex::Key PrefixIndex::MakeKey(Id prefix, std::span<const std::int32_t> tokens) {
  assert(tokens.size() == kKvBlockTokens);
  Key key{prefix, {}};
  std::copy(tokens.begin(), tokens.end(), key.tokens.begin());
  return key;
}

std::optional<PrefixIndex::Match> PrefixIndex::Find(Id prefix, std::span<const std::int32_t> tokens) const {
  const auto found = entries_.find(MakeKey(prefix, tokens));
  if (found == entries_.end()) return std::nullopt;
  return found->second;
}

PrefixIndex::Id PrefixIndex::Add(Id prefix, std::span<const std::int32_t> tokens, std::int32_t block) {
  const Key key = MakeKey(prefix, tokens);
  const auto [entry, added] = entries_.try_emplace(key, Match{next_id_, block});
  if (added) {
    ++next_id_;
    Forget(block);
    entry_of_[static_cast<std::size_t>(block)] = key;
  }
  return entry->second.id;
}

void PrefixIndex::Forget(std::int32_t block) {
  std::optional<Key>& key = entry_of_[static_cast<std::size_t>(block)];
  if (!key) return;
  entries_.erase(*key);
  key.reset();
}

}  // namespace bloomery
