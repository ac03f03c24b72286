// Tokens that are matched literally in a text before anything else cuts it: specials such as </s>, and others
// a model was given later.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "tokenizer/regex.h"

namespace bloomery {

struct AddedToken {
  std::int32_t id = 0;
  std::string content;
  bool special = false;
  bool single_word = false;  // only between characters that are not of a word
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // and after it
  bool normalized = false;   // matched in a second pass, in what the others left
};

// A stretch of text: an added token, or plain text between them.
struct TextSegment {
  std::string_view text;
  std::optional<std::int32_t> id;
};

// Immutable once built, then thread safe.
class AddedTokens {
 public:
  void Add(AddedToken token);
  const std::vector<AddedToken>& tokens() const { return tokens_; }

  // Leftmost match first, the longest of those that start together.
  std::vector<TextSegment> Split(std::string_view text) const;

 private:
  void SplitPass(const TextSegment& segment, bool normalized, std::vector<TextSegment>& out) const;
  const AddedToken* MatchAt(std::string_view text, std::size_t at, bool normalized) const;

  std::vector<AddedToken> tokens_;
  std::array<std::vector<std::size_t>, 256> by_first_byte_;  // indices into tokens_, longest content first
};

}  // namespace bloomery
