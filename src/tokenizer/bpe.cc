#include "tokenizer/bpe.h"

#include <queue>

#include "tokenizer/byte_alphabet.h"

namespace bloomery {
namespace {

std::uint64_t PairKey(std::int32_t left, std::int32_t right) {
  return (static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32U) |
         static_cast<std::uint32_t>(right);
}

// A symbol of the piece being merged, linked to its neighbours by index; −1 ends the list.
struct Symbol {
  std::int32_t id = 0;
  std::int32_t previous = -1;
  std::int32_t next = -1;
  bool alive = true;
};

// A merge that was possible when it was queued. Lowest rank first, leftmost of equals.
struct Pending {
  std::int32_t rank = 0;
  std::int32_t left = 0;  // index of the left symbol
  std::int32_t merged_id = 0;
  std::int32_t left_id = 0;
  std::int32_t right_id = 0;
  bool operator>(const Pending& other) const {
    return rank != other.rank ? rank > other.rank : left > other.left;
  }
};

}  // namespace

void Bpe::Reserve(std::size_t tokens, std::size_t merges) {
  ids_.reserve(tokens);
  merges_.reserve(merges);
}

Status Bpe::AddToken(std::string_view content, std::int32_t id) {
  if (id < 0 || id >= kMaxId)
    return Fail(ErrorCode::kInvalidArgument, "token \"{}\" has id {}, outside [0, {})", content, id, kMaxId);
  if (static_cast<std::size_t>(id) >= contents_.size()) contents_.resize(static_cast<std::size_t>(id) + 1);
  std::string& slot = contents_[static_cast<std::size_t>(id)];
  if (!slot.empty() && slot != content)
    return Fail(ErrorCode::kInvalidArgument, "tokens \"{}\" and \"{}\" share the id {}", slot, content, id);
  slot = content;
  ids_[slot] = id;
  return {};
}

Status Bpe::AddMerge(std::string_view left, std::string_view right) {
  const auto left_id = Find(left);
  const auto right_id = Find(right);
  const auto merged = Find(std::string(left).append(right));
  if (!left_id || !right_id || !merged) {
    return Fail(ErrorCode::kInvalidArgument, "merge \"{} {}\": not all of its tokens are in the vocabulary",
                left, right);
  }
  // A pair listed twice keeps its last rank, as in the reference implementation's map.
  merges_[PairKey(*left_id, *right_id)] = {static_cast<std::int32_t>(merges_.size()), *merged};
  return {};
}

void Bpe::IndexBytes(std::optional<std::int32_t> unknown) {
  for (unsigned byte = 0; byte < 256; ++byte) {
    byte_ids_[byte] =
        Find(AlphabetCharacter(static_cast<unsigned char>(byte))).value_or(unknown.value_or(-1));
  }
}

std::optional<std::int32_t> Bpe::Find(std::string_view content) const {
  const auto found = ids_.find(content);
  if (found == ids_.end()) return std::nullopt;
  return found->second;
}

const std::string& Bpe::content(std::int32_t id) const {
  static const std::string empty;
  return id >= 0 && static_cast<std::size_t>(id) < contents_.size() ? contents_[static_cast<std::size_t>(id)]
                                                                    : empty;
}

const Bpe::Merge* Bpe::FindMerge(std::int32_t left, std::int32_t right) const {
  const auto found = merges_.find(PairKey(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

std::vector<std::int32_t> Bpe::ByteIds(std::string_view bytes) const {
  std::vector<std::int32_t> ids;
  ids.reserve(bytes.size());
  for (const char byte : bytes) {
    const std::int32_t id = byte_ids_[static_cast<unsigned char>(byte)];
    if (id >= 0) ids.push_back(id);
  }
  return ids;
}

void Bpe::Encode(std::string_view bytes, std::vector<std::int32_t>& out) const {
  if (ignore_merges_) {
    std::string content;
    for (const char byte : bytes) content += AlphabetCharacter(static_cast<unsigned char>(byte));
    if (const auto whole = Find(content)) {
      out.push_back(*whole);
      return;
    }
  }
  std::vector<Symbol> symbols;
  for (const std::int32_t id : ByteIds(bytes)) {
    const auto index = static_cast<std::int32_t>(symbols.size());
    if (index > 0) symbols.back().next = index;
    symbols.push_back({id, index - 1, -1, true});
  }
  std::priority_queue<Pending, std::vector<Pending>, std::greater<>> queue;
  const auto consider = [&](std::int32_t left) {
    if (left < 0 || symbols[static_cast<std::size_t>(left)].next < 0) return;
    const Symbol& symbol = symbols[static_cast<std::size_t>(left)];
    const std::int32_t right_id = symbols[static_cast<std::size_t>(symbol.next)].id;
    if (const Merge* merge = FindMerge(symbol.id, right_id))
      queue.push({merge->rank, left, merge->id, symbol.id, right_id});
  };
  for (std::size_t i = 0; i + 1 < symbols.size(); ++i) consider(static_cast<std::int32_t>(i));
  while (!queue.empty()) {
    const Pending merge = queue.top();
    queue.pop();
    Symbol& left = symbols[static_cast<std::size_t>(merge.left)];
    if (!left.alive || left.id != merge.left_id || left.next < 0) continue;
    Symbol& right = symbols[static_cast<std::size_t>(left.next)];
    if (right.id != merge.right_id) continue;  // its neighbour was merged away meanwhile
    left.id = merge.merged_id;
    right.alive = false;
    left.next = right.next;
    if (left.next >= 0) symbols[static_cast<std::size_t>(left.next)].previous = merge.left;
    consider(left.previous);
    consider(merge.left);
  }
  for (const Symbol& symbol : symbols) {
    if (symbol.alive) out.push_back(symbol.id);
  }
}

}  // namespace bloomery
