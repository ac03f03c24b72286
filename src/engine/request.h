// The one request and the one stream of events that everything between the HTTP dialects and the scheduler
// speaks. api/ makes a GenerationRequest from a body and an answer from the events; worker/ carries both over
// the socket. Left out: anything about HTTP, and anything about how a step is computed.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/result.h"

namespace bloomery {

// Hugging Face's early_stopping: false, true, "never".
enum class EarlyStopping : std::uint8_t { kHeuristic, kWhenEnoughBeams, kNever };

// Names and meanings are those of transformers' GenerationConfig where it has them, else of the OpenAI API.
struct SamplingParams {
  bool do_sample = false;  // false: greedy, or beam search where num_beams > 1
  float temperature = 1.0F;
  int top_k = 0;                      // 0: off
  float top_p = 1.0F;                 // 1: off
  float typical_p = 1.0F;             // 1: off
  float repetition_penalty = 1.0F;    // over prompt and generated tokens
  float frequency_penalty = 0.0F;     // over generated tokens only, times their count
  float presence_penalty = 0.0F;      // over generated tokens only
  int no_repeat_ngram_size = 0;       // 0: off
  std::optional<std::uint64_t> seed;  // absent: the engine draws one and reports it

  int min_length = 0;  // prompt + generated; end-of-sequence is impossible below it
  int min_new_tokens = 0;
  std::optional<int> max_length;      // prompt + generated
  std::optional<int> max_new_tokens;  // wins over max_length; neither: the engine's default

  std::optional<std::vector<std::int32_t>>
      eos_token_ids;                         // in place of the model's own end-of-sequence tokens
  std::vector<std::string> stop;             // text that ends generation; not part of the answer
  std::vector<std::int32_t> stop_token_ids;  // besides the model's own end-of-sequence tokens
  bool ignore_eos = false;

  int num_beams = 1;
  float length_penalty = 1.0F;
  EarlyStopping early_stopping = EarlyStopping::kHeuristic;

  int num_return_sequences = 1;  // OpenAI's n
  int best_of = 0;  // sampled candidates of which the best num_return_sequences are kept; 0: the same number

  int priority = 0;  // smaller goes first, equals in order of arrival (vLLM's extension of the OpenAI API)

  int logprobs = -1;             // -1: none; k ≥ 0: the chosen token's, and the k most likely
  bool prompt_logprobs = false;  // also for the prompt's own tokens (echo, decoder_input_details)
};

struct GenerationRequest {
  std::uint64_t id = 0;  // unique among the requests in flight; chosen by the submitter
  std::variant<std::string, std::vector<std::int32_t>> prompt;  // text, or token ids taken as they are
  bool add_special_tokens = true;  // for text prompts: the tokenizer's bos and the like
  int truncate_prompt_tokens = 0;  // keep only the last so many prompt tokens; 0: all
  SamplingParams sampling;
  std::int64_t deadline_ms =
      0;  // from submission; 0: none. Past it the request fails with kDeadlineExceeded.
  // Keys and values of a prompt's beginning are reused only among requests with the same salt, so that nobody
  // can tell from its speed what others have sent.
  std::uint64_t cache_salt = 0;
  // Tokens already produced by a group that died, for num_return_sequences = 1 without beams: generation goes
  // on after them and they are not reported again.
  std::vector<std::int32_t> resume_tokens;
};

struct TokenLogprob {
  std::int32_t id = 0;
  std::string text;  // the token's own bytes; may be part of a character
  float logprob = 0;
  bool special = false;
};

enum class FinishReason : std::uint8_t { kLength, kEosToken, kStopSequence };

// Sent once, first: what the prompt became.
struct PromptEvent {
  std::vector<std::int32_t> token_ids;
  // With prompt_logprobs only, one for each token; the first has no probability and a logprob of 0.
  std::vector<TokenLogprob> logprobs;
  std::vector<std::vector<TokenLogprob>> top_logprobs;  // with sampling.logprobs > 0
  std::uint64_t seed = 0;
};

// One new token of one sequence, in order. Not sent under beam search or best_of, where nothing is certain
// before the end.
struct TokenEvent {
  int sequence = 0;  // 0 … num_return_sequences − 1
  TokenLogprob token;
  std::vector<TokenLogprob> top_logprobs;
  // Text that became certain: whole characters only, held back while it may be the start of a stop string.
  // May be empty.
  std::string text;
};

// A sequence is complete. `text` and `token_ids` are all of it (stop string cut off, the end-of-sequence
// token kept in the ids), `text_tail` what no TokenEvent has sent yet.
struct SequenceEvent {
  int sequence = 0;
  FinishReason reason = FinishReason::kLength;
  std::string text;
  std::string text_tail;
  std::vector<std::int32_t> token_ids;
  std::vector<TokenLogprob> logprobs;  // as asked for by sampling.logprobs
  std::vector<std::vector<TokenLogprob>> top_logprobs;
  float score = 0;  // beam search: the sequence's score; otherwise the sum of logprobs
};

// Last event of a request that worked.
struct DoneEvent {
  std::int64_t prompt_tokens = 0;
  std::int64_t generated_tokens = 0;  // over all returned sequences
  std::int64_t cached_tokens = 0;     // of the prompt, taken over from earlier requests
  double queue_ms = 0;                // submission to first step
  double first_token_ms = 0;          // submission to first token
  double total_ms = 0;
};

// Last event of a request that failed, was cancelled (kCancelled) or outlived its deadline
// (kDeadlineExceeded).
struct FailedEvent {
  Error error;
};

using GenerationEvent = std::variant<PromptEvent, TokenEvent, SequenceEvent, DoneEvent, FailedEvent>;

// What a client may want to know of the loaded model; sent by the engine when it is ready.
struct ModelInfo {
  std::string name;
  std::string model_type;  // "bloom", "opt", …
  std::string dtype;
  std::int64_t parameters = 0;
  std::int64_t vocab_size = 0;
  std::int64_t max_context_tokens = 0;  // prompt + generated
  std::int64_t kv_cache_tokens = 0;     // capacity over all sequences
  int max_batch_size = 0;               // sequences in one step
  int default_max_new_tokens = 0;
  std::string chat_template;  // Jinja source; empty for models without one
  std::string bos_token;      // text; empty if none
  std::string eos_token;
};

// A moment's load, for metrics.
struct EngineStats {
  std::int64_t queued_requests = 0;
  std::int64_t running_sequences = 0;
  std::int64_t kv_tokens_used = 0;
  std::int64_t kv_tokens_total = 0;
  std::int64_t prompt_tokens_total = 0;
  std::int64_t generated_tokens_total = 0;
  std::int64_t preemptions_total = 0;
  std::int64_t cached_tokens_total = 0;    // prompt tokens taken over from earlier requests
  std::int64_t drafted_tokens_total = 0;   // guessed and verified
  std::int64_t accepted_tokens_total = 0;  // of which came true
  std::int64_t steps_total = 0;
};

}  // namespace bloomery
