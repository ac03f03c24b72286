// What a step's logits do to a request: process, choose, append, report, finish.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "engine/group.h"
#include "tokenizer/tokenizer.h"

namespace bloomery {

// Used by the engine's thread only. The tokenizer may be null (shapes without one): texts are then empty.
class Decoder {
 public:
  explicit Decoder(std::shared_ptr<const Tokenizer> tokenizer) : tokenizer_(std::move(tokenizer)) {}

  // Logits of prompt positions [first, first + rows), each predicting the token after it; [rows, vocab].
  void TakePromptLogits(Group& group, std::size_t first, std::size_t rows,
                        std::span<const float> logits) const;

  // Logits of each live sequence's last token and of its drafts, in order: [rows, vocab], overwritten. On the
  // first call the group widens to all its sequences. Follows a sequence's drafts while they are the tokens
  // that are chosen anyway, and counts those as computed. Emits the events that follow; returns the number of
  // drafts that came true.
  std::int64_t Advance(Group& group, std::span<float> logits) const;

  // The same for a group that wants the largest logit alone (WantsLargestOnly): `best` is each row's token.
  std::int64_t AdvanceGreedily(Group& group, std::span<const std::int32_t> best) const;

  // A request that only wanted its prompt scored.
  void FinishWithoutTokens(Group& group) const;

 private:
  void ReportPrompt(Group& group) const;
  void Widen(Group& group) const;
  void Begin(Group& group) const;
  void AdvanceSequence(Group& group, Sequence& sequence, std::span<float> logits) const;
  template <typename Take>
  std::int64_t FollowDrafts(Sequence& sequence, const Take& take) const;
  void AdvanceBeams(Group& group, std::span<float> logits, std::size_t vocab) const;
  void FinishBeams(Group& group) const;
  void AppendToken(Group& group, Sequence& sequence, std::int32_t token) const;
  void FinishSequence(Group& group, Sequence& sequence, FinishReason reason) const;
  void FinishGroup(Group& group) const;
  SequenceEvent Summary(const Sequence& sequence, const Group& group) const;
  TokenLogprob Describe(std::int32_t token, double logprob) const;
  std::vector<TokenLogprob> Top(std::span<const float> logits, double log_sum, int count) const;

  const std::shared_ptr<const Tokenizer> tokenizer_;
};

}  // namespace bloomery
