// bloomery serve: the gateway, of engines and of model.py; and bloomery worker: the engine process that it
// starts.
#include <sys/prctl.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>

#include "base/log.h"
#include "base/system.h"
#include "base/unique_fd.h"
#include "cli/commands.h"
#include "cli/environment.h"
#include "cli/ranks.h"
#include "cli/remote_model.h"
#include "cli/serve_models.h"
#include "cli/session.h"
#include "server/server.h"
#include "worker/engine_client.h"
#include "worker/engine_worker.h"

namespace bloomery {
namespace {

namespace asio = boost::asio;

constexpr int kWorkerSocketFd = 3;  // of an engine that is one process

// Serves until a signal ends it. `start` is called once the port is bound, `stop` once everything is
// answered, or at a second signal.
Status RunServer(asio::io_context& io, Service& service, Metrics& metrics, const ServerOptions& options,
                 const std::function<void()>& start, const std::function<void()>& stop) {
  Server server(io, service, metrics, options);
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

// Who may reach the server may have it run code from wherever a model's files are, so by default only those
// may who are on this host, who have a key, or who SageMaker is.
bool AllowsManagement(const ServeFlags& flags) {
  if (flags.management != "auto") return flags.management == "on";
  boost::system::error_code failed;
  const auto address = asio::ip::make_address(flags.server.host, failed);
  const bool loopback = flags.server.host == "localhost" || (!failed && address.is_loopback());
  return loopback || flags.multi_model || !flags.api_key_file.empty();
}

Result<ModelHostOptions> ToHostOptions(const ServeFlags& flags, const ServerOptions& server) {
  ModelHostOptions options;
  options.management = AllowsManagement(flags);
  options.sagemaker_answers = flags.multi_model;
  options.drain_timeout = server.drain_timeout;
  options.memory_bytes = AvailableMemoryBytes();
  if (!flags.models_memory.empty()) {
    ASSIGN_OR_RETURN(options.memory_bytes, ParseBytes(flags.models_memory));
  }
  try {
    if (!flags.model_url_pattern.empty()) options.url_pattern.emplace(flags.model_url_pattern);
  } catch (const std::regex_error& error) {
    return Fail(ErrorCode::kInvalidArgument, "model_url_pattern: not a regular expression: {}", error.what());
  }
  return options;
}

// `flags`: what the deployment made of the command line's, which are `typed` and of which `given` were given.
Status Serve(const ServeFlags& flags, const ServeFlags& typed, const CommandLine& given) {
  ASSIGN_OR_RETURN(const ServerOptions options, ToServerOptions(flags));
  ASSIGN_OR_RETURN(const ModelHostOptions host_options, ToHostOptions(flags, options));
  Metrics metrics;
  asio::io_context io(1);
  ModelHost host(io, metrics, PrepareByUrl(io, typed, given), host_options);
  if (flags.models) {
    for (const ModelToLoad& model : *flags.models)
      host.AddAtStartup(
          {.url = model.url, .name = model.name, .version = model.version, .engine = model.engine});
    spdlog::info("{} models at the start{}", flags.models->size(),
                 host_options.management ? "; POST /models loads more" : "");
  } else if (flags.handlers.source) {
    // Fetched while /ping tells how far that is.
    ASSIGN_OR_RETURN(const HandlerOptions handler,
                     ToHandlerOptions(flags.handlers, flags.name, flags.model.tensor_ranks));
    const auto prepare = [&io, flags](const ModelRegistration&, std::uint64_t,
                                      const LoadProgress& progress) -> Result<PreparedModel> {
      ASSIGN_OR_RETURN(NamedModel named, PrepareFromFlags(io, flags, std::nullopt, progress));
      return std::move(named.model);
    };
    host.AddAtStartup({.url = flags.shown_url, .name = handler.launch.name}, prepare);
  } else {
    ASSIGN_OR_RETURN(const NamedModel named, PrepareFromFlags(io, flags, std::nullopt));
    host.AddAtStartup({.url = flags.shown_url, .name = named.name}, named.model);
  }
  return RunServer(
      io, host, metrics, options, [&] { host.Start(); },
      [&] {
        InterruptGuard::Interrupt();  // what is being fetched
        host.Stop();
      });
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
  command
      ->add_option(
          "--management", flags->management,
          "Whether requests may load and unload models (POST, PUT, DELETE /models): on, off, or auto: "
          "where --host is this host's own address, where a key is needed, and for SageMaker's multi-model "
          "endpoints")
      ->check(CLI::IsMember({"auto", "on", "off"}))
      ->capture_default_str();
  command->add_option(
      "--models-memory", flags->models_memory,
      "Memory that models may take together, such as 12GiB; one that would not fit is refused with "
      "507; default: what is free at the start");
  command->callback([flags, command] {
    const CommandLine given = GivenFlags(*command);
    ServeFlags taken = *flags;
    taken.shown_url = flags->model.model;
    ExitOnError(TakeModel(taken));
    ExitOnError(TakeDeployment(taken, given, ProcessEnvironment()));
    ExitOnError(Serve(taken, *flags, given));
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
