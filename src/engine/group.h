// A request inside the engine: its sequences, what they have produced, and how far their keys and values are
// computed. Left out: when it runs (scheduler.h), what a step's logits do to it (decoder.h).
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "engine/beam_search.h"
#include "engine/draft.h"
#include "engine/kv_blocks.h"
#include "engine/request.h"
#include "engine/stop_matcher.h"
#include "tokenizer/tokenizer.h"

namespace bloomery {

// Receives a request's events. Called on the engine's thread; must not block.
class EventSink {
 public:
  virtual ~EventSink() = default;
  virtual void OnEvent(std::uint64_t request_id, const GenerationEvent& event) = 0;
};

using SteadyTime = std::chrono::steady_clock::time_point;

// One text being produced.
struct Sequence {
  Sequence(BlockTable table, std::optional<IncrementalDecoder> text_decoder,
           const std::vector<std::string>& stops)
      : blocks(std::move(table)), decoder(std::move(text_decoder)), stop_matcher(stops) {}

  int index = 0;                     // names it in events and in random draws
  std::vector<std::int32_t> tokens;  // prompt, then generated
  std::int64_t computed = 0;         // tokens whose keys and values are in the cache
  BlockTable blocks;
  std::optional<FinishReason> finish;
  DraftPace draft_pace;
  std::vector<std::int32_t> drafts;  // guesses that the step being computed verifies

  std::optional<IncrementalDecoder> decoder;  // absent for models without a tokenizer
  StopMatcher stop_matcher;
  std::string text;  // certain so far
  std::vector<TokenLogprob> logprobs;
  std::vector<std::vector<TokenLogprob>> top_logprobs;
  double logprob_sum = 0;

  std::int64_t pending() const { return static_cast<std::int64_t>(tokens.size()) - computed; }
  // A copy with its own future: shares the KV blocks, copies the rest.
  Sequence Fork(int new_index) const;
};

struct Group {
  GenerationRequest request;
  std::shared_ptr<EventSink> sink;
  SteadyTime submitted;
  std::optional<SteadyTime> started;  // first step
  std::optional<SteadyTime> first_token;
  std::size_t prompt_tokens = 0;
  std::int64_t cached_tokens = 0;   // of the prompt, taken over when it was first admitted
  std::int64_t max_new_tokens = 0;  // resolved against max_length and the context
  std::uint64_t seed = 0;
  std::vector<std::int32_t> eos_ids;  // empty with ignore_eos
  std::vector<Sequence> sequences;    // one until the prompt is computed, then all of them
  std::optional<BeamSearch> beams;
  int results_due = 0;  // from steps that are being computed
  bool prompt_reported = false;
  PromptEvent prompt_event;

  std::uint64_t id() const { return request.id; }
  // Sequences this request grows to after its prompt.
  int width() const;
  bool greedy_or_sampled() const { return !beams.has_value(); }
  // Nothing is certain before the end: no TokenEvents.
  bool silent() const;
  bool finished() const;
  // Logits of every prompt token are still to be reported, so all of them must be computed.
  bool wants_prompt_logits() const { return request.sampling.prompt_logprobs && !prompt_reported; }
  // Every live sequence lacks exactly one token in the cache, so one row each advances all.
  bool decoding() const;
  std::int64_t live_sequences() const;
  // Rows of logits that a step yields for it: one for each live sequence and for each of their drafts.
  std::int64_t logit_rows() const;
  void DropKv();
};

}  // namespace bloomery
