#include "tokenizer/tokenizer.h"

#include <utility>

#include "base/utf8.h"

namespace bloomery {

std::vector<std::int32_t> Tokenizer::Encode(std::string_view text, bool add_special_tokens) const {
  std::string repaired;
  if (!IsValidUtf8(text)) {
    repaired = ReplaceInvalidUtf8(text);
    text = repaired;
  }
  std::vector<std::int32_t> ids;
  if (add_special_tokens) ids = prefix_ids_;
  for (const TextSegment& segment : added_.Split(text)) {
    if (segment.id) {
      ids.push_back(*segment.id);
    } else {
      for (const std::string& piece : pre_tokenizer_->Split(segment.text)) bpe_.Encode(piece, ids);
    }
  }
  if (add_special_tokens) ids.insert(ids.end(), suffix_ids_.begin(), suffix_ids_.end());
  return ids;
}

std::string Tokenizer::Decode(std::span<const std::int32_t> ids, bool skip_special_tokens) const {
  std::string bytes;
  for (const std::int32_t id : ids) {
    if (!skip_special_tokens || !IsSpecial(id)) bytes += TokenBytes(id);
  }
  return ReplaceInvalidUtf8(bytes);
}

std::string Tokenizer::TokenBytes(std::int32_t id) const {
  return id >= 0 && static_cast<std::size_t>(id) < bytes_.size() ? bytes_[static_cast<std::size_t>(id)]
                                                                 : std::string();
}

bool Tokenizer::IsSpecial(std::int32_t id) const {
  return id >= 0 && static_cast<std::size_t>(id) < special_.size() && special_[static_cast<std::size_t>(id)];
}

std::optional<std::int32_t> Tokenizer::TokenToId(std::string_view content) const {
  for (const AddedToken& token : added_.tokens()) {
    if (token.content == content) return token.id;
  }
  return bpe_.Find(content);
}

std::string IncrementalDecoder::Push(std::int32_t id) {
  if (skip_special_tokens_ && tokenizer_->IsSpecial(id)) return {};
  held_ += tokenizer_->TokenBytes(id);
  const std::size_t complete = CompleteUtf8Prefix(held_);
  std::string text = ReplaceInvalidUtf8(std::string_view(held_).substr(0, complete));
  held_.erase(0, complete);
  return text;
}

std::string IncrementalDecoder::Flush() { return ReplaceInvalidUtf8(std::exchange(held_, {})); }

}  // namespace bloomery
