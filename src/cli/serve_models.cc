#include "cli/serve_models.h"

#include "base/system.h"
#include "cli/environment.h"
#include "cli/ranks.h"
#include "cli/remote_model.h"
#include "kernels/cpu_device.h"
#include "server/auth.h"
#include "server/engine_service.h"
#include "server/handler_service.h"
#include "server/setting_text.h"
#include "storage/url_archive.h"

namespace bloomery {
namespace {

namespace asio = boost::asio;

// Where an engine process fetches its model from, as the gateway tells it.
void AddSource(const ServeFlags& flags, std::vector<std::string>& command) {
  command.insert(command.end(),
                 {flags.source->text, "--from", std::string(SourceKindName(flags.source->kind)), "--revision",
                  flags.source->revision, "--load-format", flags.model.load_format});
  if (!flags.model.cache_dir.empty()) command.insert(command.end(), {"--cache-dir", flags.model.cache_dir});
  if (flags.model.no_sign_request) command.push_back("--no-sign-request");
}

// The engine process, or each of its ranks, gets the model flags as the gateway got them.
Result<std::vector<std::string>> WorkerCommand(const ServeFlags& flags,
                                               const std::filesystem::path& directory,
                                               const std::string& name) {
  const ModelFlags& m = flags.model;
  std::vector<std::string> command = {"/proc/self/exe", "worker", "--name", name};
  if (!m.policy.empty()) command.insert(command.end(), {"--policy", m.policy});
  if (flags.source) {
    AddSource(flags, command);
  } else if (m.shape.empty()) {
    command.push_back(directory.string());
  } else {
    command.insert(command.end(), {"--shape", m.shape, "--load-format", "dummy"});
  }
  command.insert(command.end(),
                 {"--dtype", m.dtype, "--kv-dtype", m.kv_dtype, "--threads", std::to_string(m.threads)});
  command.insert(command.end(), {"--max-context-tokens", std::to_string(m.max_context_tokens)});
  command.insert(command.end(), {"--max-batch-tokens", std::to_string(m.max_batch_tokens), "--max-batch-size",
                                 std::to_string(m.max_batch_size)});
  command.insert(command.end(), {"--max-prefill-tokens", std::to_string(m.max_prefill_tokens)});
  command.insert(command.end(), {"--max-queued-tokens", std::to_string(m.max_queued_tokens),
                                 "--speculative-tokens", std::to_string(m.speculative_tokens)});
  if (m.no_prefix_cache) command.push_back("--no-prefix-cache");
  command.insert(command.end(), {"--placement", m.placement});
  if (!m.max_memory.empty()) command.insert(command.end(), {"--max-memory", m.max_memory});
  if (!m.kv_cache_memory.empty()) command.insert(command.end(), {"--kv-cache-memory", m.kv_cache_memory});
  const Grid grid = m.grid();
  if (grid.size() == 1) return command;
  command.insert(command.end(),
                 {"--tp", std::to_string(grid.tensor_ranks), "--pp", std::to_string(grid.stages)});
  return MpirunCommand(m, command);
}

// A directory that cannot be a model is said at once, not by a server that comes up and fails.
Result<LoadOptions> CheckLocal(const ServeFlags& flags) {
  ASSIGN_OR_RETURN(LoadOptions options, ToLoadOptions(flags.model));
  if (!flags.model.shape.empty()) options.name = flags.model.shape;
  RETURN_IF_ERROR(CheckGrid(flags.model, options));
  return options;
}

// What a model on this host takes; its KV cache is given half of what the weights leave, where that is known.
Result<std::uint64_t> SetMemoryAside(const LoadOptions& options, std::optional<std::uint64_t> free_bytes,
                                     ModelFlags& flags) {
  ASSIGN_OR_RETURN(const auto device, MakeCpuDevice({.threads = 1, .isa = std::nullopt}));
  const Grid grid = flags.grid();
  ASSIGN_OR_RETURN(const MemoryNeed need, NeededMemory(options, grid, *device));
  if (options.kv_cache_bytes > 0) return need.weight_bytes + need.kv_bytes;
  const std::uint64_t free = free_bytes.value_or(AvailableMemoryBytes());
  const std::uint64_t half = (free - std::min(free, need.weight_bytes)) / 2;
  const std::uint64_t kv_bytes = std::max(need.kv_bytes_per_sequence, std::min(need.kv_bytes, half));
  const auto ranks = static_cast<std::uint64_t>(grid.size());
  if (free_bytes) flags.kv_cache_memory = std::to_string((kv_bytes + ranks - 1) / ranks);
  return need.weight_bytes + kv_bytes;
}

Result<NamedModel> PrepareEngine(asio::io_context& io, ServeFlags flags,
                                 std::optional<std::uint64_t> free_bytes) {
  NamedModel prepared;
  LoadOptions options;
  if (flags.source) {
    options.name = NameOf(*flags.source);
  } else {
    ASSIGN_OR_RETURN(options, CheckLocal(flags));
    ASSIGN_OR_RETURN(prepared.model.memory_bytes, SetMemoryAside(options, free_bytes, flags.model));
  }
  prepared.name = flags.name.empty() ? options.name : flags.name;
  ASSIGN_OR_RETURN(const ServerOptions server, ToServerOptions(flags));
  // The engine process leaves our process group; it is ended by us or by our death (PR_SET_PDEATHSIG).
  EngineClient::Options engine;
  ASSIGN_OR_RETURN(engine.command, WorkerCommand(flags, options.directory, prepared.name));
  engine.starts_ranks = flags.model.grid().size() > 1;
  engine.step_timeout = std::chrono::milliseconds(static_cast<std::int64_t>(flags.step_timeout_s * 1000));
  prepared.model.make = [&io, engine, server](ModelMetrics& metrics) -> std::unique_ptr<ModelService> {
    if (engine.starts_ranks) AllowMpirunAsRoot();
    return std::make_unique<EngineService>(io, engine, server, metrics);
  };
  return prepared;
}

Result<NamedModel> PrepareHandler(asio::io_context& io, ServeFlags flags, const LoadProgress& progress) {
  const Grid grid = flags.model.grid();
  if (grid.stages > 1 || !flags.model.hostfile.empty())
    return Fail(ErrorCode::kUnsupported,
                "a model.py is run by ranks of one host: --tp, without --pp or --hostfile");
  if (flags.handlers.source) {
    ModelFlags model = flags.model;
    RETURN_IF_ERROR(FetchModel(model, *flags.handlers.source, progress));
    flags.handlers.properties["model_id"] = model.model;
  }
  ASSIGN_OR_RETURN(HandlerOptions options, ToHandlerOptions(flags.handlers, flags.name, grid.tensor_ranks));
  ASSIGN_OR_RETURN(const ServerOptions server, ToServerOptions(flags));
  NamedModel prepared;
  prepared.name = options.launch.name;
  // What a handler takes only its author knows.
  prepared.model.memory_bytes = flags.handlers.required_memory_bytes;
  prepared.model.make = [&io, options, timeout = server.request_timeout](ModelMetrics& metrics) {
    return std::make_unique<HandlerService>(io, options, timeout, metrics);
  };
  return prepared;
}

// The environment of one model among several: what names the files of one alone is not this one's.
Environment EnvironmentOfOne() {
  Environment environment = ProcessEnvironment();
  for (const char* name :
       {"SERVING_LOAD_MODELS", "SERVING_MODEL_STORE", "SAGEMAKER_MULTI_MODEL", "OPTION_MODEL_ID",
        "OPTION_S3URL", "HF_MODEL_ID", "MODEL_S3_BUCKET", "MODEL_S3_PREFIX"})
    environment.erase(name);
  return environment;
}

void TakeTuning(const ModelTuning& tuning, ServeFlags& flags, CommandLine& given) {
  HandlerFlags& handlers = flags.handlers;
  const auto take = [&given](const std::optional<int>& value, const char* flag, auto& into) {
    if (!value) return;
    into = *value;
    given[flag] = std::to_string(*value);
  };
  take(tuning.batch_size, "--batch-size", handlers.batch_size);
  take(tuning.max_batch_delay_ms, "--max-batch-delay-ms", handlers.max_batch_delay_ms);
  take(tuning.max_idle_time_s, "--max-idle-time", handlers.max_idle_time_s);
  take(tuning.min_workers, "--min-workers", handlers.min_workers);
  take(tuning.max_workers, "--max-workers", handlers.max_workers);
  take(tuning.job_queue_size, "--job-queue-size", handlers.job_queue_size);
}

Status CheckEngineName(const std::string& engine) {
  for (const std::string_view known : {"", "Native", "DeepSpeed", "MPI", "Python"}) {
    if (EqualIgnoringCase(engine, known)) return {};
  }
  return Fail(ErrorCode::kInvalidArgument,
              "engine: must be Native, DeepSpeed, MPI or Python; leave it out and "
              "the model's own files say which it is");
}

Result<PreparedModel> PrepareOne(asio::io_context& io, ServeFlags flags, CommandLine given,
                                 const ModelRegistration& registration, std::uint64_t free_bytes,
                                 const LoadProgress& progress) {
  RETURN_IF_ERROR(CheckEngineName(registration.engine));
  std::string_view url = registration.url;
  if (url.starts_with("file://")) url.remove_prefix(7);
  if (url.find("://") != std::string_view::npos && !url.starts_with("s3://") && !IsHttpUrl(url))
    return Fail(ErrorCode::kUnsupported,
                "url: must be a directory, an archive (of this host, or http(s)://), s3://BUCKET/PREFIX, or "
                "a hub's id");
  flags.model.model = url;
  given["--model-name"] = flags.name = registration.name;
  TakeTuning(registration.tuning, flags, given);
  RETURN_IF_ERROR(TakeModel(flags, progress));
  flags.model.known_as.clear();
  RETURN_IF_ERROR(TakeDeployment(flags, given, EnvironmentOfOne()));
  if (flags.models)
    return Fail(ErrorCode::kInvalidArgument,
                "url: holds several models in directories of their own; name one");
  // Of an engine, the queue counts what is being computed too.
  if (registration.tuning.job_queue_size)
    flags.server.max_requests = *registration.tuning.job_queue_size + flags.model.max_batch_size;
  ASSIGN_OR_RETURN(NamedModel prepared, PrepareFromFlags(io, flags, free_bytes, progress));
  return std::move(prepared.model);
}

}  // namespace

Result<ServerOptions> ToServerOptions(const ServeFlags& flags) {
  ServerOptions options = flags.server;
  if (!flags.api_key_file.empty()) {
    ASSIGN_OR_RETURN(options.api_keys, ReadApiKeys(flags.api_key_file));
  }
  ASSIGN_OR_RETURN(options.max_body_bytes, ParseBytes(flags.max_body));
  options.batch_shape = flags.batch_shape == "outputs" ? BatchShape::kOutputs : BatchShape::kPipeline;
  options.request_timeout =
      std::chrono::milliseconds(static_cast<std::int64_t>(flags.request_timeout_s * 1000));
  options.drain_timeout = std::chrono::milliseconds(static_cast<std::int64_t>(flags.drain_timeout_s * 1000));
  return options;
}

Status TakeModel(ServeFlags& flags, const LoadProgress& progress) {
  const std::string& model = flags.model.model;
  const bool streamed = flags.model.load_format == kStreamFormat;
  if (streamed && IsS3Uri(model)) {
    flags.source = ModelSource{SourceKind::kS3, model, {}};
  } else if (NamesHubModel(model)) {
    flags.source = ModelSource{SourceKind::kHub, model, flags.model.revision};
  } else {
    return FetchModel(flags.model, progress);
  }
  flags.model.model.clear();
  return {};
}

Result<NamedModel> PrepareFromFlags(asio::io_context& io, const ServeFlags& flags,
                                    std::optional<std::uint64_t> free_bytes, const LoadProgress& progress) {
  return flags.handlers.directory.empty() ? PrepareEngine(io, flags, free_bytes)
                                          : PrepareHandler(io, flags, progress);
}

PrepareModel PrepareByUrl(asio::io_context& io, ServeFlags base, CommandLine given) {
  base.model.model.clear();
  base.model.shape.clear();
  if (base.model.load_format == "dummy") base.model.load_format = "auto";
  return [&io, base = std::move(base), given = std::move(given)](
             const ModelRegistration& registration, std::uint64_t free_bytes, const LoadProgress& progress) {
    return PrepareOne(io, base, given, registration, free_bytes, progress);
  };
}

}  // namespace bloomery
