// bloomery config: what a deployment made for other containers means here, before anything is served.
#include "base/json.h"
#include "base/system.h"
#include "cli/commands.h"
#include "cli/environment.h"
#include "server/deployment.h"
#include "server/setting_text.h"

namespace bloomery {
namespace {

struct ConfigFlags {
  std::string directory;
  std::string environment_file;
  int numa_nodes = 0;  // 0: this host's
  bool json = false;
  bool reference = false;
};

std::string RunsOn(const Deployment& deployment) {
  if (deployment.models) return "what each model's own files say";
  return deployment.runtime == Runtime::kNative
             ? "the native engine"
             : fmt::format("a Python handler, {}", Displayed(deployment.entry_point));
}

std::string SourceText(const ModelSource& source) {
  const std::string revision =
      source.revision.empty() ? "" : fmt::format(", revision {}", Displayed(source.revision));
  return fmt::format("{} ({}{})", Displayed(source.text), SourceKindName(source.kind), revision);
}

std::string ModelText(const Deployment& deployment) {
  if (deployment.models && deployment.models->empty()) return "none at the start; POST /models loads one";
  if (deployment.models) {
    std::string names;
    for (const ModelToLoad& model : *deployment.models)
      names +=
          fmt::format("{}{} ({})", names.empty() ? "" : ", ", Displayed(model.name), Displayed(model.url));
    return names;
  }
  if (deployment.source) return SourceText(*deployment.source);
  return deployment.errors.empty() ? "none; serve takes the demo model" : "none";
}

json::array ToJson(const std::vector<Remark>& remarks) {
  json::array out;
  for (const Remark& remark : remarks)
    out.push_back({{"name", remark.name}, {"from", remark.origin}, {"why", remark.text}});
  return out;
}

json::object ToJson(const Deployment& deployment) {
  json::array settings;
  for (const EffectiveSetting& setting : deployment.settings) {
    settings.push_back({{"name", setting.setting->name},
                        {"value", setting.value},
                        {"from", setting.origin},
                        {"use", UseName(setting.setting->use)},
                        {"becomes", setting.becomes}});
  }
  json::value source = nullptr;
  if (deployment.source) {
    source = {{"kind", SourceKindName(deployment.source->kind)},
              {"text", deployment.source->text},
              {"revision", deployment.source->revision}};
  }
  json::value models = nullptr;
  if (deployment.models) {
    models.emplace_array();
    for (const ModelToLoad& model : *deployment.models)
      models.get_array().push_back({{"name", model.name}, {"version", model.version}, {"url", model.url}});
  }
  return {{"directory", deployment.directory.string()},
          {"model", std::move(source)},
          {"models", std::move(models)},
          {"runtime", deployment.runtime == Runtime::kNative ? "native" : "python"},
          {"entry_point", deployment.entry_point},
          {"settings", std::move(settings)},
          {"ignored", ToJson(deployment.ignored)},
          {"errors", ToJson(deployment.errors)}};
}

void PrintSettings(const std::vector<EffectiveSetting>& settings) {
  std::size_t name_width = 7;
  std::size_t value_width = 5;
  std::size_t origin_width = 4;
  for (const EffectiveSetting& s : settings) {
    name_width = std::max(name_width, s.setting->name.size());
    value_width = std::max(value_width, std::min(Displayed(s.value).size(), std::size_t{40}));
    origin_width = std::max(origin_width, s.origin.size());
  }
  const auto print = [&](std::string_view name, std::string_view value, std::string_view origin,
                         std::string_view becomes) {
    std::string line = fmt::format("{:<{}}  {:<{}}  {:<{}}  {}", name, name_width, value, value_width, origin,
                                   origin_width, becomes);
    line.erase(line.find_last_not_of(' ') + 1);
    fmt::print("{}\n", line);
  };
  print("setting", "value", "from", "which is");
  for (const EffectiveSetting& s : settings) print(s.setting->name, Displayed(s.value), s.origin, s.becomes);
}

void PrintRemarks(std::string_view title, const std::vector<Remark>& remarks) {
  if (remarks.empty()) return;
  fmt::print("\n{}\n", title);
  for (const Remark& remark : remarks) {
    const bool elsewhere = !remark.origin.empty() && remark.origin != remark.name;
    fmt::print("  {}{}: {}\n", remark.name, elsewhere ? fmt::format(" ({})", remark.origin) : "",
               remark.text);
  }
}

void Print(const Deployment& deployment) {
  const std::string directory = deployment.directory.string();
  fmt::print("directory  {}\n", directory.empty() ? "none" : Displayed(directory));
  fmt::print("model      {}\n", ModelText(deployment));
  fmt::print("runs on    {}\n", RunsOn(deployment));
  if (!deployment.settings.empty()) {
    fmt::print("\n");
    PrintSettings(deployment.settings);
  }
  PrintRemarks("Without effect:", deployment.ignored);
  PrintRemarks("Errors; it cannot start:", deployment.errors);
}

Status Config(const ConfigFlags& flags) {
  if (flags.reference) {
    fmt::print("{}", SettingsReference());
    return {};
  }
  Environment environment = ProcessEnvironment();
  if (!flags.environment_file.empty()) {
    ASSIGN_OR_RETURN(environment, ReadEnvironmentFile(flags.environment_file));
  }
  const HostResources host{.numa_nodes = flags.numa_nodes > 0 ? flags.numa_nodes : UsableNumaNodes()};
  ASSIGN_OR_RETURN(const Deployment deployment, ResolveDeployment(flags.directory, environment, {}, host));
  if (flags.json) {
    fmt::print("{}\n", json::serialize(ToJson(deployment)));
  } else {
    Print(deployment);
  }
  if (!deployment.errors.empty()) throw CLI::RuntimeError(1);
  return {};
}

}  // namespace

void AddConfig(CLI::App& app) {
  auto flags = std::make_shared<ConfigFlags>();
  CLI::App* command = app.add_subcommand(
      "config", "Show what a deployment made for DJL Serving or SageMaker means here, key by key");
  command
      ->add_option(
          "directory", flags->directory,
          "Directory with serving.properties or config.properties; without one, SERVING_MODEL_STORE's, or "
          "/opt/ml/model")
      ->option_text("[DIR]");
  command->add_option("--env", flags->environment_file,
                      "File of KEY=VALUE lines in place of this process's environment");
  command
      ->add_option("--numa-nodes", flags->numa_nodes,
                   "What a degree of \"max\" stands for; 0: the NUMA nodes of this host")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  command->add_flag("--json", flags->json, "Print one JSON object");
  command->add_flag("--reference", flags->reference,
                    "Print the table of every key that is known, in Markdown, and nothing else");
  command->footer(
      "Ends with 1 where the deployment could not start. `bloomery serve DIR` takes the same settings.");
  command->callback([flags] { ExitOnError(Config(*flags)); });
}

}  // namespace bloomery
