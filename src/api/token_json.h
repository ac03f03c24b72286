// Tokens as JSON objects: the dialects agree on everything but one key's spelling.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "engine/request.h"

namespace bloomery {

struct TokenKeys {
  std::string_view logprob;
  bool special = false;  // whether to say if a token is special
};
inline constexpr TokenKeys kTgiTokenKeys{"logprob", true};
inline constexpr TokenKeys kDjlTokenKeys{"log_prob", false};

// `text`: what the token added to the output, which is less than its own bytes while a character is
// unfinished.
json::object TokenJson(const TokenLogprob& token, std::string_view text, const TokenKeys& keys);
json::array TokensJson(const std::vector<TokenLogprob>& tokens, const TokenKeys& keys);

// "length", "eos_token" or "stop_sequence".
std::string_view FinishReasonJson(FinishReason reason);

// UTF-8 with U+FFFD for what is none.
std::string ValidText(std::string_view text);

}  // namespace bloomery
