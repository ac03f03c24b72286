#include "base/log.h"
#include "base/system.h"
#include "cli/environment.h"
#include "cli/remote_model.h"
#include "cli/serve_flags.h"
#include "server/setting_text.h"

namespace bloomery {
namespace {

// "option.dtype (serving.properties:3): …", as the log and errors have it.
std::string Told(const Remark& remark) {
  const bool elsewhere = !remark.origin.empty() && remark.origin != remark.name;
  return fmt::format("{}{}: {}", remark.name, elsewhere ? fmt::format(" ({})", remark.origin) : "",
                     remark.text);
}

void LogDeployment(const Deployment& deployment) {
  for (const EffectiveSetting& setting : deployment.settings) {
    if (setting.origin == "default" && setting.becomes.empty()) continue;
    if (setting.origin.starts_with("--")) continue;  // nothing is taken; what it overrules is told below
    spdlog::info("{}={} from {}{}{}", setting.setting->name, Displayed(setting.value), setting.origin,
                 setting.becomes.empty() ? "" : ": ", setting.becomes);
  }
  for (const Remark& remark : deployment.ignored) spdlog::warn("without effect: {}", Told(remark));
}

Status CheckErrors(const Deployment& deployment) {
  if (deployment.errors.empty()) return {};
  std::string all;
  for (const Remark& remark : deployment.errors) all += fmt::format("\n  {}", Told(remark));
  return Fail(ErrorCode::kInvalidArgument, "the deployment cannot be honoured:{}", all);
}

// Deployment to flags. What the command line says is absent in a deployment, unless several keys say it.
void TakeValues(const Deployment& deployment, const CommandLine& given, ServeFlags& flags) {
  const auto take = [](const auto& value, auto& flag) {
    if (value) flag = *value;
  };
  if (!given.contains("--model-name")) {
    take(deployment.name, flags.name);
    // Of what was fetched, the directory's name is the cache's business.
    if (!flags.model.known_as.empty()) flags.name = flags.model.known_as;
  }
  take(deployment.tensor_ranks, flags.model.tensor_ranks);
  take(deployment.stages, flags.model.stages);
  take(deployment.max_context_tokens, flags.model.max_context_tokens);
  if (!given.contains("--dtype")) take(deployment.dtype, flags.model.dtype);
  take(deployment.kv_dtype, flags.model.kv_dtype);
  if (!given.contains("--max-batch-size")) take(deployment.max_batch_size, flags.model.max_batch_size);
  if (!given.contains("--max-batch-tokens")) take(deployment.max_batch_tokens, flags.model.max_batch_tokens);
  if (deployment.prefix_cache) flags.model.no_prefix_cache = !*deployment.prefix_cache;
  take(deployment.host, flags.server.host);
  if (!given.contains("--port")) take(deployment.port, flags.server.port);
  take(deployment.max_requests, flags.server.max_requests);
  take(deployment.request_timeout_s, flags.request_timeout_s);
  take(deployment.request_id_header, flags.server.request_id_header);
  if (deployment.max_body_bytes) flags.max_body = std::to_string(*deployment.max_body_bytes);
}

// Settings of handlers that have a flag, and what one of the flag is in their unit.
struct HandlerSetting {
  const char* name;
  const char* flag;
  void (*take)(double value, HandlerFlags& flags);
};
constexpr HandlerSetting kHandlerSettings[] = {
    {"batch_size", "--batch-size", [](double v, HandlerFlags& f) { f.batch_size = static_cast<int>(v); }},
    {"max_batch_delay", "--max-batch-delay-ms",
     [](double v, HandlerFlags& f) { f.max_batch_delay_ms = static_cast<int>(v); }},
    {"minWorkers", "--min-workers", [](double v, HandlerFlags& f) { f.min_workers = static_cast<int>(v); }},
    {"maxWorkers", "--max-workers", [](double v, HandlerFlags& f) { f.max_workers = static_cast<int>(v); }},
    {"max_idle_time", "--max-idle-time", [](double v, HandlerFlags& f) { f.max_idle_time_s = v; }},
    {"job_queue_size", "--job-queue-size",
     [](double v, HandlerFlags& f) { f.job_queue_size = static_cast<int>(v); }},
    {"option.predict_timeout", "--predict-timeout",
     [](double v, HandlerFlags& f) { f.predict_timeout_s = v; }},
    {"option.model_loading_timeout", "--model-loading-timeout",
     [](double v, HandlerFlags& f) { f.model_loading_timeout_s = v; }},
};

// What the deployment sets of a name; nullptr: nothing, or its default.
const std::string* SetValue(const Deployment& deployment, std::string_view name) {
  for (const EffectiveSetting& setting : deployment.settings) {
    if (setting.setting->name == name && setting.origin != "default") return &setting.value;
  }
  return nullptr;
}

// The handler gets its options as the deployment has them, and what lies in S3 as the directory it is
// downloaded into: a model.py reads that from "model_id".
void TakeHandler(const Deployment& deployment, const CommandLine& given, ServeFlags& flags) {
  HandlerFlags& handlers = flags.handlers;
  handlers.directory = deployment.directory;
  handlers.entry_point = deployment.entry_point;
  handlers.properties = deployment.handler_options;
  if (const std::string* function = SetValue(deployment, "option.handler")) handlers.function = *function;
  if (const std::string* python = SetValue(deployment, "option.pythonExecutable")) handlers.python = *python;
  if (const std::string* required = SetValue(deployment, "required_memory_mb"))
    handlers.required_memory_bytes = static_cast<std::uint64_t>(*ToInteger(*required)) << 20U;
  for (const HandlerSetting& setting : kHandlerSettings) {
    const std::string* value = SetValue(deployment, setting.name);
    if (value != nullptr && !given.contains(setting.flag)) setting.take(std::stod(*value), handlers);
  }
  const bool options_name_it =
      handlers.properties.contains("model_id") || handlers.properties.contains("s3url");
  if (deployment.source && deployment.source->kind == SourceKind::kS3 && options_name_it)
    handlers.source = deployment.source;
}

}  // namespace

CommandLine GivenFlags(const CLI::App& command) {
  CommandLine given;
  for (const Setting& setting : Settings()) {
    if (setting.flag.empty()) continue;
    const CLI::Option* option = command.get_option_no_throw(std::string(setting.flag));
    if (option != nullptr && option->count() > 0) given[std::string(setting.flag)] = option->results().back();
  }
  for (const HandlerSetting& setting : kHandlerSettings) {
    if (command.get_option(setting.flag)->count() > 0) given[setting.flag] = "";
  }
  return given;
}

Status TakeDeployment(ServeFlags& flags, const CommandLine& given, const Environment& environment) {
  if (!flags.model.shape.empty()) return {};
  ASSIGN_OR_RETURN(const Deployment deployment, ResolveDeployment(flags.model.model, environment, given,
                                                                  {.numa_nodes = UsableNumaNodes()}));
  if (deployment.declared) LogDeployment(deployment);
  RETURN_IF_ERROR(CheckErrors(deployment));
  flags.models = deployment.models;
  flags.multi_model = deployment.multi_model;
  if (deployment.management && !given.contains("--management")) flags.management = "on";
  flags.model_url_pattern = deployment.model_url_pattern.value_or("");
  if (flags.models) {
    // No model's files are here.
  } else if (deployment.runtime == Runtime::kPythonHandler) {
    TakeHandler(deployment, given, flags);
  } else if (deployment.source && !flags.source) {
    flags.source = deployment.source;
  }
  if (flags.source && flags.source->kind == SourceKind::kDirectory) {
    flags.model.model = flags.source->text;
    flags.source.reset();
  }
  TakeValues(deployment, given, flags);
  return {};
}

}  // namespace bloomery
