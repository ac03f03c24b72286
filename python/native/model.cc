#include "native/model.h"

#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstring>
#include <limits>
#include <numeric>

#include "engine/model_runner.h"
#include "kernels/cpu_device.h"
#include "native/bindings.h"
#include "native/errors.h"
#include "native/ranks.h"
#include "native/sampling.h"

namespace bloomery::python {

namespace py = pybind11;

namespace {

// How often a waiting call looks for signals: Ctrl-C feels immediate, and nobody notices the work.
constexpr std::chrono::milliseconds kSignalPoll{20};

// Waits on `changed` until `ready`, without the GIL, looking for signals meanwhile.
template <typename Ready>
void WaitForSignalsToo(std::unique_lock<std::mutex>& lock, std::condition_variable& changed, Ready ready) {
  for (;;) {
    {
      const py::gil_scoped_release no_gil;
      if (!lock.owns_lock()) lock.lock();
      if (changed.wait_for(lock, kSignalPoll, ready)) return;
      lock.unlock();  // a signal's handler is Python code, which may call us
    }
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  }
}

// While a rank waits for rank 0 in C++, Ctrl-C is not Python's: it ends the process, and mpirun the others. A
// process that ignores it goes on doing so.
class InterruptsEnd {
 public:
  explicit InterruptsEnd(int rank) {
    ::sigaction(SIGINT, nullptr, &before_);
    if (rank == 0 || before_.sa_handler == SIG_IGN) return;
    struct sigaction end{};
    end.sa_handler = SIG_DFL;
    ::sigaction(SIGINT, &end, nullptr);
  }
  ~InterruptsEnd() { ::sigaction(SIGINT, &before_, nullptr); }
  InterruptsEnd(const InterruptsEnd&) = delete;
  InterruptsEnd& operator=(const InterruptsEnd&) = delete;

