#include "engine/logits.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <unordered_map>
#include <unordered_set>

namespace bloomery {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

bool InRange(std::int32_t id, std::span<const float> scores) {
  return id >= 0 && static_cast<std::size_t>(id) < scores.size();
}

// CTRL's penalty (Keskar et al. 2019): every token seen, prompt included, is divided or multiplied once.
void PenaliseRepetition(float penalty, std::span<const std::int32_t> tokens, std::span<float> scores) {
  const std::unordered_set<std::int32_t> seen(tokens.begin(), tokens.end());
  for (const std::int32_t id : seen) {
    if (!InRange(id, scores)) continue;
    float& score = scores[static_cast<std::size_t>(id)];
    score = score < 0 ? score * penalty : score / penalty;
  }
}

void PenaliseFrequency(float frequency, float presence, std::span<const std::int32_t> generated,
                       std::span<float> scores) {
  std::unordered_map<std::int32_t, int> counts;
  for (const std::int32_t id : generated) ++counts[id];
  for (const auto& [id, count] : counts) {
    if (InRange(id, scores))
      scores[static_cast<std::size_t>(id)] -= frequency * static_cast<float>(count) + presence;
  }
}

// Forbids every token that would complete an n-gram the sequence already holds.
void ForbidRepeatedNgrams(std::size_t n, std::span<const std::int32_t> tokens, std::span<float> scores) {
  if (tokens.size() + 1 < n) return;
  const auto prefix = tokens.last(n - 1);
  for (std::size_t start = 0; start + n <= tokens.size(); ++start) {
    if (!std::equal(prefix.begin(), prefix.end(), tokens.begin() + static_cast<std::ptrdiff_t>(start)))
      continue;
    const std::int32_t last = tokens[start + n - 1];
    if (InRange(last, scores)) scores[static_cast<std::size_t>(last)] = kMinusInfinity;
  }
}

struct Scored {
  std::int32_t id;
  float score;
};

// Falling score; equal ones by id, so that the order is one and the same everywhere.
bool Better(const Scored& a, const Scored& b) { return a.score != b.score ? a.score > b.score : a.id < b.id; }

void KeepTopK(int k, std::vector<Scored>& candidates) {
  if (static_cast<std::size_t>(k) >= candidates.size()) return;
  const auto kth = candidates.begin() + (k - 1);
  std::nth_element(candidates.begin(), kth, candidates.end(), Better);
  const float least = kth->score;
  // Ties with the k-th stay, as in transformers.
  std::erase_if(candidates, [least](const Scored& c) { return c.score < least; });
}

// exp(score − largest) of each candidate and their sum.
std::pair<std::vector<float>, double> Exponentials(std::span<const Scored> candidates) {
  float largest = kMinusInfinity;
  for (const Scored& c : candidates) largest = std::max(largest, c.score);
  std::vector<float> weights(candidates.size());
  double sum = 0;
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    weights[i] = std::exp(candidates[i].score - largest);
    sum += weights[i];
  }
  return {std::move(weights), sum};
}

// Drops the tail whose probabilities, summed from the smallest up, stay within 1 − top_p; at least one
// candidate remains. Only as many of the best are sorted as can matter: what lies outside the sorted head
// goes at once when all of it may go.
void KeepTopP(float top_p, std::vector<Scored>& candidates) {
  float largest = kMinusInfinity;
  for (const Scored& c : candidates) largest = std::max(largest, c.score);
  const auto weight = [largest](const Scored& c) { return static_cast<double>(std::exp(c.score - largest)); };
  double sum = 0;
  for (const Scored& c : candidates) sum += weight(c);
  const double droppable = (1.0 - static_cast<double>(top_p)) * sum;
  for (std::size_t head = 256;; head *= 8) {
    head = std::min(head, candidates.size());
    const auto end = candidates.begin() + static_cast<std::ptrdiff_t>(head);
    std::partial_sort(candidates.begin(), end, candidates.end(), Better);
    double tail = 0;
    for (auto it = end; it != candidates.end(); ++it) tail += weight(*it);
    if (head < candidates.size() && tail > droppable) continue;
    while (head > 1 && tail + weight(candidates[head - 1]) <= droppable) tail += weight(candidates[--head]);
    candidates.resize(head);
    return;
  }
}

