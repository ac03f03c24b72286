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
  if (!given.contains("--model-name")) take(deployment.name, flags.name);
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

}  // namespace

CommandLine GivenFlags(const CLI::App& command) {
  CommandLine given;
  for (const Setting& setting : Settings()) {
    if (setting.flag.empty()) continue;
    const CLI::Option* option = command.get_option_no_throw(std::string(setting.flag));
    if (option != nullptr && option->count() > 0) given[std::string(setting.flag)] = option->results().back();
  }
  return given;
}

Status TakeDeployment(ServeFlags& flags, const CommandLine& given) {
  if (!flags.model.shape.empty()) return {};
  ASSIGN_OR_RETURN(const Deployment deployment, ResolveDeployment(flags.model.model, ProcessEnvironment(),
                                                                  given, {.numa_nodes = UsableNumaNodes()}));
  if (deployment.declared) LogDeployment(deployment);
  RETURN_IF_ERROR(CheckErrors(deployment));
  if (deployment.runtime == Runtime::kPythonHandler) {
    return Fail(ErrorCode::kUnsupported,
                "{} in {}: Python handlers are not joined yet; engine=Native serves the model without it",
                deployment.entry_point, deployment.directory.string());
  }
  if (deployment.source) {
    RETURN_IF_ERROR(FetchModel(flags.model, *deployment.source));
  }
  TakeValues(deployment, given, flags);
  return {};
}

}  // namespace bloomery
