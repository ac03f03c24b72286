#include "native/model.h"

#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <algorithm>
#include <chrono>
#include <csignal>
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

std::unique_ptr<Model> Model::Load(const ModelOptions& options) {
  std::unique_ptr<Model> model(new Model);  // its destructor wants the GIL: before it is given back
  const py::gil_scoped_release no_gil;
  auto ranks = ValueOrThrow(JoinRanks(options.tensor_parallel_degree));
  model->device_ = ValueOrThrow(MakeCpuDevice({.threads = options.threads, .isa = std::nullopt}));
  if (ranks) {
    model->rank_ = ranks->world->rank();
    model->ranks_ = ranks->world->size();
  }
  LoadedModel loaded = ValueOrThrow(LoadModel(options.load, *model->device_, nullptr, std::move(ranks)));
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

Engine& Model::engine() {
  if (!engine_) throw NativeError({ErrorCode::kUnavailable, "the model is closed"});
  return *engine_;
}

std::uint64_t Model::Submit(Prompt prompt, const py::dict& options, bool add_special_tokens,
                            const std::shared_ptr<EventQueue>& events) {
  GenerationRequest request;
  request.prompt = std::move(prompt);
  request.add_special_tokens = add_special_tokens;
  request.sampling = ToSampling(options);
  {
    std::unique_lock lock(turns_->mutex, std::defer_lock);
    WaitForSignalsToo(lock, turns_->changed, [this] { return !turns_->transformer; });
    engine();  // may have been closed meanwhile
    request.id = next_id_++;
    ++turns_->requests;
  }
  const std::uint64_t id = request.id;
  engine_->Submit(std::move(request), std::make_shared<Sink>(turns_, events));
  return id;
}

void Model::Cancel(std::uint64_t request_id) {
  if (engine_) engine_->Cancel(request_id);
}

py::array_t<float> Model::Logits(const std::vector<std::int32_t>& tokens) {
  engine();
  if (ranks_ > 1)
    throw NativeError({ErrorCode::kUnsupported, "logits are not available of a model on several ranks"});
  if (tokens.empty() || std::ssize(tokens) > info_.max_context_tokens) {
    throw NativeError(
        {ErrorCode::kInvalidArgument, fmt::format("{} tokens: there must be 1 to {}, the model's context",
                                                  tokens.size(), info_.max_context_tokens)});
  }
  for (const std::int32_t id : tokens) {
    if (id < 0 || id >= info_.vocab_size)
      throw NativeError({ErrorCode::kInvalidArgument,
                         fmt::format("token {} is outside the vocabulary of {}", id, info_.vocab_size)});
  }
  py::array_t<float> logits({std::ssize(tokens), static_cast<std::ptrdiff_t>(info_.vocab_size)});
  const std::span<float> out(logits.mutable_data(), static_cast<std::size_t>(logits.size()));
  Transformer* transformer = nullptr;
  {
    std::unique_lock lock(turns_->mutex, std::defer_lock);
    WaitForSignalsToo(lock, turns_->changed,
                      [this] { return turns_->requests == 0 && !turns_->transformer; });
    transformer = &engine().transformer();  // may have been closed meanwhile
    turns_->transformer = true;
  }
  Status status;
  {
    const py::gil_scoped_release no_gil;
    status = ComputeLogits(*transformer, tokens, out);
    const std::scoped_lock lock(turns_->mutex);
    turns_->transformer = false;
    turns_->changed.notify_all();
  }
  ValueOrThrow(std::move(status));
  return logits;
}

// With a cache of its own: the engine's blocks are the engine's.
Status Model::ComputeLogits(Transformer& transformer, std::span<const std::int32_t> tokens,
                            std::span<float> logits) {
  std::vector<std::int32_t> blocks(tokens.size() / kKvBlockTokens + 1);
  std::iota(blocks.begin(), blocks.end(), 0);
  ASSIGN_OR_RETURN(const auto cache, device_->AllocateKvCache(kv_shape_, std::ssize(blocks)));
  const auto step = static_cast<std::size_t>(transformer.limits().max_rows);
  const auto chunk = static_cast<std::size_t>(transformer.limits().max_logit_rows);
  auto out = logits.begin();
  for (std::size_t first = 0; first < tokens.size(); first += step) {
    const auto part = tokens.subspan(first, std::min(step, tokens.size() - first));
    const SequenceSlice slice{blocks.data(), 0, std::ssize(part), static_cast<std::int64_t>(first)};
    RETURN_IF_ERROR(transformer.Forward(part, {&slice, 1}, *cache));
    for (std::size_t row = 0; row < part.size(); row += chunk) {
      std::vector<std::int32_t> rows(std::min(chunk, part.size() - row));
      std::iota(rows.begin(), rows.end(), static_cast<std::int32_t>(row));
      ASSIGN_OR_RETURN(const auto some, transformer.Logits(rows));
      out = std::copy(some.begin(), some.end(), out);
    }
  }
  return {};
}

void Model::Follow() {
  if (!part_.ranks) return;
  // Nothing of this rank's could still be done after Ctrl-C: the process ends, and mpirun the others.
  const auto previous = std::signal(SIGINT, SIG_DFL);
  Status status;
  {
    const py::gil_scoped_release no_gil;
    status = ModelRunner(*part_.transformer, *part_.kv_cache, part_.ranks->world.get()).Follow();
    part_ = {};
  }
  std::signal(SIGINT, previous);
  ValueOrThrow(std::move(status));
}

void Model::Close() {
  Follow();
  // Taken away first, with the GIL: whoever comes now finds it closed.
  std::unique_ptr<Engine> engine = std::move(engine_);
  const py::gil_scoped_release no_gil;
  std::unique_lock lock(turns_->mutex);
  turns_->changed.wait(lock, [this] { return !turns_->transformer; });
  lock.unlock();
  engine.reset();
  device_.reset();
}

Model::~Model() {
  try {
    Close();
  } catch (const NativeError&) {
    // Rank 0 is lost, and there is nobody to tell.
  }
}

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
      .def("submit", &Model::Submit, py::arg("prompt"), py::arg("options"), py::arg("add_special_tokens"),
           py::arg("events"))
      .def("cancel", &Model::Cancel, py::arg("request_id"))
      .def("logits", &Model::Logits, py::arg("token_ids"))
      .def("follow", &Model::Follow)
      .def("close", &Model::Close);
}

}  // namespace bloomery::python
