#include <algorithm>
#include <cmath>
#include <random>

#include "engine/engine.h"

namespace bloomery {
namespace {

// Wider requests than this are refused: a group steps as one, so it must fit in one batch.
constexpr int kMaxBeams = 32;

Status CheckSampling(const SamplingParams& p, int max_batch_size) {
  const auto bad = [](const char* what) { return Fail(ErrorCode::kInvalidArgument, "{}", what); };
  // Written as !(good) so that NaN is refused too.
  if (!(p.temperature > 0))
    return bad("temperature must be greater than 0; for greedy decoding set do_sample to false");
  if (!(p.top_p > 0 && p.top_p <= 1)) return bad("top_p must be in (0, 1]");
  if (!(p.typical_p > 0 && p.typical_p <= 1)) return bad("typical_p must be in (0, 1]");
  if (p.top_k < 0) return bad("top_k must not be negative; 0 switches it off");
  if (!(p.repetition_penalty > 0)) return bad("repetition_penalty must be greater than 0");
  if (!std::isfinite(p.frequency_penalty) || !std::isfinite(p.presence_penalty))
    return bad("penalties must be finite numbers");
  if (!std::isfinite(p.length_penalty)) return bad("length_penalty must be a finite number");
  if (p.no_repeat_ngram_size < 0) return bad("no_repeat_ngram_size must not be negative; 0 switches it off");
  if (p.num_return_sequences < 1) return bad("num_return_sequences must be at least 1");
  if (p.num_beams < 1 || p.num_beams > kMaxBeams) return bad("num_beams must be between 1 and 32");
  if (p.num_beams > 1 && p.do_sample)
    return bad("beam search with sampling is not supported: set do_sample to false or num_beams to 1");
  if (p.num_beams > 1 && p.num_return_sequences > p.num_beams)
    return bad("num_return_sequences must not exceed num_beams");
  if (p.num_beams > 1 && p.best_of > 0) return bad("best_of cannot be combined with beam search");
  if (p.best_of != 0 && p.best_of < p.num_return_sequences)
    return bad("best_of must be at least the number of returned sequences");
  if (std::max({p.num_return_sequences, p.best_of, p.num_beams}) > max_batch_size) {
    return Fail(ErrorCode::kInvalidArgument,
                "the request needs more sequences at once than a batch holds ({})", max_batch_size);
  }
  if (p.num_beams == 1 && !p.do_sample && std::max(p.num_return_sequences, p.best_of) > 1) {
    return bad(
        "several sequences of greedy decoding would all be the same: set do_sample to true, or num_beams");
  }
  return {};
}

Result<std::vector<std::int32_t>> PromptTokens(const GenerationRequest& request, const LoadedModel& model) {
  std::vector<std::int32_t> tokens;
  if (const auto* ids = std::get_if<std::vector<std::int32_t>>(&request.prompt)) {
    tokens = *ids;
  } else if (!model.tokenizer) {
    return Fail(ErrorCode::kUnsupported, "this model has no tokenizer: give the prompt as token ids");
  } else {
    tokens = model.tokenizer->Encode(std::get<std::string>(request.prompt), request.add_special_tokens);
  }
  for (const std::int32_t id : tokens) {
    if (id < 0 || id >= model.info.vocab_size) {
      return Fail(ErrorCode::kInvalidArgument, "prompt token {} is outside the vocabulary of {}", id,
                  model.info.vocab_size);
    }
  }
  if (request.truncate_prompt_tokens > 0 &&
      tokens.size() > static_cast<std::size_t>(request.truncate_prompt_tokens)) {
    tokens.erase(tokens.begin(), tokens.end() - request.truncate_prompt_tokens);
  }
  // A model needs something to start from; an empty prompt starts where texts start.
  if (tokens.empty()) {
    const ModelSpec& spec = model.transformer->spec();
    if (!spec.bos_token_id && spec.eos_token_ids.empty())
      return Fail(ErrorCode::kInvalidArgument, "the prompt is empty");
    tokens.push_back(spec.bos_token_id ? *spec.bos_token_id : spec.eos_token_ids.front());
  }
  return tokens;
}

// max_new_tokens wins over max_length; without either the model's default, cut to the context.
Result<std::int64_t> ResolveMaxNewTokens(const SamplingParams& params, std::int64_t prompt_tokens,
                                         const ModelInfo& info) {
  const std::int64_t room = info.max_context_tokens - prompt_tokens;
  std::int64_t wanted = std::min<std::int64_t>(info.default_max_new_tokens, room);
  if (params.max_new_tokens) {
    wanted = *params.max_new_tokens;
  } else if (params.max_length) {
    wanted = *params.max_length - prompt_tokens;
    if (wanted <= 0) {
      return Fail(ErrorCode::kInvalidArgument, "max_length {} leaves no room after a prompt of {} tokens",
                  *params.max_length, prompt_tokens);
    }
  }
  const std::int64_t least = params.prompt_logprobs ? 0 : 1;
  if (wanted < least && params.max_new_tokens)
    return Fail(ErrorCode::kInvalidArgument, "max_new_tokens must be at least {}", least);
  if (wanted > room || room < least) {
    return Fail(ErrorCode::kInvalidArgument,
                "prompt ({} tokens) and max_new_tokens ({}) exceed the model's context of {} tokens",
                prompt_tokens, std::max(wanted, least), info.max_context_tokens);
  }
  return wanted;
}

std::uint64_t DrawSeed() {
  std::random_device device;
  // 53 bits, so that JSON clients can hand it back.
  return ((static_cast<std::uint64_t>(device()) << 32U) | device()) >> 11U;
}

}  // namespace

Result<std::unique_ptr<Group>> MakeGroup(GenerationRequest request, const LoadedModel& model,
                                         KvBlockPool& blocks) {
  const SamplingParams& params = request.sampling;
  RETURN_IF_ERROR(CheckSampling(params, model.info.max_batch_size));
  ASSIGN_OR_RETURN(std::vector<std::int32_t> prompt, PromptTokens(request, model));
  auto group = std::make_unique<Group>();
  group->prompt_tokens = prompt.size();
  ASSIGN_OR_RETURN(group->max_new_tokens,
                   ResolveMaxNewTokens(params, static_cast<std::int64_t>(prompt.size()), model.info));
  group->seed = params.seed ? *params.seed : DrawSeed();
  if (!params.ignore_eos)
    group->eos_ids = params.eos_token_ids.value_or(model.transformer->spec().eos_token_ids);
  if (params.num_beams > 1) {
    group->beams.emplace(BeamSearch::Config{
        .num_beams = params.num_beams,
        .length_penalty = params.length_penalty,
        .early_stopping = params.early_stopping,
        .max_new_tokens = group->max_new_tokens,
        .stop_token_count = static_cast<int>(group->eos_ids.size() + params.stop_token_ids.size())});
  }
  group->prompt_event.token_ids = prompt;
  group->prompt_event.seed = group->seed;
  if (params.prompt_logprobs) {
    group->prompt_event.logprobs.push_back({prompt.front(), {}, 0, false});
    if (model.tokenizer) {
      group->prompt_event.logprobs.front().text = model.tokenizer->TokenBytes(prompt.front());
      group->prompt_event.logprobs.front().special = model.tokenizer->IsSpecial(prompt.front());
    }
    if (params.logprobs > 0) group->prompt_event.top_logprobs.emplace_back();
  }
  std::optional<IncrementalDecoder> decoder;
  if (model.tokenizer) decoder.emplace(model.tokenizer);
  Sequence sequence(BlockTable(blocks), std::move(decoder), params.stop);
  sequence.tokens = std::move(prompt);
  for (const std::int32_t token : request.resume_tokens) {
    if (token < 0 || token >= model.info.vocab_size)
      return Fail(ErrorCode::kInvalidArgument, "resume token {} is outside the vocabulary", token);
    sequence.tokens.push_back(token);
    if (sequence.decoder) sequence.text += sequence.stop_matcher.Push(sequence.decoder->Push(token)).text;
  }
  if (static_cast<std::int64_t>(request.resume_tokens.size()) >= group->max_new_tokens &&
      !request.resume_tokens.empty()) {
    return Fail(ErrorCode::kInvalidArgument, "{} resume tokens leave nothing to generate",
                request.resume_tokens.size());
  }
  group->sequences.push_back(std::move(sequence));
  group->request = std::move(request);
  const std::int64_t tokens_at_most = static_cast<std::int64_t>(group->prompt_tokens) + group->max_new_tokens;
  const std::int64_t blocks_at_most = (tokens_at_most / kKvBlockTokens + 2) * group->width();
  if (blocks_at_most > blocks.total_blocks() + 2 * group->width()) {
    return Fail(ErrorCode::kInvalidArgument,
                "{} tokens in {} sequences need more KV cache than the {} tokens there are: ask for fewer, "
                "or raise --kv-cache-memory",
                tokens_at_most, group->width(), blocks.total_blocks() * kKvBlockTokens);
  }
  return group;
}

}  // namespace bloomery
