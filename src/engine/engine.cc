#include "engine/engine.h"

#include <algorithm>

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
                  .speculative_tokens = model_.options.speculative_tokens},
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
    if (const Status step = Step(); !step) Lose(step.error());
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
    wake_.wait(lock, stop, [this] { return !inbox_.empty() || !cancelled_.empty() || !scheduler_.idle(); });
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
      FailGroup(group, ErrorCode::kCancelled, "the request was cancelled");
      return true;
    }
    const std::int64_t deadline_ms = group.request.deadline_ms;
    if (deadline_ms > 0 && now - group.submitted > std::chrono::milliseconds(deadline_ms)) {
      FailGroup(group, ErrorCode::kDeadlineExceeded,
                fmt::format("not finished within its deadline of {} ms", deadline_ms));
      return true;
    }
    return false;
  });
}

void Engine::Lose(const Error& error) {
  lost_ = error;
  if (on_lost_) on_lost_(error);
  scheduler_.Remove([&error](Group& group) {
    FailGroup(group, error.code, error.message);
    return true;
  });
}

Status Engine::Step() {
  const std::vector<WorkItem> items = scheduler_.Plan();
  if (items.empty()) return {};
  ++totals_.steps_total;
  const SteadyTime now = std::chrono::steady_clock::now();
  for (const WorkItem& item : items) {
    if (!item.group->started) {
      item.group->started = now;
      totals_.cached_tokens_total += item.group->cached_tokens;
    }
    totals_.drafted_tokens_total += static_cast<std::int64_t>(item.sequence->drafts.size());
  }
  RETURN_IF_ERROR(RunForward(items));
  ASSIGN_OR_RETURN(std::vector<ReadyGroup> ready, FinishItems(items));
  std::erase_if(ready, [this](const ReadyGroup& group) {
    if (group.group->max_new_tokens > 0) return false;
    decoder_.FinishWithoutTokens(*group.group);
    return true;
  });
  RETURN_IF_ERROR(AdvanceGroups(ready));
  scheduler_.Remove([this](Group& group) {
    if (!group.finished()) return false;
    for (const Sequence& sequence : group.sequences) {
      totals_.generated_tokens_total +=
          static_cast<std::int64_t>(sequence.tokens.size() - group.prompt_tokens);
    }
    return true;
  });
  return {};
}

Status Engine::RunForward(std::span<const WorkItem> items) {
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
  return runner_.Forward(tokens, slices);
}

// Items of one group follow each other, and its sequences complete together or (while a preempted group
// catches up) not at all.
Result<std::vector<Engine::ReadyGroup>> Engine::FinishItems(std::span<const WorkItem> items) {
  std::vector<ReadyGroup> ready;
  std::int64_t row = 0;
  for (std::size_t i = 0; i < items.size();) {
    ReadyGroup group{items[i].group, {}};
    for (; i < items.size() && items[i].group == group.group; ++i) {
      const WorkItem& item = items[i];
      if (group.group->wants_prompt_logits()) RETURN_IF_ERROR(TakePromptLogits(item, row));
      row += item.rows;
      if (Completes(item)) {
        group.rows.push_back(static_cast<std::int32_t>(row - 1));
        for (std::size_t draft = 0; draft < item.sequence->drafts.size(); ++draft)
          group.rows.push_back(static_cast<std::int32_t>(row++));
      }
      item.sequence->computed += item.rows;
      item.sequence->blocks.Publish(group.group->request.cache_salt, item.sequence->tokens,
                                    item.sequence->computed);
    }
    if (static_cast<std::int64_t>(group.rows.size()) == group.group->logit_rows())
      ready.push_back(std::move(group));
  }
  return ready;
}

// The head is the largest matrix of a small model: it is read once for as many groups as fit, not once for
// each.
Status Engine::AdvanceGroups(std::span<const ReadyGroup> ready) {
  const auto limit = static_cast<std::size_t>(model_.transformer->limits().max_logit_rows);
  const auto vocab = static_cast<std::size_t>(model_.info.vocab_size);
  const auto greedy = [this](const ReadyGroup& group) {
    return runner_.cut() && WantsLargestOnly(group.group->request.sampling);
  };
  while (!ready.empty()) {
    const bool best_only = greedy(ready.front());
    std::vector<std::int32_t> rows;
    std::size_t count = 0;
    for (; count < ready.size() && rows.size() + ready[count].rows.size() <= limit &&
           greedy(ready[count]) == best_only;
         ++count) {
      rows.insert(rows.end(), ready[count].rows.begin(), ready[count].rows.end());
    }
    if (best_only) {
      ASSIGN_OR_RETURN(std::span<const std::int32_t> best, runner_.Best(rows));
      for (const ReadyGroup& group : ready.first(count)) {
        totals_.accepted_tokens_total += decoder_.AdvanceGreedily(*group.group, best);
        best = best.subspan(group.rows.size());
      }
      ready = ready.subspan(count);
      continue;
    }
    ASSIGN_OR_RETURN(std::span<float> logits, runner_.Logits(rows));
    for (const ReadyGroup& group : ready.first(count)) {
      totals_.accepted_tokens_total +=
          decoder_.Advance(*group.group, logits.first(group.rows.size() * vocab));
      logits = logits.subspan(group.rows.size() * vocab);
    }
    ready = ready.subspan(count);
  }
  return {};
}

Status Engine::TakePromptLogits(const WorkItem& item, std::int64_t first_row) {
  const std::int64_t chunk = model_.transformer->limits().max_logit_rows;
  for (std::int64_t done = 0; done < item.rows; done += chunk) {
    std::vector<std::int32_t> rows;
    for (std::int64_t r = done; r < std::min(done + chunk, item.rows); ++r)
      rows.push_back(static_cast<std::int32_t>(first_row + r));
    ASSIGN_OR_RETURN(const std::span<float> logits, runner_.Logits(rows));
    decoder_.TakePromptLogits(*item.group, static_cast<std::size_t>(item.sequence->computed + done),
                              rows.size(), logits);
  }
  return {};
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
