// A loaded model and its engine, owned by Python. Left out: anything that is the same without an engine
// (defaults, result types, the pipeline), which is Python.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "tensor/device.h"
#include "worker/rank_calls.h"

namespace bloomery::python {

// Events of a call's requests, in order of arrival. Thread safe.
class EventQueue final : public EventSink {
 public:
  using Item = std::pair<std::uint64_t, GenerationEvent>;

  void OnEvent(std::uint64_t request_id, const GenerationEvent& event) override;
  // The next event. Waits without the GIL, and looks for signals meanwhile: throws what their handlers raise.
  Item Next();

 private:
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<Item> items_;  // guarded by mutex_
};

struct ModelOptions {
  LoadOptions load;
  int threads = 0;
  int tensor_parallel_degree = 1;
};

// Called with the GIL held, which it gives back wherever it computes or waits. Of a model on several ranks
// every rank makes the same calls (worker/rank_calls.h), and they run one after the other: a call waits for
// those before it. There Ctrl-C ends a rank other than 0 while it follows: nothing of it could still be done.
class Model {
 public:
  static std::unique_ptr<Model> Load(const ModelOptions& options);
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;
  ~Model();

  int rank() const { return rank_; }
  int ranks() const { return ranks_; }
  double load_s() const { return load_s_; }
  const ModelInfo& info() const { return info_; }
  std::shared_ptr<Tokenizer> tokenizer() const { return tokenizer_; }

  // A request for each prompt (text, or a list of token ids), all of them or none: their ids. Their events go
  // to `events`; on ranks other than 0 all of them are there when it returns.
  std::vector<std::uint64_t> Submit(const pybind11::list& prompts, const pybind11::dict& options,
                                    bool add_special_tokens, const std::shared_ptr<EventQueue>& events);
  // Does nothing on ranks other than 0.
  void Cancel(std::uint64_t request_id);

  // [tokens, vocab]. Waits until no request runs; requests wait meanwhile.
  pybind11::array_t<float> Logits(const std::vector<std::int32_t>& tokens);

  // Ranks other than 0: takes part in what rank 0 calls, until it closes its model.
  void Follow();

  // Fails what runs, ends all threads, frees the memory. Of several ranks each closes, and waits for the
  // others; who is at another call then gets an error there.
  void Close();

 private:
  // Passes events on, and counts requests.
  class Sink;

  // Its holder alone may use the transformer, and speak to the other ranks.
  class Turn;

  Model() = default;
  bool closed() const { return engine_ == nullptr && part_.transformer == nullptr; }
  void CheckOpen() const;
  Result<RankCall> LogitsCall(std::span<const std::int32_t> tokens) const;

  // --- with the GIL

  // Waits until nothing runs, looking for signals meanwhile. Throws where the model is closed.
  std::unique_lock<std::mutex> AwaitTurn();
  std::vector<std::uint64_t> SubmitAlone(std::vector<GenerationRequest> requests,
                                         const std::shared_ptr<EventQueue>& events);
  std::vector<std::uint64_t> SubmitTogether(Result<std::vector<GenerationRequest>> requests,
                                            const std::shared_ptr<EventQueue>& events);

  // --- in a turn, without the GIL

  // The ranks' agreement on a call; for one rank its own. The model is closed where it is over.
  Result<RankCall> Meet(const Result<RankCall>& mine);
  Status TakeEvents(EventSink& sink);
  // What rank 0 calls, whatever it is.
  Status TakePart(const RankCall& call);
  Status ComputeLogits(std::span<const std::int32_t> tokens, std::span<float> logits);
  // The end of engine or part, and of the memory.
  void TearDown();

  // Constant after loading, but for TearDown.
  std::unique_ptr<Device> device_;
  LoadedModel part_;  // ranks other than 0
  std::unique_ptr<Engine> engine_;
  Communicator* world_ = nullptr;  // of part_ or engine_; null for one rank
  std::unique_ptr<RankCalls> calls_;
  std::shared_ptr<Tokenizer> tokenizer_;
  ModelInfo info_;
  KvCacheShape kv_shape_;
  int rank_ = 0;
  int ranks_ = 1;
  double load_s_ = 0;

  // Shared with sinks, which may outlive the model.
  struct Turns {
    std::mutex mutex;  // the GIL may be waited for by who holds it, never the other way round
    std::condition_variable changed;
    int requests = 0;    // that have not ended
    bool taken = false;  // there is a Turn
  };
  std::shared_ptr<Turns> turns_ = std::make_shared<Turns>();
  // Guarded by turns_->mutex.
  std::uint64_t next_id_ = 1;             // the same on all ranks
  std::vector<std::uint64_t> last_call_;  // of several ranks: ids of its requests
};

}  // namespace bloomery::python
