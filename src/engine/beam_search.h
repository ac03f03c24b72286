// Beam search over one request, as transformers' generate() does it (its vectorised form, 4.50 and later),
// without tensors and without a model: it is handed processed log-probabilities and says which beams go on
// with which token.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "engine/request.h"

namespace bloomery {

class BeamSearch {
 public:
  struct Config {
    int num_beams = 1;
    float length_penalty = 1.0F;
    EarlyStopping early_stopping = EarlyStopping::kHeuristic;
    std::int64_t max_new_tokens = 0;
    int stop_token_count =
        0;  // how many different tokens may end a sequence: sets how many candidates are looked at
  };

  // The next state of running beam i: beam `parent`'s tokens and then `token`.
  struct Continuation {
    int parent = 0;
    std::int32_t token = 0;
    float score = 0;  // sum of log-probabilities
  };

  struct Hypothesis {
    std::vector<std::int32_t> tokens;  // generated ones
    float score = 0;                   // sum of log-probabilities / length^length_penalty
    bool stopped = false;              // ended by a stop, not by max_new_tokens
  };

  // Whether beam `parent` ends with `token`.
  using StopsWith = std::function<bool(int parent, std::int32_t token)>;

  explicit BeamSearch(Config config);

  // One step. log_probabilities: [num_beams][vocab], the running beams' own, processed (in the first step all
  // beams are the same). Returns the num_beams running beams of the next step, or nothing when the search is
  // over.
  std::vector<Continuation> Advance(std::span<const std::span<const float>> log_probabilities,
                                    const StopsWith& stops_with);

  // Generated tokens of running beam i.
  const std::vector<std::int32_t>& tokens(int beam) const {
    return running_[static_cast<std::size_t>(beam)].tokens;
  }
  int num_beams() const { return config_.num_beams; }

  // Best first; meaningful once Advance has returned nothing.
  const std::vector<Hypothesis>& finished() const { return finished_; }

 private:
  struct Beam {
    std::vector<std::int32_t> tokens;
    float score = 0;
  };
  struct ScoredContinuation {
    Continuation next;
    bool stops = false;      // by a stop token or string
    bool at_length = false;  // by max_new_tokens
    bool ends() const { return stops || at_length; }
  };

  std::vector<ScoredContinuation> BestContinuations(std::span<const std::span<const float>> log_probabilities,
                                                    const StopsWith& stops_with) const;
  void KeepFinished(std::span<const ScoredContinuation> candidates);
  std::vector<Continuation> ContinueRunning(std::span<const ScoredContinuation> candidates);
  bool CanImprove() const;

  const Config config_;
  std::int64_t generated_ = 0;  // tokens in each running beam
  std::vector<Beam> running_;
  std::vector<Hypothesis> finished_;  // at most num_beams, falling score
};

}  // namespace bloomery