// Locally typical sampling (Meister et al. 2022): the candidates whose surprise is nearest the entropy, up to
// a mass.
void KeepTypical(float mass, std::vector<Scored>& candidates) {
  const auto [weights, sum] = Exponentials(candidates);
  double entropy = 0;
  std::vector<double> log_probabilities(candidates.size());
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    const double probability = weights[i] / sum;
    log_probabilities[i] = std::log(probability);
    if (probability > 0) entropy -= probability * log_probabilities[i];
  }
  std::vector<std::size_t> order(candidates.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto distance = [&](std::size_t i) { return std::abs(-log_probabilities[i] - entropy); };
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return distance(a) < distance(b); });
  std::size_t last = 0;
  double cumulative = 0;
  for (; last < order.size(); ++last) {
    cumulative += weights[order[last]] / sum;
    if (cumulative >= static_cast<double>(mass)) break;
  }
  const double limit = distance(order[std::min(last, order.size() - 1)]);
  std::vector<Scored> kept;
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    if (distance(i) <= limit) kept.push_back(candidates[i]);
  }
  candidates = std::move(kept);
}

}  // namespace

void ProcessLogits(const SamplingParams& params, const TokenHistory& history,
                   std::span<const std::int32_t> eos_ids, std::span<float> scores) {
  if (params.repetition_penalty != 1.0F)
    PenaliseRepetition(params.repetition_penalty, history.tokens, scores);
  if (params.frequency_penalty != 0 || params.presence_penalty != 0) {
    PenaliseFrequency(params.frequency_penalty, params.presence_penalty, history.generated(), scores);
  }
  if (params.no_repeat_ngram_size > 0) {
    ForbidRepeatedNgrams(static_cast<std::size_t>(params.no_repeat_ngram_size), history.tokens, scores);
  }
  const bool too_short =
      history.tokens.size() < static_cast<std::size_t>(std::max(0, params.min_length)) ||
      history.generated().size() < static_cast<std::size_t>(std::max(0, params.min_new_tokens));
  if (!too_short) return;
  for (const std::int32_t id : eos_ids) {
    if (InRange(id, scores)) scores[static_cast<std::size_t>(id)] = kMinusInfinity;
  }
}

bool WantsLargestOnly(const SamplingParams& params) {
  return !params.do_sample && params.num_beams == 1 && params.num_return_sequences == 1 &&
         params.best_of <= 1 && params.logprobs < 0 && params.repetition_penalty == 1.0F &&
         params.frequency_penalty == 0.0F && params.presence_penalty == 0.0F &&
         params.no_repeat_ngram_size <= 0 && params.min_length <= 0 && params.min_new_tokens <= 0;
}

std::vector<Candidate> SamplingDistribution(const SamplingParams& params, std::span<const float> scores) {
  std::vector<Scored> candidates;
  candidates.reserve(scores.size());
  for (std::size_t i = 0; i < scores.size(); ++i) {
    if (scores[i] != kMinusInfinity)
      candidates.push_back({static_cast<std::int32_t>(i), scores[i] / params.temperature});
  }
  // Every token forbidden: the least bad answer is the plain argmax.
  if (candidates.empty()) return {{Argmax(scores), 1.0F}};
  if (params.top_k > 0) KeepTopK(params.top_k, candidates);
  if (params.top_p < 1.0F) KeepTopP(params.top_p, candidates);
  if (params.typical_p < 1.0F) KeepTypical(params.typical_p, candidates);
  const auto [weights, sum] = Exponentials(candidates);
  std::vector<Candidate> distribution(candidates.size());
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    distribution[i] = {candidates[i].id, static_cast<float>(weights[i] / sum)};
  }
  return distribution;
}

std::int32_t Draw(std::span<const Candidate> distribution, double uniform) {
  double total = 0;
  for (const Candidate& c : distribution) total += static_cast<double>(c.probability);
  double cumulative = 0;
  for (const Candidate& c : distribution) {
    cumulative += static_cast<double>(c.probability);
    if (uniform * total < cumulative) return c.id;
  }
  return distribution.back().id;  // rounding left uniform·total at the very end
}

double LogSumExp(std::span<const float> scores) {
  const float largest = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (const float score : scores) sum += static_cast<double>(std::exp(score - largest));
  return static_cast<double>(largest) + std::log(sum);
}

std::vector<std::int32_t> TopIds(std::span<const float> scores, int k) {
  std::vector<std::int32_t> ids(scores.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto end = ids.begin() + std::min<std::ptrdiff_t>(k, static_cast<std::ptrdiff_t>(ids.size()));
  std::partial_sort(ids.begin(), end, ids.end(), [scores](std::int32_t a, std::int32_t b) {
    const float x = scores[static_cast<std::size_t>(a)];
    const float y = scores[static_cast<std::size_t>(b)];
    return x != y ? x > y : a < b;
  });
  ids.erase(end, ids.end());
  return ids;
}

}  // namespace bloomery