 private:
  struct sigaction before_{};
};

DType DTypeOrThrow(const std::string& name) {
  const auto dtype = DTypeFromName(name);
  if (!dtype)
    throw NativeError({ErrorCode::kInvalidArgument,
                       fmt::format("\"{}\" is no dtype: write auto, f32, bf16, f16, int8 or int4", name)});
  return *dtype;
}

ModelOptions ToModelOptions(const std::filesystem::path& directory, const py::dict& options) {
  ModelOptions all;
  LoadOptions& load = all.load;
  load.directory = directory;
  std::error_code ignored;
  const auto canonical = std::filesystem::canonical(directory, ignored);
  load.name = (canonical.empty() ? directory : canonical).filename().string();
  const auto get = [&options](const char* name, auto& value) {
    value = options[name].cast<std::remove_reference_t<decltype(value)>>();
  };
  const auto dtype = options["dtype"].cast<std::string>();
  const auto kv_dtype = options["kv_dtype"].cast<std::string>();
  if (dtype != "auto") load.dtype = DTypeOrThrow(dtype);
  if (kv_dtype != "auto") load.kv_dtype = DTypeOrThrow(kv_dtype);
  if (load.kv_dtype == DType::kI4)
    throw NativeError({ErrorCode::kInvalidArgument, "kv_dtype must be auto, f32, bf16, f16 or int8"});
  get("threads", all.threads);
  get("tensor_parallel_degree", all.tensor_parallel_degree);
  get("policy", load.policy);
  get("kv_cache_bytes", load.kv_cache_bytes);
  get("max_context_tokens", load.max_context_tokens);
  get("max_batch_size", load.max_batch_size);
  get("max_batch_tokens", load.max_batch_tokens);
  get("prefix_cache", load.prefix_cache);
  get("speculative_tokens", load.speculative_tokens);
  if (load.max_batch_size < 1 || load.max_batch_tokens < 1 || load.max_context_tokens < 0 ||
      load.speculative_tokens < 0) {
    throw NativeError({ErrorCode::kInvalidArgument,
                       "max_batch_size and max_batch_tokens must be at least 1, and max_context_tokens and "
                       "speculative_tokens must not be negative"});
  }
  // A call submits all its prompts at once; there is nobody to refuse them to.
  load.max_queued_tokens = std::numeric_limits<std::int64_t>::max() / 2;
  return all;
}

std::variant<std::string, std::vector<std::int32_t>> ToPrompt(const py::handle& prompt) {
  try {
    if (py::isinstance<py::str>(prompt)) return prompt.cast<std::string>();
    return prompt.cast<std::vector<std::int32_t>>();
  } catch (const py::cast_error&) {
    throw NativeError({ErrorCode::kInvalidArgument, "a prompt is text, or a list of token ids"});
  }
}

Result<std::vector<GenerationRequest>> ToRequests(const py::list& prompts, const py::dict& options,
                                                  bool add_special_tokens) {
  try {
    GenerationRequest request;
    request.add_special_tokens = add_special_tokens;
    request.sampling = ToSampling(options);
    std::vector<GenerationRequest> requests(prompts.size(), request);
    for (std::size_t i = 0; i < requests.size(); ++i) requests[i].prompt = ToPrompt(prompts[i]);
    return requests;
  } catch (const NativeError& error) {
    return std::unexpected(error.error());
  }
}

// Rank 0's numbers, on every rank. Collective.
Status BroadcastFloats(Communicator& world, std::span<float> floats) {
  std::vector<std::byte> bytes(floats.size_bytes());
  if (world.rank() == 0) std::memcpy(bytes.data(), floats.data(), bytes.size());
  RETURN_IF_ERROR(world.Broadcast(bytes, 0));
  if (world.rank() > 0) std::memcpy(floats.data(), bytes.data(), std::min(bytes.size(), floats.size_bytes()));
  return {};
}

}  // namespace

void EventQueue::OnEvent(std::uint64_t request_id, const GenerationEvent& event) {
  {
    const std::scoped_lock lock(mutex_);
    items_.emplace_back(request_id, event);
  }
  arrived_.notify_one();
}

EventQueue::Item EventQueue::Next() {
  std::unique_lock lock(mutex_, std::defer_lock);
  WaitForSignalsToo(lock, arrived_, [this] { return !items_.empty(); });
  Item item = std::move(items_.front());
  items_.pop_front();
  return item;
}

class Model::Sink final : public EventSink {
 public:
  Sink(std::shared_ptr<Turns> turns, std::shared_ptr<EventQueue> events)
      : turns_(std::move(turns)), events_(std::move(events)) {}

  void OnEvent(std::uint64_t request_id, const GenerationEvent& event) override {
    if (std::holds_alternative<DoneEvent>(event) || std::holds_alternative<FailedEvent>(event)) {
      const std::scoped_lock lock(turns_->mutex);
      --turns_->requests;
      turns_->changed.notify_all();
    }
    events_->OnEvent(request_id, event);
  }

