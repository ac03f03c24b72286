#include "engine/engine.h"

#include <algorithm>
#include <ranges>

#include "base/log.h"
#include "engine/logits.h"

namespace bloomery {
namespace {

void FailGroup(Group& group, ErrorCode code, std::string message) {
  group.sink->OnEvent(group.id(), FailedEvent{{code, std::move(message)}});
}

// After this step the sequence's last token has its logits.
bool Completes(const WorkItem& item) { return item.rows == item.sequence->pending(); }

}  // namespace

Engine::Engine(LoadedModel model, OnLost on_lost)
    : model_(std::move(model)),
      decoder_(model_.tokenizer),
      on_lost_(std::move(on_lost)),
      runner_(*model_.transformer, *model_.kv_cache, model_.ranks ? model_.ranks->world.get() : nullptr),
      blocks_(
          model_.kv_cache->blocks(),
          [this](std::int32_t from, std::int32_t to) { runner_.CopyBlock(from, to); },
          model_.options.prefix_cache),
      scheduler_({.max_batch_tokens = model_.max_batch_tokens,
                  .max_prefill_tokens = model_.options.max_prefill_tokens,
                  .max_batch_size = model_.info.max_batch_size,
                  .speculative_tokens = model_.options.speculative_tokens,
                  .stages = runner_.depth()},
                 blocks_),
      thread_([this](const std::stop_token& stop) { ThreadMain(stop); }) {}

Engine::~Engine() {
  thread_.request_stop();
  wake_.notify_all();
  thread_.join();
}

void Engine::Submit(GenerationRequest request, std::shared_ptr<EventSink> sink) {
  {
    const std::scoped_lock lock(mutex_);
    inbox_.push_back({std::move(request), std::move(sink), std::chrono::steady_clock::now()});
  }
  wake_.notify_one();
}

void Engine::Cancel(std::uint64_t request_id) {
  {
    const std::scoped_lock lock(mutex_);
    cancelled_.push_back(request_id);
  }
  wake_.notify_one();
}

EngineStats Engine::stats() const {
  const std::scoped_lock lock(mutex_);
  EngineStats stats = published_;
  stats.queued_requests += static_cast<std::int64_t>(inbox_.size());
  return stats;
}

void Engine::ThreadMain(const std::stop_token& stop) {
  while (TakeInbox(stop)) {
    if (const Status turn = Turn(); !turn) Lose(turn.error());
    PublishStats();
  }
  scheduler_.Remove([](Group& group) {
    FailGroup(group, ErrorCode::kUnavailable, "the engine is shutting down");
    return true;
  });
  for (const Submission& submission : inbox_) {
    submission.sink->OnEvent(submission.request.id,
                             FailedEvent{{ErrorCode::kUnavailable, "the engine is shutting down"}});
  }
}

bool Engine::TakeInbox(const std::stop_token& stop) {
  std::vector<Submission> submissions;
  std::vector<std::uint64_t> cancelled;
  {
    std::unique_lock lock(mutex_);
    wake_.wait(lock, stop, [this] {
      return !inbox_.empty() || !cancelled_.empty() || !scheduler_.idle() || !steps_.empty();
    });
    if (stop.stop_requested()) return false;
    submissions.swap(inbox_);
    cancelled.swap(cancelled_);
  }
  for (Submission& submission : submissions) Accept(std::move(submission));
  DropEnded(cancelled);
  return true;
}

void Engine::Accept(Submission submission) {
  const std::uint64_t id = submission.request.id;
  if (lost_) {
    submission.sink->OnEvent(id, FailedEvent{*lost_});
    return;
  }
  auto group = MakeGroup(std::move(submission.request), model_, blocks_);
  if (!group) {
    submission.sink->OnEvent(id, FailedEvent{std::move(group).error()});
    return;
  }
  (*group)->sink = std::move(submission.sink);
  (*group)->submitted = submission.time;
  const std::int64_t waiting = scheduler_.waiting_prompt_tokens();
  const auto wanted = static_cast<std::int64_t>((*group)->prompt_tokens);
  // What waits alone may be of any length: it is next.
  if (waiting > 0 && waiting + wanted > model_.options.max_queued_tokens) {
    FailGroup(**group, ErrorCode::kOverloaded,
              fmt::format("{} prompt tokens are waiting already and {} more would pass the limit of {}; try "
                          "again later",
                          waiting, wanted, model_.options.max_queued_tokens));
    return;
  }
  totals_.prompt_tokens_total += static_cast<std::int64_t>((*group)->prompt_tokens);
  scheduler_.Add(*std::move(group));
}

void Engine::DropEnded(const std::vector<std::uint64_t>& cancelled) {
  const SteadyTime now = std::chrono::steady_clock::now();
  scheduler_.Remove([&](Group& group) {
    if (std::find(cancelled.begin(), cancelled.end(), group.id()) != cancelled.end()) {
      Forget(group);
      FailGroup(group, ErrorCode::kCancelled, "the request was cancelled");
      return true;
    }
    const std::int64_t deadline_ms = group.request.deadline_ms;
    if (deadline_ms > 0 && now - group.submitted > std::chrono::milliseconds(deadline_ms)) {
      Forget(group);
      FailGroup(group, ErrorCode::kDeadlineExceeded,
                fmt::format("not finished within its deadline of {} ms", deadline_ms));
      return true;
    }
    return false;
  });
}

void Engine::Lose(const Error& error) {
  lost_ = error;
  steps_.clear();
  if (on_lost_) on_lost_(error);
  scheduler_.Remove([&error](Group& group) {
    FailGroup(group, error.code, error.message);
    return true;
  });
}

Status Engine::Turn() {
  while (std::ssize(steps_) < runner_.depth()) {
    ASSIGN_OR_RETURN(const bool begun, BeginStep());
    if (!begun) break;
  }
  return steps_.empty() ? Status() : FinishStep();
}

Result<bool> Engine::BeginStep() {
  const std::vector<WorkItem> items = scheduler_.Plan();
  if (items.empty()) return false;
  NoteStarts(items);
  std::vector<std::int32_t> tokens;
  std::vector<SequenceSlice> slices;
  for (const WorkItem& item : items) {
    const Sequence& sequence = *item.sequence;
    slices.push_back({.blocks = sequence.blocks.data(),
                      .first_row = static_cast<std::int64_t>(tokens.size()),
                      .rows = item.rows + static_cast<std::int64_t>(sequence.drafts.size()),
                      .first_position = sequence.computed});
    const auto begin = sequence.tokens.begin() + sequence.computed;
    tokens.insert(tokens.end(), begin, begin + item.rows);
    tokens.insert(tokens.end(), sequence.drafts.begin(), sequence.drafts.end());
  }
  const StepUnderWay& step = steps_.emplace_back(Expect(items));
  RETURN_IF_ERROR(runner_.Begin(tokens, slices, step.queries));
  return true;
}

void Engine::NoteStarts(std::span<const WorkItem> items) {
  const SteadyTime now = std::chrono::steady_clock::now();
  for (const WorkItem& item : items) {
    if (!item.group->started) {
      item.group->started = now;
      totals_.cached_tokens_total += item.group->cached_tokens;
    }
    totals_.drafted_tokens_total += static_cast<std::int64_t>(item.sequence->drafts.size());
  }
}

// Items of one group follow each other, and its sequences complete together or (while a preempted group
// catches up) not at all.
Engine::StepUnderWay Engine::Expect(std::span<const WorkItem> items) {
  StepUnderWay step;
  std::vector<std::pair<Group*, std::vector<std::int32_t>>> complete;
  std::int64_t row = 0;
  for (std::size_t i = 0; i < items.size();) {
    Group& group = *items[i].group;
    std::vector<std::int32_t> rows;
    for (; i < items.size() && items[i].group == &group; ++i) {
      const WorkItem& item = items[i];
      if (group.wants_prompt_logits()) ExpectPromptLogits(item, row, step);
      row += item.rows;
      if (Completes(item)) {
        rows.push_back(static_cast<std::int32_t>(row - 1));
        for (std::size_t draft = 0; draft < item.sequence->drafts.size(); ++draft)
          rows.push_back(static_cast<std::int32_t>(row++));
      }
      item.sequence->computed += item.rows;
      item.sequence->blocks.Publish(group.request.cache_salt, item.sequence->tokens, item.sequence->computed);
    }
    if (static_cast<std::int64_t>(rows.size()) == group.logit_rows())
      complete.emplace_back(&group, std::move(rows));
  }
  for (auto& [group, rows] : complete) ExpectTokens(*group, std::move(rows), step);
  return step;
}

void Engine::ExpectPromptLogits(const WorkItem& item, std::int64_t first_row, StepUnderWay& step) {
  const std::int64_t chunk = model_.transformer->limits().max_logit_rows;
  for (std::int64_t done = 0; done < item.rows; done += chunk) {
    LogitsQuery& query = step.queries.emplace_back();
    for (std::int64_t r = done; r < std::min(done + chunk, item.rows); ++r)
      query.rows.push_back(static_cast<std::int32_t>(first_row + r));
    const auto position = static_cast<std::size_t>(item.sequence->computed + done);
    step.dues.push_back({{item.group, query.rows.size(), position}});
    ++item.group->results_due;
  }
}

// The head is the largest matrix of a small model: it is read once for as many groups as fit, not once for
// each.
void Engine::ExpectTokens(Group& group, std::vector<std::int32_t> rows, StepUnderWay& step) {
  ++group.results_due;
  if (group.max_new_tokens == 0) {
    step.scored.push_back(&group);
    return;
  }
  const auto limit = static_cast<std::size_t>(model_.transformer->limits().max_logit_rows);
  const bool best = runner_.cut() && WantsLargestOnly(group.request.sampling);
  const bool joins = !step.queries.empty() && !step.dues.back().front().prompt_position &&
                     step.queries.back().best == best &&
                     step.queries.back().rows.size() + rows.size() <= limit;
  if (!joins) {
    step.queries.push_back({.best = best, .rows = {}});
    step.dues.emplace_back();
  }
  step.dues.back().push_back({&group, rows.size(), std::nullopt});
  std::vector<std::int32_t>& all = step.queries.back().rows;
  all.insert(all.end(), rows.begin(), rows.end());
}

Status Engine::FinishStep() {
  RETURN_IF_ERROR(runner_.Compute());
  ++totals_.steps_total;
  const StepUnderWay step = std::move(steps_.front());
  steps_.pop_front();
  for (std::size_t i = 0; i < step.queries.size(); ++i) {
    if (step.queries[i].best) {
      ASSIGN_OR_RETURN(const auto best, runner_.Best());
      TakeBest(step.dues[i], best);
    } else {
      ASSIGN_OR_RETURN(const auto logits, runner_.Logits());
      TakeLogits(step.dues[i], logits);
    }
  }
  for (Group* group : step.scored) {
    if (group == nullptr) continue;
    --group->results_due;
    decoder_.FinishWithoutTokens(*group);
  }
  RemoveFinished();
  return {};
}

void Engine::TakeLogits(std::span<const Due> dues, std::span<float> logits) {
  const auto vocab = static_cast<std::size_t>(model_.info.vocab_size);
  for (const Due& due : dues) {
    const std::span<float> rows = logits.first(due.rows * vocab);
    logits = logits.subspan(rows.size());
    if (due.group == nullptr) continue;
    --due.group->results_due;
    if (due.prompt_position) {
      decoder_.TakePromptLogits(*due.group, *due.prompt_position, due.rows, rows);
    } else {
      totals_.accepted_tokens_total += decoder_.Advance(*due.group, rows);
    }
  }
}

void Engine::TakeBest(std::span<const Due> dues, std::span<const std::int32_t> best) {
  for (const Due& due : dues) {
    const std::span<const std::int32_t> rows = best.first(due.rows);
    best = best.subspan(due.rows);
    if (due.group == nullptr) continue;
    --due.group->results_due;
    totals_.accepted_tokens_total += decoder_.AdvanceGreedily(*due.group, rows);
  }
}

void Engine::RemoveFinished() {
  scheduler_.Remove([this](Group& group) {
    if (!group.finished()) return false;
    for (const Sequence& sequence : group.sequences) {
      totals_.generated_tokens_total +=
          static_cast<std::int64_t>(sequence.tokens.size() - group.prompt_tokens);
    }
    return true;
  });
}

void Engine::Forget(const Group& group) {
  for (StepUnderWay& step : steps_) {
    for (Due& due : step.dues | std::views::join) {
      if (due.group == &group) due.group = nullptr;
    }
    std::replace_if(step.scored.begin(), step.scored.end(), [&](Group* g) { return g == &group; }, nullptr);
  }
}

void Engine::PublishStats() {
  totals_.queued_requests = scheduler_.waiting();
  totals_.running_sequences = scheduler_.running_sequences();
  totals_.kv_tokens_total = blocks_.total_blocks() * kKvBlockTokens;
  totals_.kv_tokens_used = (blocks_.total_blocks() - blocks_.free_blocks()) * kKvBlockTokens;
  totals_.preemptions_total = scheduler_.preemptions();
  const std::scoped_lock lock(mutex_);
  published_ = totals_;
}

}  // namespace bloomery
