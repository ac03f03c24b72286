#include "engine/draft.h"

#include <algorithm>

namespace bloomery {
namespace {

// A pair repeats by chance in ordinary text, but then costs only a row or two; a longer match is preferred
// because what follows it repeats more often.
constexpr std::size_t kLongestMatch = 4;
constexpr std::size_t kShortestMatch = 2;

// Steps without guesses after the first round of misses; doubled each further time, up to 2⁶ of them.
constexpr int kFirstPause = 1;
constexpr int kMostMisses = 6;

// Tokens before `end` that equal those before the end of the text, at most kLongestMatch.
std::size_t MatchLength(std::span<const std::int32_t> tokens, std::size_t end) {
  std::size_t length = 0;
  while (length < std::min(end, kLongestMatch) &&
         tokens[end - 1 - length] == tokens[tokens.size() - 1 - length]) {
    ++length;
  }
  return length;
}

}  // namespace

std::vector<std::int32_t> LookUpDraft(std::span<const std::int32_t> tokens, std::size_t count) {
  std::size_t best_length = kShortestMatch - 1;
  std::size_t best_end = 0;
  for (std::size_t end = tokens.size() - std::min<std::size_t>(1, tokens.size()); end > 0; --end) {
    const std::size_t length = MatchLength(tokens, end);
    if (length <= best_length) continue;
    best_length = length;
    best_end = end;
    if (length == kLongestMatch) break;
  }
  if (best_end == 0) return {};
  const auto draft = tokens.subspan(best_end, std::min(count, tokens.size() - best_end));
  return {draft.begin(), draft.end()};
}

std::size_t DraftPace::Next(std::size_t limit) {
  if (pause_ > 0) {
    --pause_;
    return 0;
  }
  return std::min(length_, limit);
}

void DraftPace::Report(std::size_t proposed, std::size_t accepted) {
  if (proposed == 0) return;
  if (accepted == 0) {
    length_ = std::max<std::size_t>(1, length_ / 2);
    pause_ = kFirstPause << std::min(misses_, kMostMisses);
    ++misses_;
    return;
  }
  misses_ = 0;
  length_ = accepted == proposed ? length_ * 2 : accepted + 1;
}

}  // namespace bloomery
