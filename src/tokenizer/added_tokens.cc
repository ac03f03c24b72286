#include "tokenizer/added_tokens.h"

#include <algorithm>

#include "base/utf8.h"

namespace bloomery {
namespace {

bool IsWhiteSpace(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

// What Rust's regex crate calls \w, on one character.
bool IsWord(std::string_view character) {
  static const auto regex = Regex::Compile(R"([\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}])");
  bool matched = false;
  if (regex) regex->ForEachMatch(character, [&](std::size_t, std::size_t) { matched = true; });
  return matched;
}

// Start of the character that ends at `end`.
std::size_t PreviousCharacter(std::string_view text, std::size_t end) {
  do {
    --end;
  } while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80);
  return end;
}

std::size_t SkipSpaceBackwards(std::string_view text, std::size_t end) {
  while (end > 0) {
    const std::size_t begin = PreviousCharacter(text, end);
    if (!IsWhiteSpace(DecodeUtf8(text.substr(begin)).code_point)) break;
    end = begin;
  }
  return end;
}

std::size_t SkipSpaceForwards(std::string_view text, std::size_t at) {
  while (at < text.size()) {
    const DecodedCodePoint next = DecodeUtf8(text.substr(at));
    if (!IsWhiteSpace(next.code_point)) break;
    at += next.length_bytes;
  }
  return at;
}

bool StandsAlone(std::string_view text, std::size_t begin, std::size_t end) {
  if (begin > 0) {
    const std::size_t previous = PreviousCharacter(text, begin);
    if (IsWord(text.substr(previous, begin - previous))) return false;
  }
  return end == text.size() || !IsWord(text.substr(end, DecodeUtf8(text.substr(end)).length_bytes));
}

}  // namespace

void AddedTokens::Add(AddedToken token) {
  if (token.content.empty()) return;
  const auto same = std::find_if(tokens_.begin(), tokens_.end(),
                                 [&](const AddedToken& t) { return t.content == token.content; });
  if (same != tokens_.end()) {
    *same = std::move(token);
    return;
  }
  auto& bucket = by_first_byte_[static_cast<unsigned char>(token.content.front())];
  tokens_.push_back(std::move(token));
  bucket.push_back(tokens_.size() - 1);
  std::stable_sort(bucket.begin(), bucket.end(), [this](std::size_t a, std::size_t b) {
    return tokens_[a].content.size() > tokens_[b].content.size();
  });
}

const AddedToken* AddedTokens::MatchAt(std::string_view text, std::size_t at, bool normalized) const {
  for (const std::size_t index : by_first_byte_[static_cast<unsigned char>(text[at])]) {
    const AddedToken& token = tokens_[index];
    if (token.normalized == normalized && text.substr(at).starts_with(token.content)) return &token;
  }
  return nullptr;
}

std::vector<TextSegment> AddedTokens::Split(std::string_view text) const {
  std::vector<TextSegment> first;
  SplitPass({text, std::nullopt}, /*normalized=*/false, first);
  std::vector<TextSegment> second;
  for (const TextSegment& segment : first) {
    if (segment.id) {
      second.push_back(segment);
    } else {
      SplitPass(segment, /*normalized=*/true, second);
    }
  }
  return second;
}

void AddedTokens::SplitPass(const TextSegment& segment, bool normalized,
                            std::vector<TextSegment>& out) const {
  const std::string_view text = segment.text;
  std::size_t pending = 0;  // text before it has been handed out
  for (std::size_t at = 0; at < text.size();) {
    const AddedToken* token = MatchAt(text, at, normalized);
    if (token == nullptr) {
      ++at;
      continue;
    }
    std::size_t begin = at;
    std::size_t end = at + token->content.size();
    at = end;
    if (token->single_word && !StandsAlone(text, begin, end)) continue;
    if (token->lstrip) begin = std::max(SkipSpaceBackwards(text, begin), pending);
    if (token->rstrip) end = SkipSpaceForwards(text, end);
    if (begin > pending) out.push_back({text.substr(pending, begin - pending), std::nullopt});
    out.push_back({text.substr(begin, end - begin), token->id});
    pending = end;
    at = std::max(at, end);
  }
  if (pending < text.size()) out.push_back({text.substr(pending), std::nullopt});
}

}  // namespace bloomery
