// The engine: takes requests, computes them together, and reports their events.
//
//   any thread ── Submit, Cancel ──▶ inbox ──▶ engine thread: plan ▸ forward ▸ decode ▸ events ──▶ each
//   request's sink
//
// Over the stages of a pipeline several steps are under way, each with sequences of its own: what one step
// gives is decoded while the stages before compute the others.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "base/result.h"
#include "engine/decoder.h"
#include "engine/group.h"
#include "engine/kv_blocks.h"
#include "engine/loader.h"
#include "engine/model_runner.h"
#include "engine/request.h"
#include "engine/scheduler.h"

namespace bloomery {

// Thread safe. Every submitted request ends with exactly one DoneEvent or FailedEvent, the latter also on
// destruction.
class Engine {
 public:
  // A rank of the model was lost, and no step can be computed any more. Called once, from the engine's
  // thread.
  using OnLost = std::function<void(const Error&)>;

  // Without `on_lost`, requests fail then.
  explicit Engine(LoadedModel model, OnLost on_lost = nullptr);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  const ModelInfo& info() const { return model_.info; }
  const Tokenizer* tokenizer() const { return model_.tokenizer.get(); }  // null for shapes
  Transformer& transformer() { return *model_.transformer; }

  // Never blocks on computing. A request that cannot be served fails through its sink.
  void Submit(GenerationRequest request, std::shared_ptr<EventSink> sink);

  // The request ends with kCancelled before the next step, and its memory is free then. Unknown ids are
  // ignored.
  void Cancel(std::uint64_t request_id);

  EngineStats stats() const;

 private:
  struct Submission {
    GenerationRequest request;
    std::shared_ptr<EventSink> sink;
    SteadyTime time;
  };
  // Rows of a query's answer that are one request's.
  struct Due {
    Group* group = nullptr;  // null: it has ended meanwhile
    // Rows: for each live sequence its last token's, then its drafts'; or those of prompt tokens from
    // `prompt_position` on, to be scored.
    std::size_t rows = 0;
    std::optional<std::size_t> prompt_position;
  };
  // A step that has begun.
  struct StepUnderWay {
    std::vector<LogitsQuery> queries;
    std::vector<std::vector<Due>> dues;  // by query
    std::vector<Group*> scored;          // that end when it is computed, and want no token; null as in Due
  };

  void ThreadMain(const std::stop_token& stop);
  // Moves the inbox into the scheduler and drops what was cancelled or is too late. Waits while there is
  // nothing to do.
  bool TakeInbox(const std::stop_token& stop);
  void Accept(Submission submission);
  void DropEnded(const std::vector<std::uint64_t>& cancelled);
  // Begins as many steps as may be under way, and finishes the oldest.
  Status Turn();
  // False: there is nothing to do that could begin now.
  Result<bool> BeginStep();
  void NoteStarts(std::span<const WorkItem> items);
  // What the items' rows will yield; their tokens count as computed from here on.
  StepUnderWay Expect(std::span<const WorkItem> items);
  void ExpectPromptLogits(const WorkItem& item, std::int64_t first_row, StepUnderWay& step);
  void ExpectTokens(Group& group, std::vector<std::int32_t> rows, StepUnderWay& step);
  Status FinishStep();
  void TakeLogits(std::span<const Due> dues, std::span<float> logits);
  void TakeBest(std::span<const Due> dues, std::span<const std::int32_t> best);
  void RemoveFinished();
  // Steps under way owe this group nothing any more.
  void Forget(const Group& group);
  void Lose(const Error& error);
  void PublishStats();

  LoadedModel model_;
  const Decoder decoder_;
  const OnLost on_lost_;

  // Engine thread only.
  ModelRunner runner_;
  std::optional<Error> lost_;
  KvBlockPool blocks_;
  Scheduler scheduler_;
  std::deque<StepUnderWay> steps_;  // the oldest first
  EngineStats totals_;

  mutable std::mutex mutex_;
  std::condition_variable_any wake_;
  std::vector<Submission> inbox_;         // guarded by mutex_
  std::vector<std::uint64_t> cancelled_;  // guarded by mutex_
  EngineStats published_;                 // guarded by mutex_

  std::jthread thread_;  // last: joins before the rest goes
};

// Turns a request into a group: tokenises, checks it against the model and the cache, draws a seed. A request
// that can never run is an error that says why.
Result<std::unique_ptr<Group>> MakeGroup(GenerationRequest request, const LoadedModel& model,
                                         KvBlockPool& blocks);

}  // namespace bloomery
