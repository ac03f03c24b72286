#include "api/token_json.h"

#include <cmath>

#include "base/utf8.h"

namespace bloomery {

json::object TokenJson(const TokenLogprob& token, std::string_view text, const TokenKeys& keys) {
  json::object object{{"id", token.id}, {"text", ValidText(text)}};
  object[keys.logprob] = std::isfinite(token.logprob) ? json::value(token.logprob) : json::value(nullptr);
  if (keys.special) object["special"] = token.special;
  return object;
}

json::array TokensJson(const std::vector<TokenLogprob>& tokens, const TokenKeys& keys) {
  json::array list;
  for (const TokenLogprob& token : tokens) list.push_back(TokenJson(token, token.text, keys));
  return list;
}

std::string_view FinishReasonJson(FinishReason reason) {
  switch (reason) {
    case FinishReason::kEosToken:
      return "eos_token";
    case FinishReason::kStopSequence:
      return "stop_sequence";
    case FinishReason::kLength:
      break;
  }
  return "length";
}

std::string ValidText(std::string_view text) { return ReplaceInvalidUtf8(text); }

}  // namespace bloomery
