// bloomery serve: the gateway, of an engine or of a model.py; and bloomery worker: the engine process that it
// starts.
#include <sys/prctl.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>

#include "base/log.h"
#include "base/unique_fd.h"
#include "cli/commands.h"
#include "cli/handlers.h"
#include "cli/options.h"
#include "cli/ranks.h"
#include "cli/remote_model.h"
#include "cli/serve_flags.h"
#include "server/engine_service.h"
#include "server/handler_service.h"
#include "server/server.h"
#include "worker/engine_client.h"
#include "worker/engine_worker.h"
#include "worker/handler_pool.h"

namespace bloomery {
namespace {

namespace asio = boost::asio;

constexpr int kWorkerSocketFd = 3;  // of an engine that is one process

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

// Serves until a signal ends it. `start` is called once the port is bound, `stop` once everything is
// answered, or at a second signal.
Status RunServer(asio::io_context& io, Service& service, const ServerOptions& options,
                 const std::function<void()>& start, const std::function<void()>& stop) {
  Server server(io, service, options);
  ASSIGN_OR_RETURN(const std::uint16_t port, server.Start());
  start();
  spdlog::info("listening on http://{}:{} (GET /ping tells when the model is ready)", options.host, port);

  asio::signal_set signals(io, SIGTERM, SIGINT);
  std::function<void(boost::system::error_code, int)> on_signal = [&](boost::system::error_code error,
                                                                      int /*signal*/) {
    if (error) return;
    if (server.draining()) {  // a second signal: at once
      stop();
      io.stop();
      return;
    }
    server.Drain([&] {
      stop();
      // One more turn of the loop, so that requests which outlived the drain get their error.
      asio::post(io, [&io] { asio::post(io, [&io] { io.stop(); }); });
    });
    signals.async_wait(on_signal);
  };
  signals.async_wait(on_signal);
  io.run();
  // A signal that comes now must not turn a clean end into a killed one.
  signals.clear();
  std::signal(SIGTERM, SIG_IGN);
  std::signal(SIGINT, SIG_IGN);
  spdlog::info("stopped");
  return {};
}

// What is on this host: its directory and name. A directory that cannot be a model is said at once, not by a
// server that comes up and fails.
Result<LoadOptions> CheckLocal(const ServeFlags& flags) {
  ASSIGN_OR_RETURN(LoadOptions options, ToLoadOptions(flags.model));
  if (!flags.model.shape.empty()) options.name = flags.model.shape;
  RETURN_IF_ERROR(CheckGrid(flags.model, options));
  return options;
}

Status ServeEngine(const ServeFlags& flags) {
  LoadOptions options;
  if (flags.source) {
    options.name = NameOf(*flags.source);
  } else {
    ASSIGN_OR_RETURN(options, CheckLocal(flags));
  }
  if (!flags.name.empty()) options.name = flags.name;
  ASSIGN_OR_RETURN(const ServerOptions server_options, ToServerOptions(flags));
  asio::io_context io(1);
  // The engine process leaves our process group; it is ended by us or by our death (PR_SET_PDEATHSIG).
  EngineClient::Options engine_options;
  ASSIGN_OR_RETURN(engine_options.command, WorkerCommand(flags, options.directory, options.name));
  engine_options.starts_ranks = flags.model.grid().size() > 1;
  engine_options.step_timeout =
      std::chrono::milliseconds(static_cast<std::int64_t>(flags.step_timeout_s * 1000));
  if (engine_options.starts_ranks) AllowMpirunAsRoot();
  EngineClient engine(io, std::move(engine_options));
  EngineService service(engine, server_options);
  return RunServer(io, service, server_options, [&] { engine.Start(); }, [&] { engine.Stop(); });
}

Status ServeHandler(const ServeFlags& flags) {
  const Grid grid = flags.model.grid();
  if (grid.stages > 1 || !flags.model.hostfile.empty())
    return Fail(ErrorCode::kUnsupported,
                "a model.py is run by ranks of one host: --tp, without --pp or --hostfile");
  ASSIGN_OR_RETURN(HandlerOptions options, ToHandlerOptions(flags.handlers, flags.name, grid.tensor_ranks));
  ASSIGN_OR_RETURN(const ServerOptions server_options, ToServerOptions(flags));
  const std::string name = options.launch.name;
  asio::io_context io(1);
  HandlerPool pool(io, std::move(options));
  HandlerService service(pool, name, server_options.request_timeout);
  return RunServer(io, service, server_options, [&] { pool.Start(); }, [&] { pool.Stop(); });
}

Status Serve(const ServeFlags& flags) {
  return flags.handlers.directory.empty() ? ServeEngine(flags) : ServeHandler(flags);
}

// MODEL as it was typed. What holds no serving.properties is fetched once there is a server that tells how
// far that is.
Status TakeModel(ServeFlags& flags) {
  std::error_code ignored;
  const std::string& model = flags.model.model;
  const bool streamed = flags.model.load_format == kStreamFormat;
  if (streamed && IsS3Uri(model)) {
    flags.source = ModelSource{SourceKind::kS3, model, {}};
  } else if (NamesHubModel(model)) {
    flags.source = ModelSource{SourceKind::kHub, model, flags.model.revision};
  } else {
    return FetchModel(flags.model);
  }
  flags.model.model.clear();
  return {};
}

struct WorkerFlags {
  ModelFlags model;
  std::string from;  // "s3" or "hub": where MODEL is; empty: on this host
  std::string name;
};

// A step cannot be computed any more: the gateway sees this process end, and starts the ranks again.
void EndForRestart(const Error& error) {
  spdlog::error("{}", error.message);
  ::_exit(1);
}

Status Worker(WorkerFlags flags) {
  // Signals of a terminal are the gateway's business; its death is ours.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  std::signal(SIGINT, SIG_IGN);
  ASSIGN_OR_RETURN(auto ranks, JoinRanks(flags.model));
  std::unique_ptr<Device> device;
  const auto load = [&](const LoadProgress& progress) -> Result<LoadedModel> {
    if (!flags.from.empty()) {
      const SourceKind kind =
          flags.from == SourceKindName(SourceKind::kS3) ? SourceKind::kS3 : SourceKind::kHub;
      RETURN_IF_ERROR(FetchModel(flags.model, {kind, flags.model.model, flags.model.revision}, progress));
      std::signal(SIGINT, SIG_IGN);
    }
    ASSIGN_OR_RETURN(LoadOptions options, ToLoadOptions(flags.model));
    options.name = flags.name;
    ASSIGN_OR_RETURN(device, MakeDevice(flags.model));
    return LoadModel(options, *device, progress, std::move(ranks));
  };
  if (ranks && ranks->world->rank() > 0) {
    ASSIGN_OR_RETURN(LoadedModel model, load([](double, std::string_view) {}));
    return FollowRankZero(std::move(model));
  }
  UniqueFd connected;
  if (const char* path = std::getenv(kEngineSocketVariable); path != nullptr) {
    ASSIGN_OR_RETURN(connected, ConnectToGateway(path));
  }
  return RunEngineWorker(connected ? connected.get() : kWorkerSocketFd,
                         [&](const LoadProgress& progress) -> Result<std::unique_ptr<Engine>> {
                           ASSIGN_OR_RETURN(LoadedModel model, load(progress));
                           spdlog::info("loaded {} in {:.2f} s on {}", model.info.name, model.load_s,
                                        device->Describe());
                           return std::make_unique<Engine>(std::move(model), EndForRestart);
                         });
}

}  // namespace

void AddServe(CLI::App& app) {
  auto flags = std::make_shared<ServeFlags>();
  CLI::App* command =
      app.add_subcommand("serve", "Serve a model over HTTP: SageMaker, OpenAI and TGI dialects");
  command->footer(
      "MODEL may hold a serving.properties. It and the variables of DJL Serving's and SageMaker's containers "
      "then set what no flag here does; `bloomery config MODEL` shows how.");
  AddModelFlags(*command, flags->model, /*with_shapes=*/true);
  AddRankFlags(*command, flags->model);
  AddHandlerFlags(*command, flags->handlers);
  command->add_option("--host", flags->server.host, "Address to listen on; 0.0.0.0 for all")
      ->capture_default_str();
  command->add_option("--port", flags->server.port, "Port to listen on; 0: any free one, printed")
      ->capture_default_str();
  command->add_option("--model-name", flags->name,
                      "What the model is called in answers; default: its directory's name");
  command->add_option("--api-key-file", flags->api_key_file,
                      "File with one API key a line; every route but /ping then needs one");
  command
      ->add_option("--batch-shape", flags->batch_shape,
                   "Answer to /invocations with a list of inputs: pipeline ([[{\"generated_text\"}]]) or "
                   "outputs ({\"outputs\": […]})")
      ->check(CLI::IsMember({"pipeline", "outputs"}))
      ->capture_default_str();
  command->add_flag("--log-prompts", flags->server.log_prompts,
                    "Log the bodies of requests, prompts included: the first 64 KiB of each");
  command->add_option("--max-body-size", flags->max_body, "Largest request body")->capture_default_str();
  command
      ->add_option("--max-requests", flags->server.max_requests,
                   "Requests in progress or waiting; more get 429 or 503")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--max-connections", flags->server.max_connections, "Open connections")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command
      ->add_option("--request-timeout", flags->request_timeout_s,
                   "Seconds a generation may take; 0: no limit")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command
      ->add_option("--drain-timeout", flags->drain_timeout_s,
                   "Seconds that requests in progress get after SIGTERM")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command
      ->add_option("--step-timeout", flags->step_timeout_s,
                   "Seconds after which an engine that has work and makes no step is restarted; 0: never")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->callback([flags, command] {
    ExitOnError(TakeModel(*flags));
    ExitOnError(TakeDeployment(*flags, GivenFlags(*command)));
    ExitOnError(Serve(*flags));
  });
}

void AddWorker(CLI::App& app) {
  auto flags = std::make_shared<WorkerFlags>();
  CLI::App* command =
      app.add_subcommand("worker", "The engine process; started by serve, with its socket as descriptor 3");
  command->group("");  // not for people: left out of --help
  AddModelFlags(*command, flags->model, /*with_shapes=*/true);
  AddRankFlags(*command, flags->model);
  command->add_option("--name", flags->name, "The model's name");
  command->add_option("--from", flags->from, "Where MODEL is fetched from: s3 or hub");
  command->callback([flags] { ExitOnError(Worker(*flags)); });
}

}  // namespace bloomery