 private:
  const std::shared_ptr<Turns> turns_;
  const std::shared_ptr<EventQueue> events_;
};

class Model::Turn {
 public:
  // `lock`: of turns.mutex, held; nobody has a turn.
  Turn(Turns& turns, std::unique_lock<std::mutex> lock) : turns_(turns) {
    turns_.taken = true;
    lock.unlock();
  }
  ~Turn() {
    const std::scoped_lock lock(turns_.mutex);
    turns_.taken = false;
    turns_.changed.notify_all();
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  Turns& turns_;
};

std::unique_ptr<Model> Model::Load(const ModelOptions& options) {
  std::unique_ptr<Model> model(new Model);  // its destructor wants the GIL: before it is given back
  const py::gil_scoped_release no_gil;
  auto ranks = ValueOrThrow(JoinRanks(options.tensor_parallel_degree));
  auto device = MakeCpuDevice({.threads = options.threads, .isa = std::nullopt});
  if (ranks) {
    model->world_ = ranks->world.get();
    model->rank_ = model->world_->rank();
    model->ranks_ = model->world_->size();
    ValueOrThrow(AgreeOnStatus(*model->world_, device ? Status() : std::unexpected(device.error())));
  }
  model->device_ = ValueOrThrow(std::move(device));
  LoadedModel loaded = ValueOrThrow(LoadModel(options.load, *model->device_, nullptr, std::move(ranks)));
  if (model->world_ != nullptr) model->calls_ = std::make_unique<RankCalls>(*model->world_);
  model->info_ = loaded.info;
  // pybind11's holders know no pointer to const; the bindings of a tokenizer only read it.
  model->tokenizer_ = std::const_pointer_cast<Tokenizer>(loaded.tokenizer);
  model->kv_shape_ = loaded.kv_cache->shape();
  model->load_s_ = loaded.load_s;
  if (model->rank_ > 0) {
    model->part_ = std::move(loaded);
  } else {
    model->engine_ = std::make_unique<Engine>(std::move(loaded));
  }
  return model;
}

void Model::CheckOpen() const {
  if (closed()) throw NativeError({ErrorCode::kUnavailable, "the model is closed"});
}

std::unique_lock<std::mutex> Model::AwaitTurn() {
  std::unique_lock lock(turns_->mutex, std::defer_lock);
  WaitForSignalsToo(lock, turns_->changed, [this] { return turns_->requests == 0 && !turns_->taken; });
  CheckOpen();
  return lock;
}

std::vector<std::uint64_t> Model::Submit(const py::list& prompts, const py::dict& options,
                                         bool add_special_tokens, const std::shared_ptr<EventQueue>& events) {
  auto requests = ToRequests(prompts, options, add_special_tokens);
  if (ranks_ > 1) return SubmitTogether(std::move(requests), events);
  if (!requests) throw NativeError(std::move(requests).error());
  return SubmitAlone(*std::move(requests), events);
}

std::vector<std::uint64_t> Model::SubmitAlone(std::vector<GenerationRequest> requests,
                                              const std::shared_ptr<EventQueue>& events) {
  std::unique_lock lock(turns_->mutex, std::defer_lock);
  WaitForSignalsToo(lock, turns_->changed, [this] { return !turns_->taken; });
  CheckOpen();
  const auto sink = std::make_shared<Sink>(turns_, events);
  std::vector<std::uint64_t> ids;
  for (GenerationRequest& request : requests) {
    request.id = next_id_++;
    ids.push_back(request.id);
    ++turns_->requests;
    engine_->Submit(std::move(request), sink);
  }
  return ids;
}

std::vector<std::uint64_t> Model::SubmitTogether(Result<std::vector<GenerationRequest>> requests,
                                                 const std::shared_ptr<EventQueue>& events) {
  auto lock = AwaitTurn();
  const py::gil_scoped_release no_gil;
  const Turn turn(*turns_, std::move(lock));
  const InterruptsEnd interrupts_end(rank_);
  ValueOrThrow(
      Meet(requests ? Result<RankCall>(RankCall::Generate(*requests)) : std::unexpected(requests.error())));
  std::vector<std::uint64_t> ids;
  {
    const std::scoped_lock guard(turns_->mutex);
    for (GenerationRequest& request : *requests) ids.push_back(request.id = next_id_++);
    last_call_ = ids;
    if (rank_ == 0) turns_->requests = static_cast<int>(ids.size());
  }
  if (rank_ > 0) {
    ValueOrThrow(TakeEvents(*events));
    return ids;
  }
  const auto sink = calls_->Share(ids.size(), std::make_shared<Sink>(turns_, events));
  for (GenerationRequest& request : *requests) engine_->Submit(std::move(request), sink);
  return ids;
}

void Model::Cancel(std::uint64_t request_id) {
  const py::gil_scoped_release no_gil;
  const std::scoped_lock lock(turns_->mutex);
  if (engine_) engine_->Cancel(request_id);
}

Result<RankCall> Model::LogitsCall(std::span<const std::int32_t> tokens) const {
  if (tokens.empty() || std::ssize(tokens) > info_.max_context_tokens) {
    return Fail(ErrorCode::kInvalidArgument, "{} tokens: there must be 1 to {}, the model's context",
                tokens.size(), info_.max_context_tokens);
  }
  for (const std::int32_t id : tokens) {
    if (id < 0 || id >= info_.vocab_size)
      return Fail(ErrorCode::kInvalidArgument, "token {} is outside the vocabulary of {}", id,
                  info_.vocab_size);
  }
  return RankCall::Logits(tokens);
}

py::array_t<float> Model::Logits(const std::vector<std::int32_t>& tokens) {
  const Result<RankCall> call = LogitsCall(tokens);
  py::array_t<float> logits({call ? std::ssize(tokens) : 0, static_cast<std::ptrdiff_t>(info_.vocab_size)});
  const std::span<float> out(logits.mutable_data(), static_cast<std::size_t>(logits.size()));
  auto lock = AwaitTurn();
  const py::gil_scoped_release no_gil;
  const Turn turn(*turns_, std::move(lock));
  const InterruptsEnd interrupts_end(rank_);
  ValueOrThrow(Meet(call));
  ValueOrThrow(ComputeLogits(tokens, out));
  return logits;
}

// With a cache of its own: the engine's blocks are the engine's. Of several ranks each computes its part, and
// rank 0, which gets the logits, tells the others.
Status Model::ComputeLogits(std::span<const std::int32_t> tokens, std::span<float> logits) {
  Transformer& transformer = engine_ ? engine_->transformer() : *part_.transformer;
  std::vector<std::int32_t> blocks(tokens.size() / kKvBlockTokens + 1);
  std::iota(blocks.begin(), blocks.end(), 0);
  const auto cache = device_->AllocateKvCache(kv_shape_, std::ssize(blocks));
  const Status allocated = cache ? Status() : std::unexpected(cache.error());
  RETURN_IF_ERROR(world_ != nullptr ? AgreeOnStatus(*world_, allocated) : allocated);
  const auto step = static_cast<std::size_t>(transformer.limits().max_rows);
  const auto chunk = static_cast<std::size_t>(transformer.limits().max_logit_rows);
  const auto vocab = static_cast<std::size_t>(info_.vocab_size);
  for (std::size_t first = 0; first < tokens.size(); first += step) {
    const auto part = tokens.subspan(first, std::min(step, tokens.size() - first));
    const SequenceSlice slice{blocks.data(), 0, std::ssize(part), static_cast<std::int64_t>(first)};
    RETURN_IF_ERROR(transformer.Forward(part, {&slice, 1}, **cache));
    for (std::size_t row = 0; row < part.size(); row += chunk) {
      std::vector<std::int32_t> rows(std::min(chunk, part.size() - row));
      std::iota(rows.begin(), rows.end(), static_cast<std::int32_t>(row));
      ASSIGN_OR_RETURN(const auto some, transformer.Logits(rows));
      const auto out = logits.subspan((first + row) * vocab, rows.size() * vocab);
      std::copy(some.begin(), some.end(), out.begin());
      if (world_ != nullptr) RETURN_IF_ERROR(BroadcastFloats(*world_, out));
    }
  }
  return {};
}

Result<RankCall> Model::Meet(const Result<RankCall>& mine) {
  if (!calls_) return mine;
  auto met = calls_->Meet(mine);
  if (calls_->over()) TearDown();
  return met;
}

Status Model::TakeEvents(EventSink& sink) {
  ModelRunner runner(*part_.transformer, *part_.kv_cache, world_);
  return calls_->Take(runner, sink);
}

Status Model::TakePart(const RankCall& call) {
  EventQueue nobody;
  if (call.generates()) return TakeEvents(nobody);
  const std::vector<std::int32_t> tokens = call.tokens();
  std::vector<float> logits(tokens.size() * static_cast<std::size_t>(info_.vocab_size));
  return ComputeLogits(tokens, logits);
}

void Model::Follow() {
  if (rank_ == 0) return;
  auto lock = AwaitTurn();
  const py::gil_scoped_release no_gil;
  const Turn turn(*turns_, std::move(lock));
  const InterruptsEnd interrupts_end(rank_);
  while (!closed()) {
    // What rank 0 was refused is rank 0's to handle.
    const auto call = Meet(RankCall::Follow());
    if (call) ValueOrThrow(TakePart(*call));
  }
}

void Model::Close() {
  const py::gil_scoped_release no_gil;
  std::unique_lock lock(turns_->mutex);
  if (engine_) {
    for (const std::uint64_t id : last_call_) engine_->Cancel(id);
  }
  turns_->changed.wait(lock, [this] { return !turns_->taken && (ranks_ == 1 || turns_->requests == 0); });
  if (closed()) return;
  const Turn turn(*turns_, std::move(lock));
  if (calls_) {
    (void)Meet(RankCall::Close());
  } else {
    TearDown();
  }
}

void Model::TearDown() {
  std::unique_ptr<Engine> engine;
  {
    const std::scoped_lock lock(turns_->mutex);
    engine = std::move(engine_);
  }
  engine.reset();
  if (part_.transformer) {
    // To the end of rank 0's engine. Where rank 0 is lost, there is nobody to tell.
    (void)ModelRunner(*part_.transformer, *part_.kv_cache, world_).Follow();
    part_ = {};
  }
  device_.reset();
}

Model::~Model() { Close(); }

void BindModel(py::module_& module) {
  py::class_<ModelInfo>(module, "ModelInfo")
      .def_readonly("name", &ModelInfo::name)
      .def_readonly("model_type", &ModelInfo::model_type)
      .def_readonly("dtype", &ModelInfo::dtype)
      .def_readonly("parameters", &ModelInfo::parameters)
      .def_readonly("vocab_size", &ModelInfo::vocab_size)
      .def_readonly("max_context_tokens", &ModelInfo::max_context_tokens)
      .def_readonly("kv_cache_tokens", &ModelInfo::kv_cache_tokens)
      .def_readonly("max_batch_size", &ModelInfo::max_batch_size)
      .def_readonly("chat_template", &ModelInfo::chat_template)
      .def_readonly("bos_token", &ModelInfo::bos_token)
      .def_readonly("eos_token", &ModelInfo::eos_token);
  py::class_<EventQueue, std::shared_ptr<EventQueue>>(module, "EventQueue")
      .def(py::init<>())
      .def("next", [](EventQueue& queue) {
        auto [id, event] = queue.Next();
        if (auto* failed = std::get_if<FailedEvent>(&event)) throw NativeError(std::move(failed->error));
        return std::visit(
            [id = id](auto& one) -> py::tuple {
              if constexpr (std::is_same_v<std::decay_t<decltype(one)>, FailedEvent>) {
                return py::tuple();
              } else {
                return py::make_tuple(id, std::move(one));
              }
            },
            event);
      });
  py::class_<Model>(module, "Model")
      .def(py::init([](const std::filesystem::path& directory, const py::dict& options) {
             return Model::Load(ToModelOptions(directory, options));
           }),
           py::arg("directory"), py::arg("options"))
      .def_property_readonly("rank", &Model::rank)
      .def_property_readonly("ranks", &Model::ranks)
      .def_property_readonly("load_s", &Model::load_s)
      .def_property_readonly("info", &Model::info, py::return_value_policy::reference_internal)
      .def_property_readonly("tokenizer", &Model::tokenizer)
      .def("submit", &Model::Submit, py::arg("prompts"), py::arg("options"), py::arg("add_special_tokens"),
           py::arg("events"))
      .def("cancel", &Model::Cancel, py::arg("request_id"))
      .def("logits", &Model::Logits, py::arg("token_ids"))
      .def("follow", &Model::Follow)
      .def("close", &Model::Close);
}

}  // namespace bloomery::python
