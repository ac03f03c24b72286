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
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "engine/engine.h"
#include "tensor/device.h"

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

// Called with the GIL held, which it gives back wherever it computes or waits. On ranks other than 0 only
// Follow does anything.
class Model {
 public:
  using Prompt = std::variant<std::string, std::vector<std::int32_t>>;

  static std::unique_ptr<Model> Load(const ModelOptions& options);
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;
  ~Model();

  int rank() const { return rank_; }
  int ranks() const { return ranks_; }
  double load_s() const { return load_s_; }
  const ModelInfo& info() const { return info_; }
  std::shared_ptr<Tokenizer> tokenizer() const { return tokenizer_; }

  // The request's id; its events go to `events`.
  std::uint64_t Submit(Prompt prompt, const pybind11::dict& options, bool add_special_tokens,
                       const std::shared_ptr<EventQueue>& events);
  void Cancel(std::uint64_t request_id);

  // [tokens, vocab]. Waits until no request runs; requests wait meanwhile.
  pybind11::array_t<float> Logits(const std::vector<std::int32_t>& tokens);

  // Ranks other than 0: computes what rank 0 says until it closes its model. Ctrl-C ends the process.
  void Follow();

  // Fails what runs, ends all threads, frees the memory. Ranks other than 0 follow first.
  void Close();

 private:
  // Passes events on, and counts requests.
  class Sink;

  Model() = default;
  Engine& engine();
  Status ComputeLogits(Transformer& transformer, std::span<const std::int32_t> tokens,
                       std::span<float> logits);

  // Constant after loading, but for Close.
  std::unique_ptr<Device> device_;
  LoadedModel part_;  // ranks other than 0
  std::unique_ptr<Engine> engine_;
  std::shared_ptr<Tokenizer> tokenizer_;
  ModelInfo info_;
  KvCacheShape kv_shape_;
  int rank_ = 0;
  int ranks_ = 1;
  double load_s_ = 0;

  // Shared with sinks, which may outlive the model.
  struct Turns {
    std::mutex mutex;
    std::condition_variable changed;
    int requests = 0;          // that have not ended
    bool transformer = false;  // somebody computes logits with it
  };
  std::shared_ptr<Turns> turns_ = std::make_shared<Turns>();
  std::uint64_t next_id_ = 1;  // guarded by turns_->mutex
};

}  // namespace bloomery::python
