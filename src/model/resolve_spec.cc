// Reading a description: fields, tensor names, splits. What each key means: docs/reference/architectures.md.
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <span>
#include <utility>

#include "model/rules.h"
#include "model/spec.h"

namespace bloomery {
namespace {

// Larger than any model that could be loaded; keeps every later product of two sizes inside 63 bits.
constexpr std::int64_t kMaxDimension = std::int64_t{1} << 28U;
constexpr std::int64_t kMaxLayers = 4096;

template <typename Enum>
using Choices = std::span<const std::pair<std::string_view, Enum>>;

constexpr std::pair<std::string_view, Activation> kActivations[] = {
    {"relu", Activation::kRelu},
    {"gelu_tanh", Activation::kGeluTanh},
    {"gelu_new", Activation::kGeluTanh},
    {"gelu_fast", Activation::kGeluTanh},
    {"gelu_pytorch_tanh", Activation::kGeluTanh},
    {"gelu", Activation::kGeluErf},
    {"gelu_erf", Activation::kGeluErf},
    {"silu", Activation::kSilu},
    {"swish", Activation::kSilu}};
constexpr std::pair<std::string_view, NormKind> kNorms[] = {{"layer", NormKind::kLayer},
                                                            {"rms", NormKind::kRms}};
constexpr std::pair<std::string_view, PositionKind> kPositions[] = {
    {"learned", PositionKind::kLearned}, {"alibi", PositionKind::kAlibi}, {"rotary", PositionKind::kRotary}};
constexpr std::pair<std::string_view, QkvLayout> kQkvLayouts[] = {
    {"fused_per_head", QkvLayout::kFusedPerHead},
    {"fused", QkvLayout::kFused},
    {"separate", QkvLayout::kSeparate}};
constexpr std::pair<std::string_view, WeightLayout> kWeightLayouts[] = {{"out_in", WeightLayout::kOutIn},
                                                                        {"in_out", WeightLayout::kInOut}};
constexpr std::pair<std::string_view, Split> kSplits[] = {{"column", Split::kColumn},
                                                          {"row", Split::kRow},
                                                          {"replicated", Split::kReplicated},
                                                          {"vocabulary", Split::kVocabulary}};

// A key that nobody reads is a spelling mistake, and what was meant would be left out in silence.
Status OnlyKnown(const json::object& object, std::span<const std::string_view> known) {
  for (const auto& [key, value] : object) {
    if (std::find(known.begin(), known.end(), key) == known.end()) {
      return Fail(ErrorCode::kInvalidArgument, "\"{}\" is not known; known: {}", std::string_view(key),
                  fmt::join(known, ", "));
    }
  }
  return {};
}

// Reads the evaluated fields, one typed look-up a line.
class FieldReader {
 public:
  explicit FieldReader(const json::object& fields) : fields_(fields) {}

  // Where the field is absent or null: `fallback`, or an error if that is below 1.
  Result<std::int64_t> Size(std::string_view name, std::int64_t maximum = kMaxDimension,
                            std::int64_t fallback = 0) const {
    ASSIGN_OR_RETURN(const auto value, GetInt(fields_, name));
    const std::int64_t size = value.value_or(fallback);
    if (size >= 1 && size <= maximum) return size;
    return Fail(ErrorCode::kInvalidArgument, "{} must be between 1 and {}, got {}", name, maximum, size);
  }

  Status Flag(std::string_view name, bool& flag) const {
    ASSIGN_OR_RETURN(const auto value, GetBool(fields_, name));
    if (value) flag = *value;
    return {};
  }

  // Leaves `choice` alone where the field is absent, unless it is required.
  template <typename Enum>
  Status Choose(std::string_view name, Choices<Enum> choices, Enum& choice, bool required = false) const {
    ASSIGN_OR_RETURN(const auto value, GetString(fields_, name));
    if (!value && !required) return {};
    for (const auto& [known, meaning] : choices) {
      if (value != known) continue;
      choice = meaning;
      return {};
    }
    std::vector<std::string_view> known;
    for (const auto& [name_of_choice, meaning] : choices) known.push_back(name_of_choice);
    return Fail(ErrorCode::kUnsupported, "{} \"{}\" is not supported; known: {}", name, value.value_or(""),
                fmt::join(known, ", "));
  }

