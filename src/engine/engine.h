// The engine: takes requests, computes them together, and reports their events.
//
//   any thread ── Submit, Cancel ──▶ inbox ──▶ engine thread: plan ▸ forward ▸ decode ▸ events ──▶ each
//   request's sink
#pragma once

#include <condition_variable>
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
  struct ReadyGroup {
    Group* group = nullptr;
    std::vector<std::int32_t> rows;  // of the step: for each live sequence its last token's, then its drafts'
  };

  void ThreadMain(const std::stop_token& stop);
  // Moves the inbox into the scheduler and drops what was cancelled or is too late. Waits while there is
  // nothing to do.
  bool TakeInbox(const std::stop_token& stop);
  void Accept(Submission submission);
  void DropEnded(const std::vector<std::uint64_t>& cancelled);
  Status Step();
  Status RunForward(std::span<const WorkItem> items);
  // Marks the items' tokens as computed, scores prompts that asked for it, and returns the groups that have
  // their next logits.
  Result<std::vector<ReadyGroup>> FinishItems(std::span<const WorkItem> items);
  Status AdvanceGroups(std::span<const ReadyGroup> ready);
  Status TakePromptLogits(const WorkItem& item, std::int64_t first_row);
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
