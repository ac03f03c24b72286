#include "server/deployment.h"

#include <algorithm>
#include <set>

#include "api/management.h"
#include "base/mapped_file.h"
#include "server/setting_text.h"

namespace bloomery {
namespace {

namespace fs = std::filesystem;

constexpr const char* kContainerDirectory = "/opt/ml/model";  // where SageMaker puts a model's data
constexpr const char* kServingProperties = "serving.properties";
constexpr const char* kConfigProperties = "config.properties";

// The limits of `serve`'s own flags.
constexpr std::int64_t kMaxBatchSize = 4096;
constexpr std::int64_t kMaxBatchTokens = 65536;

bool Exists(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

// An archive of one directory (`tar czf model.tar.gz code`) leaves that directory alone in the model's;
// hidden files beside it, such as macOS's, count for nothing.
fs::path Unwrapped(const fs::path& directory) {
  std::error_code error;
  fs::path only;
  for (const auto& entry : fs::directory_iterator(directory, error)) {
    if (entry.path().filename().string().starts_with('.')) continue;
    if (!only.empty()) return directory;
    only = entry.path();
  }
  return !only.empty() && fs::is_directory(only, error) ? only : directory;
}

Result<std::vector<Property>> ReadProperties(const fs::path& directory, const char* name) {
  if (directory.empty() || !Exists(directory / name)) return std::vector<Property>();
  ASSIGN_OR_RETURN(const std::string text, ReadFileToString(directory / name, kMaxPropertiesBytes));
  return ParseProperties(text, name);
}

Result<fs::path> ChooseDirectory(const fs::path& named, const Environment& environment) {
  fs::path directory = named;
  const auto store = environment.find("SERVING_MODEL_STORE");
  if (directory.empty() && store != environment.end()) directory = Trimmed(store->second);
  std::error_code ignored;
  if (directory.empty() && fs::is_directory(kContainerDirectory, ignored)) directory = kContainerDirectory;
  if (directory.empty()) return directory;
  if (!Exists(directory)) return Fail(ErrorCode::kNotFound, "{}: no such directory", directory.string());
  if (!fs::is_directory(directory, ignored))
    return Fail(ErrorCode::kInvalidArgument, "{} is not a directory", directory.string());
  return directory;
}

// The handlers of djl_python that generate text, all of which the native engine stands for.
bool IsBuiltInTextHandler(std::string_view entry_point) {
  static constexpr std::string_view kHandlers[] = {"djl_python.deepspeed", "djl_python.huggingface",
                                                   "djl_python.fastertransformer", "djl_python.tensorrt_llm",
                                                   "djl_python.transformers_neuronx"};
  return std::ranges::find(kHandlers, entry_point) != std::end(kHandlers);
}

class Resolver {
 public:
  Resolver(fs::path directory, bool directory_was_named, CollectedSettings collected,
           const HostResources& host)
      : directory_was_named_(directory_was_named), collected_(std::move(collected)), host_(host) {
    out_.directory = std::move(directory);
    out_.ignored = std::move(collected_.without_effect);
  }

  Deployment Resolve() {
    out_.declared = std::ranges::any_of(collected_.assignments, [](const Assignment& a) {
      return a.setting->scope != SettingScope::kEnvironment || a.setting->use == SettingUse::kMapped;
    });
    ChooseRuntime();
    CheckValues();
    ChooseSource();
    ChooseGrid();
    ChooseNumbers();
    ChooseBatches();
    ChooseServer();
    ListOptions();
    ListSettings();
    return std::move(out_);
  }

 private:
  const Assignment* Given(std::string_view name) const {
    const auto found = collected_.values.find(name);
    return found == collected_.values.end() ? nullptr : &found->second;
  }

  // A value that is set, valid, and not overruled by a flag, which `serve` reads itself.
  const std::string* Value(std::string_view name) const {
    const Assignment* given = Given(name);
    return given == nullptr || given->origin.starts_with("--") || invalid_.contains(given->setting->name)
               ? nullptr
               : &given->value;
  }

  std::optional<std::int64_t> Integer(std::string_view name) const {
    const std::string* value = Value(name);
    return value != nullptr ? ToInteger(*value) : std::nullopt;
  }

  bool IsTrue(std::string_view name) const {
    const std::string* value = Value(name);
    return value != nullptr && ToBool(*value).value_or(false);
  }

  void AddError(std::string_view name, std::string text) {
    const Assignment* given = Given(name);
    out_.errors.push_back({std::string(name), given != nullptr ? given->origin : "", std::move(text)});
  }

  void Ignore(std::string_view name, std::string text) {
    out_.ignored.push_back({std::string(name), Given(name)->origin, std::move(text)});
  }

  // `name` became `flags`; said beside its value.
  void Becomes(std::string_view name, std::string flags) { becomes_[name] = std::move(flags); }

  bool IsHandler() const { return out_.runtime == Runtime::kPythonHandler; }

  void ChooseRuntime() {
    const Assignment* engine = Given("engine");
    const Assignment* entry_point = Given("option.entryPoint");
    // Beside a model's own files, without a word of configuration, model.py is some code that came with them.
    const bool has_model_py = !out_.directory.empty() && Exists(out_.directory / "model.py") &&
                              (out_.declared || !Exists(out_.directory / "config.json"));
    std::string handler = entry_point != nullptr ? entry_point->value : has_model_py ? "model.py" : "";
    if (engine != nullptr && EqualIgnoringCase(engine->value, "Native")) {
      if (!handler.empty() && !IsBuiltInTextHandler(handler))
        out_.ignored.push_back({handler, engine->origin, "engine=Native: no handler runs"});
      return;
    }
    if (IsBuiltInTextHandler(handler)) {
      if (has_model_py)
        Ignore("option.entryPoint", "model.py is there and is not used: the entry point is named");
      return;
    }
    if (handler.starts_with("djl_python.")) {
      AddError("option.entryPoint",
               fmt::format("{} is not a handler of text generation; leave the key out for the native "
                           "engine, or name a .py file",
                           Displayed(handler)));
      return;
    }
    if (handler.empty()) return;
    if (handler.ends_with(".py") && !Exists(out_.directory / handler))
      AddError("option.entryPoint", fmt::format("{} is not in the model's directory", Displayed(handler)));
    out_.runtime = Runtime::kPythonHandler;
    out_.entry_point = std::move(handler);
  }

  void CheckValues() {
    for (const auto& [name, given] : collected_.values) {
      const Setting& setting = *given.setting;
      const bool handled = IsHandler() && setting.for_handlers;
      if (given.origin.starts_with("--") || (setting.use == SettingUse::kIgnored && !handled)) continue;
      // What a choice means is the handler's own business.
      if (handled && setting.type == SettingType::kChoice && name != "engine") continue;
      const std::string wrong = CheckValue(setting, given.value);
      if (!wrong.empty()) {
        invalid_.insert(name);
        const std::string shown =
            setting.type == SettingType::kSecret ? "" : fmt::format("{}: ", Displayed(given.value));
        // What became of the other choices says what to take instead.
        const std::string_view instead = setting.type == SettingType::kChoice ? setting.effect : "";
        AddError(name, fmt::format("{}{}{}{}", shown, wrong, instead.empty() ? "" : ". ", instead));
      } else if (setting.use == SettingUse::kRefused && !handled &&
                 !EqualIgnoringCase(given.value, setting.default_value)) {
        AddError(name, std::string(setting.effect));
      }
    }
  }

  // --- where the model is ---

  void ChooseSource() {
    ChooseModels();
    if (out_.models) {
      for (const std::string_view key : {"option.model_id", "option.s3url", "MODEL_S3_BUCKET"}) {
        if (Value(key) != nullptr) Ignore(key, "several models are served, and each names its own files");
      }
      return;
    }
    if (Given("option.model_id") != nullptr && Given("option.s3url") != nullptr)
      AddError("option.s3url", "option.model_id is set too; s3url is its old name, so set one of them");
    if (const std::string* model = Value("option.model_id")) {
      SetSource("option.model_id", *model);
    } else if (const std::string* url = Value("option.s3url")) {
      SetSource("option.s3url", *url);
    } else if (const std::string* bucket = Value("MODEL_S3_BUCKET")) {
      const std::string* prefix = Value("MODEL_S3_PREFIX");
      SetSource("MODEL_S3_BUCKET", fmt::format("s3://{}/{}", *bucket, prefix != nullptr ? *prefix : ""));
    } else if (!out_.directory.empty()) {
      out_.source = ModelSource{SourceKind::kDirectory, out_.directory.string(), {}};
      if (!IsHandler() && out_.declared && !Exists(out_.directory / "config.json"))
        out_.errors.push_back(
            {"option.model_id", "", "not set, and the directory itself holds no model (config.json)"});
    }
    if (const std::string* revision = Value("option.revision")) {
      if (out_.source && out_.source->kind == SourceKind::kHub) {
        out_.source->revision = *revision;
      } else if (!IsHandler()) {
        Ignore("option.revision", "only models of the hub have revisions");
      }
    }
    ChooseModelToLoad();
  }

  void SetSource(std::string_view name, const std::string& text) {
    auto source = ParseModelSource(text, out_.directory);
    if (source) {
      out_.source = *std::move(source);
    } else {
      AddError(name, fmt::format("{}: {}", Displayed(text), source.error().message));
    }
  }

  // load_models: "ALL", "NONE", or with commas between them: a path, "[name:version:engine:devices]=path", or
  // "name:version:engine=path" as the documents of the containers write it ("test::Python=/opt/ml/model").
  void ChooseModelToLoad() {
    const std::string* load = Value("load_models");
    if (load == nullptr || EqualIgnoringCase(*load, "ALL") || out_.models) return;
    const ModelToLoad model = ParseModelToLoad(*load);
    if (!model.name.empty()) {
      out_.name = model.name;
      Becomes("load_models", fmt::format("--model-name {}", Displayed(model.name)));
    }
    if (model.url.find("://") != std::string_view::npos)
      return AddError("load_models", "only a directory is loaded; set option.model_id for a model elsewhere");
    if (fs::path(model.url).lexically_normal() != out_.directory.lexically_normal() &&
        model.url != kContainerDirectory)
      Ignore("load_models", fmt::format("its path {}: the directory served is {}", Displayed(model.url),
                                        out_.directory.empty() ? "none" : out_.directory.string()));
  }

  static ModelToLoad ParseModelToLoad(std::string_view text) {
    ModelToLoad model;
    const std::size_t bracket = text.starts_with('[') ? std::min(text.find(']'), text.size()) : 0;
    const std::size_t equals = text.find('=', bracket);
    if (equals != std::string_view::npos) {
      std::string_view endpoint = text.substr(0, equals);
      text.remove_prefix(equals + 1);
      if (endpoint.starts_with('[')) endpoint = endpoint.substr(1, endpoint.size() - 2);
      for (std::string* part : {&model.name, &model.version, &model.engine}) {
        const std::string_view one = endpoint.substr(0, endpoint.find(':'));
        endpoint.remove_prefix(std::min(one.size() + 1, endpoint.size()));
        *part = Trimmed(one);
      }
    }
    if (text.starts_with("file:")) text.remove_prefix(5);
    while (text.starts_with("//")) text.remove_prefix(1);
    model.url = Trimmed(text);
    return model;
  }

  // Whether there are several models, or none yet.
  void ChooseModels() {
    out_.multi_model = IsTrue("SAGEMAKER_MULTI_MODEL");
    if (const std::string* pattern = Value("model_url_pattern")) out_.model_url_pattern = *pattern;
    const std::string* load = Value("load_models");
    const bool all = load == nullptr || EqualIgnoringCase(*load, "ALL");
    if (out_.multi_model) Becomes("SAGEMAKER_MULTI_MODEL", "--management on");
    out_.management = Value("management_address") != nullptr;
    if (out_.management) Becomes("management_address", "--management on");
    if (out_.multi_model && !all)
      Ignore("load_models",
             "SAGEMAKER_MULTI_MODEL: the server starts without a model, and each is loaded by request");
    if (out_.multi_model || (!all && EqualIgnoringCase(*load, "NONE"))) {
      out_.models.emplace();
    } else if (all && !out_.directory.empty()) {
      out_.models = ModelsOfStore(out_.directory);
    } else if (!all) {
      const std::vector<std::string_view> parts = SplitOutsideBrackets(*load);
      if (parts.size() < 2) return;
      out_.models.emplace();
      for (const std::string_view part : parts) AddModelToLoad(ParseModelToLoad(part));
    }
  }

  void AddModelToLoad(ModelToLoad model) {
    const bool elsewhere = model.url.find("://") != std::string::npos;
    if (!elsewhere && fs::path(model.url).is_relative()) model.url = (out_.directory / model.url).string();
    if (model.name.empty()) model.name = ModelNameOf(model.url);
    const auto same = [&](const ModelToLoad& other) {
      return other.name == model.name && other.version == model.version;
    };
    if (std::ranges::any_of(*out_.models, same))
      AddError("load_models",
               fmt::format("{} is named twice; give one of them another name", Displayed(model.name)));
    if (!elsewhere && !Exists(model.url))
      AddError("load_models", fmt::format("{}: no such directory or archive", Displayed(model.url)));
    out_.models->push_back(std::move(model));
  }

  static std::vector<std::string_view> SplitOutsideBrackets(std::string_view text) {
    std::vector<std::string_view> parts;
    for (std::size_t at = 0, begin = 0, depth = 0; at <= text.size(); ++at) {
      if (at < text.size() && text[at] == '[') ++depth;
      if (at < text.size() && text[at] == ']' && depth > 0) --depth;
      if (at < text.size() && (text[at] != ',' || depth > 0)) continue;
      if (const auto part = Trimmed(text.substr(begin, at - begin)); !part.empty()) parts.push_back(part);
      begin = at + 1;
    }
    return parts;
  }

  // A directory that holds nothing but directories and archives holds a model in each; absent where it does
  // not.
  static std::optional<std::vector<ModelToLoad>> ModelsOfStore(const fs::path& directory) {
    std::vector<ModelToLoad> models;
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(directory, error)) {
      const std::string name = entry.path().filename().string();
      if (name.starts_with('.') || name == kConfigProperties) continue;
      if (!entry.is_directory(error) && ModelNameOf(name) == name) return std::nullopt;
      models.push_back({ModelNameOf(name), {}, {}, entry.path().string()});
    }
    if (error || models.size() < 2) return std::nullopt;
    std::ranges::sort(models, {}, &ModelToLoad::name);
    return models;
  }

  // --- how it is cut, and its numbers ---

  void ChooseGrid() {
    const auto degree = [this](std::string_view name, std::string_view flag, int most) -> std::optional<int> {
      const std::string* value = Value(name);
      if (value == nullptr) return std::nullopt;
      const int ranks = *value == "max" ? std::max(most, 1) : static_cast<int>(*ToInteger(*value));
      Becomes(name, fmt::format("{} {}", flag, ranks));
      return ranks;
    };
    out_.tensor_ranks = degree("option.tensor_parallel_degree", "--tp", host_.numa_nodes);
    out_.stages =
        degree("option.pipeline_parallel_degree", "--pp", host_.numa_nodes / out_.tensor_ranks.value_or(1));
  }

  // What option.quantize and its forerunners make of the weights; empty: nothing.
  std::string Quantized() const {
    if (IsTrue("option.load_in_4bit")) return "int4";
    if (IsTrue("option.load_in_8bit")) return "int8";
    const std::string* value = Value("option.quantize");
    if (value == nullptr) return {};
    const std::string method = LowerCase(*value);
    if (method == "none" || method == "false" || method == "null") return {};
    const bool four_bits = method == "int4" || method == "bitsandbytes4" || method == "bitsandbytes-nf4" ||
                           method == "bitsandbytes-fp4";
    return four_bits ? "int4" : "int8";
  }

  static std::string OurDType(std::string_view theirs) {
    const std::string name = LowerCase(theirs);
    if (name == "fp32" || name == "float32") return "f32";
    if (name == "fp16" || name == "float16") return "f16";
    if (name == "bfloat16") return "bf16";
    return name;
  }

  void ChooseNumbers() {
    if (IsHandler()) return;
    const std::string quantized = Quantized();
    const std::string_view name = Value("option.dtype") != nullptr ? "option.dtype" : "option.data_type";
    if (const std::string* value = Value(name)) {
      out_.dtype = OurDType(*value);
      Becomes(name, fmt::format("--dtype {}", *out_.dtype));
    }
    if (out_.dtype && out_.dtype->starts_with("int") && !quantized.empty() && quantized != *out_.dtype)
      AddError(name,
               fmt::format("{} contradicts the quantisation to {}; set one of them", *out_.dtype, quantized));
    if (!quantized.empty()) {
      // What is computed with is not a setting of ours, so the type that goes with the rounding says nothing.
      becomes_.erase(name);
      out_.dtype = quantized;
      for (const std::string_view key : {"option.quantize", "option.load_in_8bit", "option.load_in_4bit"}) {
        if (Value(key) != nullptr && *Value(key) != "false")
          Becomes(key, fmt::format("--dtype {}", quantized));
      }
    }
    if (const std::string* kv_dtype = Value("option.kv_cache_dtype")) {
      out_.kv_dtype = OurDType(*kv_dtype);
      Becomes("option.kv_cache_dtype", fmt::format("--kv-dtype {}", *out_.kv_dtype));
    }
    if (const std::string* prefix_cache = Value("option.enable_prefix_caching")) {
      out_.prefix_cache = ToBool(*prefix_cache);
      if (!*out_.prefix_cache) Becomes("option.enable_prefix_caching", "--no-prefix-cache");
    }
  }

  // --- batches and time ---

  void ChooseBatches() {
    // A handler's requests are not batched by the engine.
    auto size = IsHandler() ? std::nullopt : Integer("option.max_rolling_batch_size");
    std::string_view from = "option.max_rolling_batch_size";
    const auto theirs = *ToInteger(FindSetting(from)->default_value);
    if (const auto batch = Integer("batch_size");
        batch && Given(from) == nullptr && *batch > theirs && !IsHandler()) {
      size = batch;
      from = "batch_size";
    }
    if (!size && out_.declared && !IsHandler() && Given(from) == nullptr) size = theirs;
    if (size) {
      out_.max_batch_size = static_cast<int>(std::min(*size, kMaxBatchSize));
      Becomes(from, fmt::format("--max-batch-size {}", *out_.max_batch_size));
    }
    ChooseTokens();
    // Of one that is on the command line we do not know what it means with the others.
    auto queue = Integer("job_queue_size");
    if (!queue && out_.declared && Given("job_queue_size") == nullptr)
      queue = ToInteger(FindSetting("job_queue_size")->default_value);
    if (queue) {
      out_.max_requests =
          static_cast<int>(std::min<std::int64_t>(*queue + out_.max_batch_size.value_or(0), INT32_MAX));
      Becomes("job_queue_size", fmt::format("--max-requests {}", *out_.max_requests));
    }
    if (const auto seconds = Integer("option.predict_timeout")) {
      out_.request_timeout_s = static_cast<double>(*seconds);
      Becomes("option.predict_timeout", fmt::format("--request-timeout {}", *seconds));
    }
    if (const std::string* formatter = Value("option.output_formatter");
        formatter != nullptr && !IsHandler() && !EqualIgnoringCase(*formatter, "json")) {
      Ignore("option.output_formatter",
             fmt::format("{}: only requests that say \"stream\": true are answered so, others with json",
                         Displayed(*formatter)));
    }
  }

  void ChooseTokens() {
    std::string_view name = "option.max_rolling_batch_prefill_tokens";
    if (Given(name) == nullptr) name = "option.max_num_batched_tokens";
    if (const auto tokens = Integer(name)) {
      out_.max_batch_tokens = std::min(*tokens, kMaxBatchTokens);
      Becomes(name, fmt::format("--max-batch-tokens {}", *out_.max_batch_tokens));
    }
    const Assignment* flag = Given("option.max_model_len");
    if (flag != nullptr && flag->origin.starts_with("--")) return;
    for (const std::string_view key : {"option.max_model_len", "option.max_tokens"}) {
      const auto tokens = Integer(key);
      if (!tokens) continue;
      out_.max_context_tokens = std::min(*tokens, out_.max_context_tokens.value_or(*tokens));
      Becomes(key, fmt::format("--max-context-tokens {}", *out_.max_context_tokens));
    }
  }

  // --- the server ---

  void ChooseServer() {
    if (const std::string* address = Value("inference_address")) {
      const auto listen = ParseAddress(*address);
      out_.host = listen->host;
      out_.port = listen->port;
      Becomes("inference_address", fmt::format("--host {} --port {}", listen->host, listen->port));
    }
    if (const auto port = Integer("SAGEMAKER_BIND_TO_PORT")) {
      out_.port = static_cast<std::uint16_t>(*port);
      Becomes("SAGEMAKER_BIND_TO_PORT", fmt::format("--port {}", *port));
      if (out_.host) Becomes("inference_address", fmt::format("--host {}", *out_.host));
    }
    if (const auto bytes = Integer("max_request_size")) {
      out_.max_body_bytes = static_cast<std::uint64_t>(*bytes);
      Becomes("max_request_size", fmt::format("--max-body-size {}", *bytes));
    }
    if (const std::string* header = Value("request_id_header_key")) out_.request_id_header = *header;
    if (const std::string* store = Value("model_store"); store != nullptr && directory_was_named_)
      Ignore("model_store", "a directory is named on the command line");
  }

  // --- what is told of them ---

  void ListOptions() {
    out_.handler_options = std::move(collected_.unknown_options);
    for (const auto& [name, given] : collected_.values) {
      if (name.starts_with(kOptionPrefix))
        out_.handler_options[std::string(name.substr(kOptionPrefix.size()))] = given.value;
    }
    if (IsHandler()) return;
    auto& unknown = collected_.unknown_option_remarks;
    std::ranges::move(unknown, std::back_inserter(out_.ignored));
  }

  void ListSettings() {
    for (const Setting& setting : Settings()) {
      const Assignment* given = Given(setting.name);
      const bool handlers = IsHandler() && setting.for_handlers;
      if (setting.use == SettingUse::kIgnored && !handlers) {
        if (given != nullptr) Ignore(setting.name, std::string(setting.effect));
        continue;
      }
      if (given != nullptr) {
        out_.settings.push_back({&setting, setting.type == SettingType::kSecret ? "set" : given->value,
                                 given->origin, becomes_[setting.name]});
      } else if (setting.type == SettingType::kSecret && IsSecretOfSource(setting)) {
        out_.settings.push_back({&setting, "unset", "default", {}});
      } else if (!setting.default_value.empty() && out_.declared &&
                 (setting.use != SettingUse::kIgnored || setting.scope == SettingScope::kModel)) {
        out_.settings.push_back(
            {&setting, std::string(setting.default_value), "default", becomes_[setting.name]});
      }
    }
  }

  // Whether somebody will look for it when the download is refused.
  bool IsSecretOfSource(const Setting& setting) const {
    if (!out_.source) return false;
    return (out_.source->kind == SourceKind::kHub && setting.name == "HF_TOKEN") ||
           (out_.source->kind == SourceKind::kS3 && setting.name.starts_with("AWS_"));
  }

  Deployment out_;
  const bool directory_was_named_;
  CollectedSettings collected_;
  const HostResources host_;
  std::set<std::string_view> invalid_;               // settings whose value is wrong
  std::map<std::string_view, std::string> becomes_;  // by the setting's name
};

}  // namespace

Result<Deployment> ResolveDeployment(const fs::path& directory, const Environment& environment,
                                     const CommandLine& command_line, const HostResources& host) {
  ASSIGN_OR_RETURN(const fs::path outer, ChooseDirectory(directory, environment));
  const fs::path inner = outer.empty() ? outer : Unwrapped(outer);
  ASSIGN_OR_RETURN(const auto serving, ReadProperties(inner, kServingProperties));
  ASSIGN_OR_RETURN(const auto config, ReadProperties(inner, kConfigProperties));
  auto collected = CollectSettings(serving, config, environment, command_line);
  Deployment deployment = Resolver(inner, !directory.empty(), std::move(collected), host).Resolve();
  // Models are called as their directory in the store is, wherever their weights come from.
  if (deployment.declared && !deployment.name && !outer.empty()) {
    std::error_code ignored;
    deployment.name = fs::canonical(outer, ignored).filename().string();
  }
  return deployment;
}

}  // namespace bloomery
