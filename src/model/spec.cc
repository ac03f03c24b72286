#include "model/spec.h"

#include <cmath>
#include <utility>

#include "base/mapped_file.h"
#include "model/embedded.h"

namespace bloomery {
namespace {

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

Result<ModelSpec> LoadSpec(const std::filesystem::path& directory, const std::filesystem::path& policy) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(directory, ignored)) {
    return Fail(ErrorCode::kNotFound,
                "{}: no such directory; a model is a folder with config.json, weights and tokenizer",
                directory.string());
  }
  ASSIGN_OR_RETURN(json::object config, ReadJsonObject(directory / "config.json"));
  const auto own = policy.empty() ? directory / "architecture.json" : policy;
  const bool described = !policy.empty() || std::filesystem::exists(own, ignored);
  auto architecture = described ? ReadJsonObject(own) : BuiltInArchitecture(config);
  if (!architecture) return std::unexpected(std::move(architecture).error());
  // generate() in transformers takes its end-of-sequence tokens from generation_config.json where there is
  // one.
  if (const auto path = directory / "generation_config.json"; std::filesystem::exists(path, ignored)) {
    ASSIGN_OR_RETURN(const json::object generation, ReadJsonObject(path));
    if (const json::value* eos = generation.if_contains("eos_token_id"); eos != nullptr && !eos->is_null())
      config["eos_token_id"] = *eos;
  }
  auto spec = ResolveSpec(*architecture, config);
  if (spec) return spec;
  std::string place = (directory / "config.json").string();
  if (described) place += " with " + own.string();
  return WithContext(std::move(spec).error(), place);
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
  const auto linear = [](std::int64_t out, std::int64_t in, bool with_bias) {
    return out * in + (with_bias ? out : 0);
  };
  const std::int64_t norm_vectors = norm == NormKind::kRms ? 1 : 2;
  const std::int64_t one_norm = norm_affine ? norm_vectors * hidden_size : 0;
  const std::int64_t layer = linear(q_size() + 2 * kv_size(), hidden_size, bias.qkv) +
                             linear(hidden_size, q_size(), bias.attention_out) +
                             linear((gated_ffn ? 2 : 1) * ffn_size, hidden_size, bias.ffn_up) +
                             linear(hidden_size, ffn_size, bias.ffn_down) + 2 * one_norm;
  std::int64_t total = layers * layer + vocab_size * embed_size * (tied_head ? 1 : 2);
  if (positions == PositionKind::kLearned) total += (max_positions + position_offset) * hidden_size;
  if (embed_norm) total += one_norm;
  if (final_norm) total += one_norm;
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
