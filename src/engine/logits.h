// From logits to a distribution: the processors and warpers of transformers' generate(), in its order, and
// drawing from it.
//
//   repetition_penalty ▸ frequency/presence ▸ no_repeat_ngram ▸ min_length ▸ min_new_tokens ProcessLogits:
//   greedy, beams, sampling temperature ▸ top_k ▸ top_p ▸ typical_p ▸ softmax SamplingDistribution: sampling
//   only
//
// Frequency and presence penalties are OpenAI's (transformers has none) and sit beside the repetition
// penalty.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/request.h"
#include "tensor/argmax.h"

namespace bloomery {

// Nothing but the token with the largest logit is wanted, and no processor changes a logit: rows of logits
// need not be looked at.
bool WantsLargestOnly(const SamplingParams& params);

// What a sequence holds so far: prompt, then generated tokens.
struct TokenHistory {
  std::span<const std::int32_t> tokens;
  std::size_t prompt_tokens = 0;

  std::span<const std::int32_t> generated() const { return tokens.subspan(prompt_tokens); }
};

// Changes scores [vocab] in place: logits, or log-probabilities under beam search (as transformers does).
// eos_ids: tokens that min_length and min_new_tokens forbid.
void ProcessLogits(const SamplingParams& params, const TokenHistory& history,
                   std::span<const std::int32_t> eos_ids, std::span<float> scores);

struct Candidate {
  std::int32_t id = 0;
  float probability = 0;
};

// The tokens that can still be drawn, with probabilities that add up to 1. In order of id, or of falling
// probability where a filter had to sort.
std::vector<Candidate> SamplingDistribution(const SamplingParams& params, std::span<const float> scores);

// The candidate under `uniform` in [0, 1) of the cumulative distribution.
std::int32_t Draw(std::span<const Candidate> distribution, double uniform);

// log Σ exp(score): what turns a logit into a log-probability.
double LogSumExp(std::span<const float> scores);

// Ids of the k largest scores, falling; equal scores in order of id.
std::vector<std::int32_t> TopIds(std::span<const float> scores, int k);

}  // namespace bloomery
