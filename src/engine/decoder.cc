#include "engine/decoder.h"

#include <algorithm>
#include <cassert>

#include "engine/logits.h"
#include "engine/philox.h"

namespace bloomery {
namespace {

double MillisecondsBetween(SteadyTime from, SteadyTime to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

bool Contains(std::span<const std::int32_t> ids, std::int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

TokenHistory HistoryOf(const Sequence& sequence, const Group& group) {
  return {sequence.tokens, group.prompt_tokens};
}

}  // namespace

TokenLogprob Decoder::Describe(std::int32_t token, double logprob) const {
  TokenLogprob described{token, {}, static_cast<float>(logprob), false};
  if (tokenizer_) {
    described.text = tokenizer_->TokenBytes(token);
    described.special = tokenizer_->IsSpecial(token);
  }
  return described;
}

std::vector<TokenLogprob> Decoder::Top(std::span<const float> logits, double log_sum, int count) const {
  std::vector<TokenLogprob> top;
  if (count <= 0) return top;
  for (const std::int32_t id : TopIds(logits, count)) {
    top.push_back(Describe(id, static_cast<double>(logits[static_cast<std::size_t>(id)]) - log_sum));
  }
  return top;
}

void Decoder::TakePromptLogits(Group& group, std::size_t first, std::size_t rows,
                               std::span<const float> logits) const {
  const std::size_t vocab = logits.size() / rows;
  PromptEvent& prompt = group.prompt_event;
  for (std::size_t r = 0; r < rows && first + r + 1 < group.prompt_tokens; ++r) {
    if (prompt.logprobs.size() > first + r + 1) continue;  // computed before a preemption
    const std::span<const float> row = logits.subspan(r * vocab, vocab);
    const double log_sum = LogSumExp(row);
    const std::int32_t next = group.sequences.front().tokens[first + r + 1];
    prompt.logprobs.push_back(
        Describe(next, static_cast<double>(row[static_cast<std::size_t>(next)]) - log_sum));
    if (group.request.sampling.logprobs > 0)
      prompt.top_logprobs.push_back(Top(row, log_sum, group.request.sampling.logprobs));
  }
}

void Decoder::ReportPrompt(Group& group) const {
  if (std::exchange(group.prompt_reported, true)) return;
  group.sink->OnEvent(group.id(), group.prompt_event);
}

void Decoder::Widen(Group& group) const {
  const int width = group.width();
  for (int i = 1; i < width && static_cast<int>(group.sequences.size()) < width; ++i) {
    group.sequences.push_back(group.sequences.front().Fork(i));
  }
}

// The token after a row is chosen with the same history and the same random number as without drafts, so what
// comes out is the same; a draft that was another token ends the round, and its row is forgotten.
template <typename Take>
std::int64_t Decoder::FollowDrafts(Sequence& sequence, const Take& take) const {
  const std::vector<std::int32_t> drafts = std::exchange(sequence.drafts, {});
  std::size_t accepted = 0;
  for (;; ++accepted) {
    take(accepted);
    if (sequence.finish || accepted == drafts.size() || sequence.tokens.back() != drafts[accepted]) break;
    ++sequence.computed;
  }
  sequence.draft_pace.Report(drafts.size(), accepted);
  return static_cast<std::int64_t>(accepted);
}

void Decoder::Begin(Group& group) const {
  ReportPrompt(group);
  if (!group.first_token) group.first_token = std::chrono::steady_clock::now();
}

std::int64_t Decoder::AdvanceGreedily(Group& group, std::span<const std::int32_t> best) const {
  Begin(group);
  Sequence& sequence = group.sequences.front();
  const std::int64_t accepted =
      FollowDrafts(sequence, [&](std::size_t row) { AppendToken(group, sequence, best[row]); });
  if (group.finished()) FinishGroup(group);
  return accepted;
}

std::int64_t Decoder::Advance(Group& group, std::span<float> logits) const {
  Begin(group);
  const std::size_t vocab = logits.size() / static_cast<std::size_t>(group.logit_rows());
  std::int64_t accepted = 0;
  // The prompt's one row of logits starts every sequence.
  const bool first_step = group.sequences.size() == 1 && group.width() > 1;
  if (first_step) Widen(group);
  if (group.beams) {
    AdvanceBeams(group, logits, vocab);
  } else {
    std::vector<float> start;
    if (first_step) start.assign(logits.begin(), logits.end());
    for (Sequence& sequence : group.sequences) {
      if (sequence.finish) continue;
      if (first_step) {
        std::copy(start.begin(), start.end(), logits.begin());
        AdvanceSequence(group, sequence, logits);
        continue;
      }
      const std::size_t rows = 1 + sequence.drafts.size();
      accepted += FollowDrafts(sequence, [&](std::size_t row) {
        AdvanceSequence(group, sequence, logits.subspan(row * vocab, vocab));
      });
      logits = logits.subspan(rows * vocab);
    }
  }
  if (group.finished()) FinishGroup(group);
  return accepted;
}

void Decoder::AdvanceSequence(Group& group, Sequence& sequence, std::span<float> logits) const {
  const SamplingParams& params = group.request.sampling;
  const bool wants_logprobs = params.logprobs >= 0 || params.best_of > params.num_return_sequences;
  const double log_sum = wants_logprobs ? LogSumExp(logits) : 0;
  std::vector<float> raw;  // reported log-probabilities are the model's own, before penalties and temperature
  if (wants_logprobs) raw.assign(logits.begin(), logits.end());
  ProcessLogits(params, HistoryOf(sequence, group), group.eos_ids, logits);
  std::int32_t token = 0;
  if (params.do_sample) {
    const std::size_t position = sequence.tokens.size() - group.prompt_tokens;
    token = Draw(SamplingDistribution(params, logits),
                 UniformAt(group.seed, static_cast<std::uint32_t>(sequence.index), position));
  } else {
    token = Argmax(logits);
  }
  if (wants_logprobs) {
    const double logprob = static_cast<double>(raw[static_cast<std::size_t>(token)]) - log_sum;
    sequence.logprob_sum += logprob;
    sequence.logprobs.push_back(Describe(token, logprob));
    sequence.top_logprobs.push_back(Top(raw, log_sum, params.logprobs));
  }
  AppendToken(group, sequence, token);
}

void Decoder::AppendToken(Group& group, Sequence& sequence, std::int32_t token) const {
  const SamplingParams& params = group.request.sampling;
  sequence.tokens.push_back(token);
  const bool ends = Contains(group.eos_ids, token);
  const bool stops = !ends && Contains(params.stop_token_ids, token);
  StopMatcher::Output output;
  if (sequence.decoder && !ends && !stops) output = sequence.stop_matcher.Push(sequence.decoder->Push(token));
  sequence.text += output.text;
  if (!group.silent()) {
    TokenEvent event{sequence.index, Describe(token, 0), {}, output.text};
    if (params.logprobs >= 0) {
      event.token = sequence.logprobs.back();
      event.top_logprobs = sequence.top_logprobs.back();
    }
    group.sink->OnEvent(group.id(), event);
  }
  const auto generated = static_cast<std::int64_t>(sequence.tokens.size() - group.prompt_tokens);
  if (ends) {
    FinishSequence(group, sequence, FinishReason::kEosToken);
  } else if (stops || output.stopped) {
    FinishSequence(group, sequence, FinishReason::kStopSequence);
  } else if (generated >= group.max_new_tokens) {
    FinishSequence(group, sequence, FinishReason::kLength);
  }
}

void Decoder::FinishSequence(Group& group, Sequence& sequence, FinishReason reason) const {
  sequence.finish = reason;
  sequence.blocks.Clear();
  if (group.silent()) return;
  group.sink->OnEvent(group.id(), Summary(sequence, group));
}

// Completes the sequence's text: what the decoder and the stop matcher held back is certain now, unless a
// stop string ended it.
SequenceEvent Decoder::Summary(const Sequence& sequence, const Group& group) const {
  SequenceEvent event;
  event.sequence = sequence.index;
  event.reason = sequence.finish.value_or(FinishReason::kLength);
  if (sequence.decoder) {
    StopMatcher matcher = sequence.stop_matcher;
    IncrementalDecoder decoder = *sequence.decoder;
    event.text_tail = matcher.Push(decoder.Flush()).text;
    event.text_tail += matcher.Flush();
  }
  event.text = sequence.text + event.text_tail;
  event.token_ids.assign(sequence.tokens.begin() + static_cast<std::ptrdiff_t>(group.prompt_tokens),
                         sequence.tokens.end());
  if (group.request.sampling.logprobs >= 0) {
    event.logprobs = sequence.logprobs;
    event.top_logprobs = sequence.top_logprobs;
  }
  event.score = static_cast<float>(sequence.logprob_sum);
  return event;
}

void Decoder::AdvanceBeams(Group& group, std::span<float> logits, std::size_t vocab) const {
  const SamplingParams& params = group.request.sampling;
  std::vector<std::span<const float>> rows;
  const std::size_t given = logits.size() / vocab;  // one in the first step, then one a beam
  for (std::size_t beam = 0; beam < group.sequences.size(); ++beam) {
    const std::span<float> row = logits.subspan(std::min(beam, given - 1) * vocab, vocab);
    if (beam < given) {
      const auto log_sum = static_cast<float>(LogSumExp(row));
      for (float& logit : row) logit -= log_sum;
      ProcessLogits(params, HistoryOf(group.sequences[beam], group), group.eos_ids, row);
    }
    rows.emplace_back(row);
  }
  const auto stops_with = [&](int parent, std::int32_t token) {
    if (Contains(group.eos_ids, token) || Contains(params.stop_token_ids, token)) return true;
    const Sequence& sequence = group.sequences[static_cast<std::size_t>(parent)];
    if (params.stop.empty() || !sequence.decoder) return false;
    StopMatcher matcher = sequence.stop_matcher;
    IncrementalDecoder decoder = *sequence.decoder;
    return matcher.Push(decoder.Push(token)).stopped;
  };
  const std::vector<BeamSearch::Continuation> next = group.beams->Advance(rows, stops_with);
  if (next.empty()) {
    FinishBeams(group);
    return;
  }
  std::vector<Sequence> continued;
  for (std::size_t beam = 0; beam < next.size(); ++beam) {
    Sequence sequence =
        group.sequences[static_cast<std::size_t>(next[beam].parent)].Fork(static_cast<int>(beam));
    sequence.tokens.push_back(next[beam].token);
    if (sequence.decoder)
      sequence.text += sequence.stop_matcher.Push(sequence.decoder->Push(next[beam].token)).text;
    continued.push_back(std::move(sequence));
  }
  group.sequences = std::move(continued);
}

// Each hypothesis becomes a finished sequence, its text decoded from the start (a beam's own path may have
// been dropped long ago).
void Decoder::FinishBeams(Group& group) const {
  const std::vector<std::int32_t> prompt(
      group.sequences.front().tokens.begin(),
      group.sequences.front().tokens.begin() + static_cast<std::ptrdiff_t>(group.prompt_tokens));
  const SamplingParams& params = group.request.sampling;
  const BlockTable empty = [&] {
    for (Sequence& sequence : group.sequences) sequence.blocks.Clear();
    return group.sequences.front().blocks.Fork();
  }();
  std::vector<Sequence> finished;
  for (const BeamSearch::Hypothesis& hypothesis : group.beams->finished()) {
    if (static_cast<int>(finished.size()) == params.num_return_sequences) break;
    std::optional<IncrementalDecoder> decoder;
    if (tokenizer_) decoder.emplace(tokenizer_);
    Sequence sequence(empty.Fork(), std::move(decoder), params.stop);
    sequence.index = static_cast<int>(finished.size());
    sequence.tokens = prompt;
    sequence.tokens.insert(sequence.tokens.end(), hypothesis.tokens.begin(), hypothesis.tokens.end());
    sequence.logprob_sum = static_cast<double>(hypothesis.score);
    const std::int32_t last = hypothesis.tokens.back();
    const bool ends = Contains(group.eos_ids, last);
    const bool stops = Contains(params.stop_token_ids, last);
    sequence.finish = !hypothesis.stopped ? FinishReason::kLength
                      : ends              ? FinishReason::kEosToken
                                          : FinishReason::kStopSequence;
    const std::size_t shown = hypothesis.tokens.size() - (ends || stops ? 1 : 0);
    for (std::size_t i = 0; sequence.decoder && i < shown; ++i) {
      sequence.text += sequence.stop_matcher.Push(sequence.decoder->Push(hypothesis.tokens[i])).text;
    }
    finished.push_back(std::move(sequence));
  }
  group.sequences = std::move(finished);
}

void Decoder::FinishGroup(Group& group) const {
  if (group.silent()) {
    const auto keep = static_cast<std::size_t>(group.request.sampling.num_return_sequences);
    if (!group.beams) {  // best_of: the highest mean log-probability first
      std::stable_sort(group.sequences.begin(), group.sequences.end(),
                       [&](const Sequence& a, const Sequence& b) {
                         const auto mean = [&](const Sequence& s) {
                           return s.logprob_sum / static_cast<double>(s.tokens.size() - group.prompt_tokens);
                         };
                         return mean(a) > mean(b);
                       });
    }
    for (std::size_t i = 0; i < std::min(keep, group.sequences.size()); ++i) {
      SequenceEvent event = Summary(group.sequences[i], group);
      event.sequence = static_cast<int>(i);
      event.text_tail = event.text;  // nothing was sent before
      group.sink->OnEvent(group.id(), event);
    }
  }
  const SteadyTime now = std::chrono::steady_clock::now();
  DoneEvent done;
  done.prompt_tokens = static_cast<std::int64_t>(group.prompt_tokens);
  for (const Sequence& sequence : group.sequences) {
    done.generated_tokens += static_cast<std::int64_t>(sequence.tokens.size() - group.prompt_tokens);
  }
  done.cached_tokens = group.cached_tokens;
  done.queue_ms = MillisecondsBetween(group.submitted, group.started.value_or(now));
  done.first_token_ms = MillisecondsBetween(group.submitted, group.first_token.value_or(now));
  done.total_ms = MillisecondsBetween(group.submitted, now);
  group.sink->OnEvent(group.id(), done);
}

void Decoder::FinishWithoutTokens(Group& group) const {
  ReportPrompt(group);
  for (Sequence& sequence : group.sequences) FinishSequence(group, sequence, FinishReason::kLength);
  FinishGroup(group);
}

}  // namespace bloomery
