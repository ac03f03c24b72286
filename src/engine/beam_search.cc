#include "engine/beam_search.h"

#include <algorithm>
#include <cmath>

namespace bloomery {
namespace {

// What transformers adds to a score to rule it out. Far below any sum of log-probabilities, and finite, so
// that a ruled-out beam can still fill a place when nothing better is left.
constexpr float kRuledOut = -1.0e9F;

bool Better(const BeamSearch::Continuation& a, const BeamSearch::Continuation& b) {
  if (a.score != b.score) return a.score > b.score;
  return a.parent != b.parent ? a.parent < b.parent : a.token < b.token;
}

}  // namespace

BeamSearch::BeamSearch(Config config)
    : config_(config), running_(static_cast<std::size_t>(config.num_beams)) {
  // All beams start equal; only the first may choose in the first step.
  for (std::size_t i = 1; i < running_.size(); ++i) running_[i].score = kRuledOut;
}

std::vector<BeamSearch::Continuation> BeamSearch::Advance(
    std::span<const std::span<const float>> log_probabilities, const StopsWith& stops_with) {
  const std::vector<ScoredContinuation> candidates = BestContinuations(log_probabilities, stops_with);
  KeepFinished(candidates);
  std::vector<Continuation> next = ContinueRunning(candidates);
  const bool all_end =
      std::all_of(candidates.begin(), candidates.end(), [](const auto& c) { return c.ends(); });
  const bool full = finished_.size() == running_.size();
  const bool enough = full && config_.early_stopping == EarlyStopping::kWhenEnoughBeams;
  if (all_end || enough || !CanImprove()) return {};
  return next;
}

std::vector<BeamSearch::ScoredContinuation> BeamSearch::BestContinuations(
    std::span<const std::span<const float>> log_probabilities, const StopsWith& stops_with) const {
  // Enough that num_beams candidates go on even if every beam's best tokens are its stop tokens.
  const auto keep = static_cast<std::size_t>(std::max(2, 1 + config_.stop_token_count) * config_.num_beams);
  std::vector<Continuation> heap;  // the best so far, worst on top
  heap.reserve(keep + 1);
  for (std::size_t beam = 0; beam < running_.size(); ++beam) {
    const std::span<const float> row = log_probabilities[beam];
    for (std::size_t token = 0; token < row.size(); ++token) {
      const Continuation candidate{static_cast<int>(beam), static_cast<std::int32_t>(token),
                                   running_[beam].score + row[token]};
      if (heap.size() == keep && !Better(candidate, heap.front())) continue;
      heap.push_back(candidate);
      std::push_heap(heap.begin(), heap.end(), Better);
      if (heap.size() > keep) {
        std::pop_heap(heap.begin(), heap.end(), Better);
        heap.pop_back();
      }
    }
  }
  std::sort(heap.begin(), heap.end(), Better);
  const bool at_length = generated_ + 1 >= config_.max_new_tokens;
  std::vector<ScoredContinuation> candidates;
  for (const Continuation& next : heap)
    candidates.push_back({next, stops_with(next.parent, next.token), at_length});
  return candidates;
}

// Only candidates among the num_beams best may finish; worse ones that stop are dropped.
void BeamSearch::KeepFinished(std::span<const ScoredContinuation> candidates) {
  const float divisor = std::pow(static_cast<float>(generated_ + 1), config_.length_penalty);
  for (const ScoredContinuation& candidate : candidates.first(std::min(candidates.size(), running_.size()))) {
    if (!candidate.ends()) continue;
    Hypothesis done{running_[static_cast<std::size_t>(candidate.next.parent)].tokens,
                    candidate.next.score / divisor, candidate.stops};
    done.tokens.push_back(candidate.next.token);
    finished_.push_back(std::move(done));
  }
  std::stable_sort(finished_.begin(), finished_.end(),
                   [](const Hypothesis& a, const Hypothesis& b) { return a.score > b.score; });
  if (finished_.size() > running_.size()) finished_.resize(running_.size());
}

std::vector<BeamSearch::Continuation> BeamSearch::ContinueRunning(
    std::span<const ScoredContinuation> candidates) {
  std::vector<Continuation> next;
  for (const ScoredContinuation& candidate : candidates) {
    next.push_back(candidate.next);
    if (candidate.ends()) next.back().score += kRuledOut;
  }
  std::stable_sort(next.begin(), next.end(),
                   [](const Continuation& a, const Continuation& b) { return a.score > b.score; });
  next.resize(running_.size());
  std::vector<Beam> beams;
  for (const Continuation& continuation : next) {
    beams.push_back({running_[static_cast<std::size_t>(continuation.parent)].tokens, continuation.score});
    beams.back().tokens.push_back(continuation.token);
  }
  running_ = std::move(beams);
  ++generated_;
  return next;
}

// Whether the best running beam could still beat the worst finished one. With "never" and a positive length
// penalty the most it can reach is at the greatest length; otherwise it is judged by its length now.
bool BeamSearch::CanImprove() const {
  if (finished_.size() < running_.size()) return true;
  const bool longest = config_.early_stopping == EarlyStopping::kNever && config_.length_penalty > 0;
  const auto length = static_cast<float>(longest ? config_.max_new_tokens : generated_);
  return running_.front().score / std::pow(length, config_.length_penalty) > finished_.back().score;
}

}  // namespace bloomery