 private:
  const json::object& fields_;
};

Status ReadHeads(const json::object& fields, const FieldReader& reader, ModelSpec& spec) {
  ASSIGN_OR_RETURN(spec.heads, reader.Size("heads"));
  ASSIGN_OR_RETURN(spec.kv_heads, reader.Size("kv_heads", kMaxDimension, spec.heads));
  ASSIGN_OR_RETURN(const auto head_dim, GetInt(fields, "head_dim"));
  if (!head_dim && spec.hidden_size % spec.heads != 0) {
    return Fail(ErrorCode::kInvalidArgument, "hidden_size {} is not a multiple of {} heads", spec.hidden_size,
                spec.heads);
  }
  ASSIGN_OR_RETURN(spec.head_dim, reader.Size("head_dim", kMaxDimension, spec.hidden_size / spec.heads));
  if (spec.heads % spec.kv_heads != 0) {
    return Fail(ErrorCode::kInvalidArgument, "{} heads are not a multiple of {} kv_heads", spec.heads,
                spec.kv_heads);
  }
  if (spec.q_size() <= kMaxDimension) return {};
  return Fail(ErrorCode::kInvalidArgument, "{} heads of {} features are too many", spec.heads, spec.head_dim);
}

Status ReadSizes(const json::object& fields, const FieldReader& reader, ModelSpec& spec) {
  ASSIGN_OR_RETURN(spec.hidden_size, reader.Size("hidden_size"));
  ASSIGN_OR_RETURN(spec.embed_size, reader.Size("embed_size", kMaxDimension, spec.hidden_size));
  ASSIGN_OR_RETURN(spec.layers, reader.Size("layers", kMaxLayers));
  RETURN_IF_ERROR(ReadHeads(fields, reader, spec));
  ASSIGN_OR_RETURN(spec.vocab_size, reader.Size("vocab_size"));
  ASSIGN_OR_RETURN(spec.ffn_size, reader.Size("ffn_size"));
  ASSIGN_OR_RETURN(spec.max_positions, reader.Size("max_positions"));
  ASSIGN_OR_RETURN(const auto offset, GetInt(fields, "position_offset"));
  spec.position_offset = offset.value_or(0);
  if (spec.position_offset < 0 || spec.position_offset > kMaxDimension) {
    return Fail(ErrorCode::kInvalidArgument, "position_offset must be between 0 and {}, got {}",
                kMaxDimension, spec.position_offset);
  }
  ASSIGN_OR_RETURN(const auto eps, GetDouble(fields, "norm_eps"));
  if (!eps || !(*eps > 0) || *eps > 1) return Fail(ErrorCode::kInvalidArgument, "norm_eps must be in (0, 1]");
  spec.norm_eps = static_cast<float>(*eps);
  return {};
}

Status ReadBiases(const FieldReader& reader, ModelSpec& spec) {
  bool all = true;
  RETURN_IF_ERROR(reader.Flag("linear_bias", all));
  spec.bias = {all, all, all, all};
  RETURN_IF_ERROR(reader.Flag("qkv_bias", spec.bias.qkv));
  RETURN_IF_ERROR(reader.Flag("attention_out_bias", spec.bias.attention_out));
  RETURN_IF_ERROR(reader.Flag("ffn_up_bias", spec.bias.ffn_up));
  return reader.Flag("ffn_down_bias", spec.bias.ffn_down);
}

// Combinations that the forward pass does not have.
Status CheckChoices(const ModelSpec& spec) {
  if (spec.parallel_residual && (!spec.norm_before || spec.residual_from_norm)) {
    return Fail(ErrorCode::kUnsupported,
                "parallel_residual needs norm_before, and no residual_from_norm beside it");
  }
  if (spec.qkv_layout == QkvLayout::kFusedPerHead && spec.kv_heads != spec.heads) {
    return Fail(ErrorCode::kUnsupported, "qkv_layout \"fused_per_head\" needs as many kv_heads as heads");
  }
  return {};
}

Status ReadChoices(const json::object& fields, const json::object& config, const FieldReader& reader,
                   ModelSpec& spec) {
  RETURN_IF_ERROR(reader.Choose<Activation>("activation", kActivations, spec.activation, /*required=*/true));
  RETURN_IF_ERROR(reader.Choose<PositionKind>("positions", kPositions, spec.positions, /*required=*/true));
  RETURN_IF_ERROR(reader.Choose<QkvLayout>("qkv_layout", kQkvLayouts, spec.qkv_layout, /*required=*/true));
  RETURN_IF_ERROR(reader.Choose<NormKind>("norm", kNorms, spec.norm));
  RETURN_IF_ERROR(reader.Choose<WeightLayout>("weight_layout", kWeightLayouts, spec.weight_layout));
  const std::array<std::pair<std::string_view, bool*>, 8> flags = {
      {{"gated_ffn", &spec.gated_ffn},
       {"norm_before", &spec.norm_before},
       {"residual_from_norm", &spec.residual_from_norm},
       {"parallel_residual", &spec.parallel_residual},
       {"embed_norm", &spec.embed_norm},
       {"final_norm", &spec.final_norm},
       {"norm_affine", &spec.norm_affine},
       {"tied_head", &spec.tied_head}}};
  for (const auto& [name, flag] : flags) RETURN_IF_ERROR(reader.Flag(name, *flag));
  RETURN_IF_ERROR(ReadBiases(reader, spec));
  if (spec.positions == PositionKind::kRotary) {
    ASSIGN_OR_RETURN(spec.rotary, ReadRotary(fields, config, spec.head_dim));
  }
  return CheckChoices(spec);
}

Status ReadFields(const json::object& fields, const json::object& config, ModelSpec& spec) {
  static constexpr std::string_view kKnown[] = {
      "hidden_size",  "embed_size",         "layers",       "heads",         "kv_heads",
      "head_dim",     "vocab_size",         "ffn_size",     "max_positions", "position_offset",
      "norm",         "norm_eps",           "activation",   "gated_ffn",     "positions",
      "rotary_share", "rotary_base",        "rope_scaling", "qkv_layout",    "weight_layout",
      "norm_before",  "residual_from_norm", "embed_norm",   "final_norm",    "parallel_residual",
      "linear_bias",  "qkv_bias",           "ffn_up_bias",  "ffn_down_bias", "attention_out_bias",
      "norm_affine",  "tied_head"};
  RETURN_IF_ERROR(OnlyKnown(fields, kKnown));
  const FieldReader reader(fields);
  RETURN_IF_ERROR(ReadSizes(fields, reader, spec));
  return ReadChoices(fields, config, reader, spec);
}

// A tensor that the model has must be named.
struct NamedTensor {
  std::string_view role;
  std::string* name;
  bool needed;
};

Status ReadQkvNames(const json::object& tensors, ModelSpec& spec) {
  const json::value* qkv = tensors.if_contains("qkv");
  const std::size_t expected = spec.qkv_layout == QkvLayout::kSeparate ? 3 : 1;
  if (qkv == nullptr || !qkv->is_array() || qkv->get_array().size() != expected) {
    return Fail(ErrorCode::kInvalidArgument, "qkv must list {} names for its qkv_layout", expected);
  }
  for (const json::value& name : qkv->get_array()) {
    if (!name.is_string()) return Fail(ErrorCode::kInvalidArgument, "qkv must list names");
    spec.names.qkv.emplace_back(name.get_string());
  }
  return {};
}

Status ReadNames(const json::object& tensors, ModelSpec& spec) {
  TensorNames& names = spec.names;
  const std::array<NamedTensor, 14> stems = {
      {{"embed", &names.embed, true},
       {"positions", &names.positions, spec.positions == PositionKind::kLearned},
       {"embed_norm", &names.embed_norm, spec.embed_norm && spec.norm_affine},
       {"project_in", &names.project_in, spec.projected()},
       {"project_out", &names.project_out, spec.projected()},
       {"final_norm", &names.final_norm, spec.final_norm && spec.norm_affine},
       {"head", &names.head, !spec.tied_head},
       {"layer", &names.layer, true},
       {"attention_norm", &names.attention_norm, spec.norm_affine},
       {"attention_out", &names.attention_out, true},
       {"ffn_norm", &names.ffn_norm, spec.norm_affine},
       {"ffn_gate", &names.ffn_gate, spec.gated_ffn},
       {"ffn_up", &names.ffn_up, true},
       {"ffn_down", &names.ffn_down, true}}};
  std::vector<std::string_view> known = {"qkv"};
  for (const NamedTensor& stem : stems) {
    known.push_back(stem.role);
    ASSIGN_OR_RETURN(auto value, GetString(tensors, stem.role));
    if (!value && stem.needed) {
      return Fail(ErrorCode::kInvalidArgument, "\"{}\" is missing: the fields ask for it", stem.role);
    }
    if (value) *stem.name = *std::move(value);
  }
  RETURN_IF_ERROR(OnlyKnown(tensors, known));
  return ReadQkvNames(tensors, spec);
}

struct SplitRole {
  std::string_view role;
  Split* split;
  Split other;  // what may stand there but "replicated"
};

Status ReadSplits(const json::object& splits, ModelSpec& spec) {
  Splits& s = spec.splits;
  const std::array<SplitRole, 5> roles = {{{"qkv", &s.qkv, Split::kColumn},
                                           {"attention_out", &s.attention_out, Split::kRow},
                                           {"ffn_up", &s.ffn_up, Split::kColumn},
                                           {"ffn_down", &s.ffn_down, Split::kRow},
                                           {"embed", &s.embed, Split::kVocabulary}}};
  const FieldReader reader(splits);
  std::vector<std::string_view> known;
  for (const SplitRole& role : roles) {
    known.push_back(role.role);
    RETURN_IF_ERROR(reader.Choose<Split>(role.role, kSplits, *role.split));
    if (*role.split != Split::kReplicated && *role.split != role.other) {
      const auto* name = std::find_if(std::begin(kSplits), std::end(kSplits),
                                      [&role](const auto& split) { return split.second == role.other; });
      return Fail(ErrorCode::kInvalidArgument, "{} can be \"{}\" or \"replicated\"", role.role, name->first);
    }
  }
  RETURN_IF_ERROR(OnlyKnown(splits, known));
  for (const auto& [first, second] : {std::pair(&roles[0], &roles[1]), std::pair(&roles[2], &roles[3])}) {
    if ((*first->split == Split::kReplicated) == (*second->split == Split::kReplicated)) continue;
    return Fail(ErrorCode::kInvalidArgument, "{} and {} go together: both are cut, or both are replicated",
                first->role, second->role);
  }
  return {};
}

// "requires": what a key of config.json may be, if it is there: the forward pass does not do the rest.
Status CheckRequirements(const json::object& required, const json::object& config) {
  for (const auto& [key, allowed] : required) {
    if (!allowed.is_array())
      return Fail(ErrorCode::kInvalidArgument, "{}: expected a list of values", std::string_view(key));
    const json::value* value = config.if_contains(key);
    if (value == nullptr || value->is_null()) continue;
    const json::array& values = allowed.get_array();
    if (std::find(values.begin(), values.end(), *value) != values.end()) continue;
    return Fail(ErrorCode::kUnsupported, "\"{}\": {} in config.json is not supported, only {}",
                std::string_view(key), json::serialize(*value), json::serialize(allowed));
  }
  return {};
}

Status ReadPrefixes(const json::object& architecture, ModelSpec& spec) {
  if (const json::value* prefixes = architecture.if_contains("prefixes")) {
    if (!prefixes->is_array()) return Fail(ErrorCode::kInvalidArgument, "prefixes must be a list of texts");
    for (const json::value& prefix : prefixes->get_array()) {
      if (!prefix.is_string()) return Fail(ErrorCode::kInvalidArgument, "prefixes must be a list of texts");
      spec.prefixes.emplace_back(prefix.get_string());
    }
  }
  if (spec.prefixes.empty()) spec.prefixes.emplace_back();
  return {};
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

Status ReadTokenIds(const json::object& config, ModelSpec& spec) {
  RETURN_IF_ERROR(ReadEosIds(config, spec));
  ASSIGN_OR_RETURN(spec.bos_token_id, ReadTokenId(config, "bos_token_id"));
  ASSIGN_OR_RETURN(spec.pad_token_id, ReadTokenId(config, "pad_token_id"));
  return {};
}

// An object under a key of the description, read by `read`, whose errors then name the key.
template <typename Read>
Status Section(const json::object& architecture, std::string_view name, bool required, Read read) {
  const json::value* value = architecture.if_contains(name);
  if (value == nullptr && !required) return {};
  if (value == nullptr || !value->is_object())
    return Fail(ErrorCode::kInvalidArgument, "\"{}\" must be an object", name);
  Status status = read(value->get_object());
  if (!status) return WithContext(std::move(status).error(), name);
  return {};
}

}  // namespace

Result<ModelSpec> ResolveSpec(const json::object& architecture, const json::object& config) {
  static constexpr std::string_view kKnown[] = {"name",    "fields", "prefixes",
                                                "tensors", "splits", "requires"};
  RETURN_IF_ERROR(OnlyKnown(architecture, kKnown));
  ModelSpec spec;
  ASSIGN_OR_RETURN(const auto name, GetString(architecture, "name"));
  spec.architecture = name.value_or("unnamed");
  RETURN_IF_ERROR(Section(architecture, "requires", false,
                          [&](const json::object& section) { return CheckRequirements(section, config); }));
  RETURN_IF_ERROR(Section(architecture, "fields", true, [&](const json::object& section) -> Status {
    ASSIGN_OR_RETURN(const json::object fields, EvaluateRules(section, config));
    return ReadFields(fields, config, spec);
  }));
  RETURN_IF_ERROR(Section(architecture, "tensors", true,
                          [&](const json::object& section) { return ReadNames(section, spec); }));
  RETURN_IF_ERROR(Section(architecture, "splits", false,
                          [&](const json::object& section) { return ReadSplits(section, spec); }));
  RETURN_IF_ERROR(ReadPrefixes(architecture, spec));
  RETURN_IF_ERROR(ReadTokenIds(config, spec));
  ASSIGN_OR_RETURN(const auto dtype,
                   GetString(config, config.contains("torch_dtype") ? "torch_dtype" : "dtype"));
  if (dtype) spec.checkpoint_dtype = DTypeFromName(*dtype);
  return spec;
}

}  // namespace bloomery
