// Guesses of the tokens to come, without a second model: what followed the last time the text read as it does
// now (prompt lookup). A step verifies guesses beside the token it computes anyway; reading the weights once
// serves them all. Left out: accepting them (decoder.h): a guess only ever saves time, never changes a token.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace bloomery {

// At most `count` tokens that followed the latest earlier place where the last tokens (four of them at best,
// two at least) stand too; none where there is no such place.
std::vector<std::int32_t> LookUpDraft(std::span<const std::int32_t> tokens, std::size_t count);

// How far one sequence's guesses are worth following. Grows while they come true, and pauses, longer each
// time, where they do not: a verified row costs little, but not nothing.
class DraftPace {
 public:
  // Guesses to make in this step.
  std::size_t Next(std::size_t limit);
  // Of what Next allowed, `proposed` were made and the first `accepted` of them came true.
  void Report(std::size_t proposed, std::size_t accepted);

 private:
  std::size_t length_ = 2;
  int pause_ = 0;   // steps left without guesses
  int misses_ = 0;  // rounds in a row in which nothing came true
};

}  // namespace bloomery
