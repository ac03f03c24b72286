#include "model/spec.h"

#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "base/mapped_file.h"
#include "model/embedded.h"
#include "model/rules.h"

namespace bloomery {
namespace {

// Larger than any model that could be loaded; keeps every later product of two sizes inside 63 bits.
constexpr std::int64_t kMaxDimension = std::int64_t{1} << 28U;
constexpr std::int64_t kMaxLayers = 4096;

Result<std::int64_t> Size(const json::object& fields, std::string_view name, std::int64_t maximum) {
  ASSIGN_OR_RETURN(const auto value, GetInt(fields, name));
  if (!value || *value < 1 || *value > maximum) {
    return Fail(ErrorCode::kInvalidArgument, "{} must be between 1 and {}, got {}", name, maximum,
                value.value_or(0));
  }
  return *value;
}

// Picks the enumerator that the field names; `fallback` when the field is absent.
template <typename Enum, std::size_t count>
Result<Enum> Choice(const json::object& fields, std::string_view name,
                    const std::array<std::pair<std::string_view, Enum>, count>& choices) {
  ASSIGN_OR_RETURN(const auto value, GetString(fields, name));
  for (const auto& [known, choice] : choices) {
    if (value == known) return choice;
  }
  return Fail(ErrorCode::kUnsupported, "{} \"{}\" is not supported", name, value.value_or(""));
}

constexpr std::array<std::pair<std::string_view, Activation>, 7> kActivations = {
    {{"relu", Activation::kRelu},
     {"gelu_tanh", Activation::kGeluTanh},
     {"gelu_new", Activation::kGeluTanh},
     {"gelu_fast", Activation::kGeluTanh},
     {"gelu_pytorch_tanh", Activation::kGeluTanh},
     {"gelu", Activation::kGeluErf},
     {"gelu_erf", Activation::kGeluErf}}};
constexpr std::array<std::pair<std::string_view, PositionKind>, 2> kPositions = {
    {{"learned", PositionKind::kLearned}, {"alibi", PositionKind::kAlibi}}};
constexpr std::array<std::pair<std::string_view, QkvLayout>, 2> kQkvLayouts = {
    {{"fused_per_head", QkvLayout::kFusedPerHead}, {"separate", QkvLayout::kSeparate}}};

Status ReadSizes(const json::object& fields, ModelSpec& spec) {
  ASSIGN_OR_RETURN(spec.hidden_size, Size(fields, "hidden_size", kMaxDimension));
  ASSIGN_OR_RETURN(spec.layers, Size(fields, "layers", kMaxLayers));
  ASSIGN_OR_RETURN(spec.heads, Size(fields, "heads", kMaxDimension));
  ASSIGN_OR_RETURN(spec.vocab_size, Size(fields, "vocab_size", kMaxDimension));
  ASSIGN_OR_RETURN(spec.ffn_size, Size(fields, "ffn_size", kMaxDimension));
  ASSIGN_OR_RETURN(spec.max_positions, Size(fields, "max_positions", kMaxDimension));
  spec.embed_size = spec.hidden_size;
  if (fields.contains("embed_size")) {
    ASSIGN_OR_RETURN(spec.embed_size, Size(fields, "embed_size", kMaxDimension));
  }
  if (spec.hidden_size % spec.heads != 0) {
    return Fail(ErrorCode::kInvalidArgument, "hidden_size {} is not a multiple of {} heads", spec.hidden_size,
                spec.heads);
  }
  ASSIGN_OR_RETURN(const auto offset, GetInt(fields, "position_offset"));
  spec.position_offset = offset.value_or(0);
  ASSIGN_OR_RETURN(const auto eps, GetDouble(fields, "norm_eps"));
  if (!eps || !(*eps > 0) || *eps > 1) return Fail(ErrorCode::kInvalidArgument, "norm_eps must be in (0, 1]");
  spec.norm_eps = static_cast<float>(*eps);
  return {};
}

Status ReadFlag(const json::object& fields, std::string_view name, bool& flag) {
  ASSIGN_OR_RETURN(const auto value, GetBool(fields, name));
  if (value) flag = *value;
  return {};
}

Status ReadChoices(const json::object& fields, ModelSpec& spec) {
  ASSIGN_OR_RETURN(spec.activation, Choice(fields, "activation", kActivations));
  ASSIGN_OR_RETURN(spec.positions, Choice(fields, "positions", kPositions));
  ASSIGN_OR_RETURN(spec.qkv_layout, Choice(fields, "qkv_layout", kQkvLayouts));
  const std::array<std::pair<std::string_view, bool*>, 7> flags = {
      {{"norm_before", &spec.norm_before},
       {"residual_from_norm", &spec.residual_from_norm},
       {"embed_norm", &spec.embed_norm},
       {"final_norm", &spec.final_norm},
       {"linear_bias", &spec.linear_bias},
       {"norm_affine", &spec.norm_affine},
       {"tied_head", &spec.tied_head}}};
  for (const auto& [name, flag] : flags) RETURN_IF_ERROR(ReadFlag(fields, name, *flag));
  return {};
}

Status ReadNames(const json::object& tensors, ModelSpec& spec) {
  TensorNames& names = spec.names;
  const std::array<std::pair<std::string_view, std::string*>, 13> stems = {
      {{"embed", &names.embed},
       {"positions", &names.positions},
       {"embed_norm", &names.embed_norm},
       {"project_in", &names.project_in},
       {"project_out", &names.project_out},
       {"final_norm", &names.final_norm},
       {"head", &names.head},
       {"layer", &names.layer},
       {"attention_norm", &names.attention_norm},
       {"attention_out", &names.attention_out},
       {"ffn_norm", &names.ffn_norm},
       {"ffn_up", &names.ffn_up},
       {"ffn_down", &names.ffn_down}}};
  for (const auto& [role, name] : stems) {
    ASSIGN_OR_RETURN(auto value, GetString(tensors, role));
    if (value) *name = *std::move(value);
  }
  const json::value* qkv = tensors.if_contains("qkv");
  const std::size_t expected = spec.qkv_layout == QkvLayout::kSeparate ? 3 : 1;
  if (qkv == nullptr || !qkv->is_array() || qkv->get_array().size() != expected) {
    return Fail(ErrorCode::kInvalidArgument, "tensors.qkv must list {} names for its qkv_layout", expected);
  }
  for (const json::value& name : qkv->get_array()) {
    if (!name.is_string()) return Fail(ErrorCode::kInvalidArgument, "tensors.qkv must list names");
    names.qkv.emplace_back(name.get_string());
  }
  return {};
}

Result<const json::object*> Section(const json::object& object, std::string_view name) {
  const json::value* value = object.if_contains(name);
  if (value == nullptr || !value->is_object())
    return Fail(ErrorCode::kInvalidArgument, "\"{}\" must be an object", name);
  return &value->get_object();
}

// eos_token_id is an integer or a list of them.
Status ReadEosIds(const json::object& config, ModelSpec& spec) {
  const json::value* value = config.if_contains("eos_token_id");
  if (value == nullptr || value->is_null()) return {};
  std::vector<std::int32_t> ids;
  const auto add = [&ids, &spec](const json::value& id) {
    if (!id.is_int64() || id.get_int64() < 0 || id.get_int64() >= spec.vocab_size) return false;
    ids.push_back(static_cast<std::int32_t>(id.get_int64()));
    return true;
  };
  bool valid = true;
  if (value->is_array()) {
    for (const json::value& id : value->get_array()) valid = valid && add(id);
  } else {
    valid = add(*value);
  }
  if (!valid) return Fail(ErrorCode::kInvalidArgument, "eos_token_id must be token ids below vocab_size");
  spec.eos_token_ids = std::move(ids);
  return {};
}

Result<std::optional<std::int32_t>> ReadTokenId(const json::object& config, std::string_view name) {
  ASSIGN_OR_RETURN(const auto value, GetInt(config, name));
  if (!value || *value < 0 || *value > kMaxDimension) return std::nullopt;
  return static_cast<std::int32_t>(*value);
}

Result<json::object> ReadJsonObject(const std::filesystem::path& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadFileToString(path));
  ASSIGN_OR_RETURN(json::value parsed, ParseJson(text, path.string()));
  if (!parsed.is_object())
    return Fail(ErrorCode::kInvalidArgument, "{}: expected a JSON object", path.string());
  return std::move(parsed.get_object());
}

Result<json::object> Embedded(std::string_view name) {
  for (const EmbeddedText& file : EmbeddedArchitectureFiles()) {
    if (file.name != name) continue;
    ASSIGN_OR_RETURN(json::value parsed, ParseJson(file.text, name));
    return std::move(parsed.get_object());
  }
  return Fail(ErrorCode::kUnsupported,
              "model_type \"{}\" is not built in; put an architecture.json beside config.json "
              "(docs/reference/architectures.md)",
              name);
}

Result<json::object> BuiltInArchitecture(const json::object& config) {
  ASSIGN_OR_RETURN(const auto model_type, GetString(config, "model_type"));
  if (!model_type || *model_type == "shapes")
    return Fail(ErrorCode::kInvalidArgument, "config.json has no usable \"model_type\"");
  return Embedded(*model_type);
}

}  // namespace

Result<ModelSpec> ResolveSpec(const json::object& architecture, const json::object& config) {
  ModelSpec spec;
  ASSIGN_OR_RETURN(const auto name, GetString(architecture, "name"));
  spec.architecture = name.value_or("unnamed");
  ASSIGN_OR_RETURN(const json::object* rules, Section(architecture, "fields"));
  ASSIGN_OR_RETURN(const json::object fields, EvaluateRules(*rules, config));
  RETURN_IF_ERROR(ReadSizes(fields, spec));
  RETURN_IF_ERROR(ReadChoices(fields, spec));
  ASSIGN_OR_RETURN(const json::object* tensors, Section(architecture, "tensors"));
  RETURN_IF_ERROR(ReadNames(*tensors, spec));
  if (const json::value* prefixes = architecture.if_contains("prefixes");
      prefixes != nullptr && prefixes->is_array()) {
    for (const json::value& prefix : prefixes->get_array()) {
      if (prefix.is_string()) spec.prefixes.emplace_back(prefix.get_string());
    }
  }
  if (spec.prefixes.empty()) spec.prefixes.emplace_back();
  RETURN_IF_ERROR(ReadEosIds(config, spec));
  ASSIGN_OR_RETURN(spec.bos_token_id, ReadTokenId(config, "bos_token_id"));
  ASSIGN_OR_RETURN(spec.pad_token_id, ReadTokenId(config, "pad_token_id"));
  ASSIGN_OR_RETURN(const auto dtype,
                   GetString(config, config.contains("torch_dtype") ? "torch_dtype" : "dtype"));
  if (dtype) spec.checkpoint_dtype = DTypeFromName(*dtype);
  return spec;
}

Result<ModelSpec> LoadSpec(const std::filesystem::path& directory) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(directory, ignored)) {
    return Fail(ErrorCode::kNotFound,
                "{}: no such directory; a model is a folder with config.json, weights and tokenizer",
                directory.string());
  }
  ASSIGN_OR_RETURN(json::object config, ReadJsonObject(directory / "config.json"));
  const auto own = directory / "architecture.json";
  auto architecture =
      std::filesystem::exists(own, ignored) ? ReadJsonObject(own) : BuiltInArchitecture(config);
  if (!architecture) return std::unexpected(std::move(architecture).error());
  // generate() in transformers takes its end-of-sequence tokens from generation_config.json where there is
  // one.
  if (const auto path = directory / "generation_config.json"; std::filesystem::exists(path, ignored)) {
    ASSIGN_OR_RETURN(const json::object generation, ReadJsonObject(path));
    if (const json::value* eos = generation.if_contains("eos_token_id"); eos != nullptr && !eos->is_null())
      config["eos_token_id"] = *eos;
  }
  auto spec = ResolveSpec(*architecture, config);
  if (!spec) return WithContext(std::move(spec).error(), (directory / "config.json").string());
  return spec;
}

Result<json::object> NamedShapeConfig(std::string_view name) {
  ASSIGN_OR_RETURN(const json::object shapes, Embedded("shapes"));
  const json::value* config = shapes.if_contains(name);
  if (config == nullptr) {
    std::string known;
    for (const std::string& shape : NamedShapes()) known += " " + shape;
    return Fail(ErrorCode::kNotFound, "no shape \"{}\"; known:{}", name, known);
  }
  return config->get_object();
}

Result<ModelSpec> NamedShape(std::string_view name) {
  ASSIGN_OR_RETURN(const json::object config, NamedShapeConfig(name));
  ASSIGN_OR_RETURN(const json::object architecture, BuiltInArchitecture(config));
  return ResolveSpec(architecture, config);
}

std::vector<std::string> NamedShapes() {
  std::vector<std::string> names;
  if (const auto shapes = Embedded("shapes")) {
    for (const auto& [name, config] : *shapes) names.emplace_back(name);
  }
  return names;
}

std::vector<std::string> BuiltInArchitectures() {
  std::vector<std::string> names;
  for (const EmbeddedText& file : EmbeddedArchitectureFiles()) {
    if (file.name != "shapes") names.emplace_back(file.name);
  }
  return names;
}

std::int64_t ModelSpec::ParameterCount() const {
  const auto linear = [this](std::int64_t out, std::int64_t in) {
    return out * in + (linear_bias ? out : 0);
  };
  const std::int64_t norm = norm_affine ? 2 * hidden_size : 0;
  const std::int64_t layer = linear(3 * hidden_size, hidden_size) + linear(hidden_size, hidden_size) +
                             linear(ffn_size, hidden_size) + linear(hidden_size, ffn_size) + 2 * norm;
  std::int64_t total = layers * layer + vocab_size * embed_size * (tied_head ? 1 : 2);
  if (positions == PositionKind::kLearned) total += (max_positions + position_offset) * hidden_size;
  if (embed_norm) total += norm;
  if (final_norm) total += norm;
  if (projected()) total += 2 * embed_size * hidden_size;
  return total;
}

std::vector<float> AlibiSlopes(std::int64_t heads) {
  std::int64_t power = 1;
  while (power * 2 <= heads) power *= 2;
  std::vector<float> slopes;
  const double base = std::exp2(-std::exp2(-(std::log2(static_cast<double>(power)) - 3)));
  for (std::int64_t i = 1; i <= power; ++i)
    slopes.push_back(static_cast<float>(std::pow(base, static_cast<double>(i))));
  const double extra = std::exp2(-std::exp2(-(std::log2(static_cast<double>(2 * power)) - 3)));
  for (std::int64_t i = 0; i < heads - power; ++i) {
    slopes.push_back(static_cast<float>(std::pow(extra, static_cast<double>(2 * i + 1))));
  }
  return slopes;
}

}  // namespace bloomery
