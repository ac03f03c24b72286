#include "checkpoint/deepspeed.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <memory>
#include <optional>

#include "base/json.h"
#include "base/mapped_file.h"

namespace bloomery {
namespace {

namespace fs = std::filesystem;

// How DeepSpeed cuts a tensor over ranks (ReplaceWithTensorSlicing in module_inject/auto_tp.py, called by
// module_inject/containers/base.py; all of this as of 0.14.5). Weights that are not int8 are saved as their
// transpose, [in, out] (transpose_impl in containers/base.py, transpose in policy.py); int8 weights as they
// are, [out, in] (load_transformer_layer in module_inject/load_checkpoint.py takes the data type for the
// layout, too).
enum class Cut : std::uint8_t {
  kNone,     // every rank has all of it
  kOutputs,  // each rank has some of the outputs, or of each of q, k and v where they are separate tensors
  kInputs,   // … some of the inputs
};

// DeepSpeed's names of a layer's parameters (transformer_param_names in module_inject/policy.py, and the
// modules they belong to) and those of the families (load_params in containers/bloom.py and opt.py).
struct Rule {
  std::string_view name;
  Cut cut = Cut::kNone;
  bool matrix = false;
  std::string_view bloom;
  std::array<std::string_view, 3> opt;  // q, k and v; else one
};

constexpr std::array<Rule, 12> kRules = {{
    {"attention.attn_qkvw",
     Cut::kOutputs,
     true,
     "self_attention.query_key_value.weight",
     {"self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"}},
    {"attention.attn_qkvb",
     Cut::kOutputs,
     false,
     "self_attention.query_key_value.bias",
     {"self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"}},
    {"attention.attn_ow", Cut::kInputs, true, "self_attention.dense.weight", {"self_attn.out_proj.weight"}},
    {"attention.attn_ob", Cut::kNone, false, "self_attention.dense.bias", {"self_attn.out_proj.bias"}},
    {"mlp.inter_w", Cut::kOutputs, true, "mlp.dense_h_to_4h.weight", {"fc1.weight"}},
    {"mlp.inter_b", Cut::kOutputs, false, "mlp.dense_h_to_4h.bias", {"fc1.bias"}},
    {"mlp.output_w", Cut::kInputs, true, "mlp.dense_4h_to_h.weight", {"fc2.weight"}},
    {"mlp.output_b", Cut::kNone, false, "mlp.dense_4h_to_h.bias", {"fc2.bias"}},
    {"mlp.attn_nw", Cut::kNone, false, "post_attention_layernorm.weight", {"final_layer_norm.weight"}},
    {"mlp.attn_nb", Cut::kNone, false, "post_attention_layernorm.bias", {"final_layer_norm.bias"}},
    {"norm_w", Cut::kNone, false, "input_layernorm.weight", {"self_attn_layer_norm.weight"}},
    {"norm_b", Cut::kNone, false, "input_layernorm.bias", {"self_attn_layer_norm.bias"}},
}};

// The rule for "transformer.h.3.mlp.inter_w" and the like; nullptr for what is no layer's.
const Rule* RuleOf(std::string_view key) {
  for (const Rule& rule : kRules) {
    if (key.size() > rule.name.size() && key.ends_with(rule.name) &&
        key[key.size() - rule.name.size() - 1] == '.')
      return &rule;
  }
  return nullptr;
}

std::vector<std::string> HuggingFaceNames(DeepSpeedFamily family, const Rule& rule, std::string_view key) {
  const std::string layer(key.substr(0, key.size() - rule.name.size()));
  if (family == DeepSpeedFamily::kBloom) return {layer + std::string(rule.bloom)};
  std::vector<std::string> names;
  for (const std::string_view name : rule.opt) {
    if (!name.empty()) names.push_back(layer + std::string(name));
  }
  return names;
}

// --- one tensor out of the ranks' pieces ---

// What a rank has of a weight [out, in] or a bias [out].
struct Piece {
  const ScaledTensor* entry = nullptr;
  std::string_view file;
  bool weight = false;      // has two dimensions
  bool transposed = false;  // is stored [in, out]
  std::int64_t outputs = 0;
  std::int64_t inputs = 1;
  std::int64_t stride = 1;
};

Result<Piece> PieceOf(const RankFile& file, const std::string& key, bool weight) {
  Piece piece{.entry = &file.tensors.find(key)->second, .file = file.name, .weight = weight};
  const TensorView& tensor = piece.entry->tensor;
  const bool quantised = tensor.dtype == DType::kI8;
  if (!quantised && tensor.dtype != DType::kF32 && tensor.dtype != DType::kF16 &&
      tensor.dtype != DType::kBF16) {
    return Fail(ErrorCode::kUnsupported, "{}: tensor \"{}\" is {}; expected f32, f16, bf16 or int8",
                file.name, key, DTypeName(tensor.dtype));
  }
  if (quantised && (!weight || !piece.entry->scale)) {
    return Fail(ErrorCode::kUnsupported, "{}: tensor \"{}\" is int8 without a scale", file.name, key);
  }
  if (tensor.shape.size() != (weight ? 2U : 1U) || ElementCount(tensor.shape) == 0) {
    return Fail(ErrorCode::kCorrupt, "{}: tensor \"{}\" has shape {}; expected a {}", file.name, key,
                ShapeString(tensor.shape), weight ? "matrix" : "vector");
  }
  piece.transposed = weight && !quantised;
  piece.outputs = piece.transposed ? tensor.shape[1] : tensor.shape[0];
  if (weight) piece.inputs = piece.transposed ? tensor.shape[0] : tensor.shape[1];
  if (weight) piece.stride = tensor.shape[1];
  return piece;
}

// Which scale is whose: one scale for each `rows_per_scale` outputs, and the piece's first output's is that
// of row `first_scale_row`. DeepSpeed has always one scale for an output, of the rank's piece if it quantised
// after cutting (ranks' files read again with dtype int8: how its published int8 sets were made), and of the
// whole matrix if before (GroupQuantizer in module_inject/replace_module.py, maybe_copy in policy.py).
Status PlaceScales(const Piece& piece, const std::string& key, Cut cut, std::int64_t ranks,
                   std::int64_t first_in_piece, std::int64_t first_in_whole, TensorPiece& out) {
  const TensorView& scale = *piece.entry->scale;
  const std::int64_t groups = scale.rows();
  if (scale.dtype != DType::kF32 || scale.shape.empty() || ElementCount(scale.shape) == 0) {
    return Fail(ErrorCode::kCorrupt,
                "{}: the scale of \"{}\" is {} of shape {}; expected float32 [groups, 3]", piece.file, key,
                DTypeName(scale.dtype), ShapeString(scale.shape));
  }
  const bool of_whole = cut == Cut::kOutputs && groups % ranks == 0 && groups / ranks == piece.outputs;
  if (!of_whole && piece.outputs % groups != 0) {
    return Fail(ErrorCode::kCorrupt, "{}: \"{}\" has {} scales for {} outputs", piece.file, key, groups,
                piece.outputs);
  }
  // The shape is [groups, 3], but GroupQuantizer.quantize reshapes what it has put together as [3, groups]:
  // in memory all groups' scales come first, and then those of halves, for ranks twice as many.
  out.scales = scale.bytes.first(static_cast<std::size_t>(groups) * sizeof(float));
  out.rows_per_scale = of_whole && ranks > 1 ? 1 : piece.outputs / groups;
  out.first_scale_row = of_whole && ranks > 1 ? first_in_whole : first_in_piece;
  return {};
}

// Block `block` of `blocks` that lie one below the other in the piece (q, k and v), as part of its tensor.
Result<TensorPiece> Cutting(const Piece& piece, const std::string& key, Cut cut, std::int64_t rank,
                            std::int64_t ranks, std::int64_t block, std::int64_t blocks) {
  const std::int64_t rows = piece.outputs / blocks;
  const std::int64_t first = block * rows;  // in the piece
  TensorPiece out;
  out.dtype = piece.entry->tensor.dtype;
  out.rows = rows;
  out.columns = piece.inputs;
  out.first_row = cut == Cut::kOutputs ? rank * rows : 0;
  out.first_column = cut == Cut::kInputs ? rank * piece.inputs : 0;
  out.transposed = piece.transposed;
  out.stride = piece.stride;
  const std::int64_t skipped = piece.transposed ? first : first * piece.stride;
  out.bytes = piece.entry->tensor.bytes.subspan(static_cast<std::size_t>(skipped) * SizeOf(out.dtype));
  if (out.dtype == DType::kI8) {
    RETURN_IF_ERROR(PlaceScales(piece, key, cut, ranks, first, block * rows * ranks + rank * rows, out));
  }
  return out;
}

// int8 is dequantised while it is read: q · scale, in f32.
DType ReadAs(DType stored) { return stored == DType::kI8 ? DType::kF32 : stored; }

// The pieces of all ranks, which must be alike.
Result<std::vector<Piece>> PiecesOf(std::span<const RankFile> ranks, const std::string& key, bool weight) {
  std::vector<Piece> pieces;
  for (const RankFile& file : ranks) {
    ASSIGN_OR_RETURN(const Piece piece, PieceOf(file, key, weight));
    pieces.push_back(piece);
    const TensorView& first = pieces.front().entry->tensor;
    const TensorView& mine = piece.entry->tensor;
    if (mine.shape != first.shape || mine.dtype != first.dtype) {
      return Fail(ErrorCode::kCorrupt, "{}: tensor \"{}\" is {} {}, and {} {} in {}; ranks' pieces are alike",
                  file.name, key, DTypeName(mine.dtype), ShapeString(mine.shape), DTypeName(first.dtype),
                  ShapeString(first.shape), ranks.front().name);
    }
  }
  return pieces;
}

Status Insert(TensorMap& tensors, std::string name, TensorView view, std::string_view file) {
  const auto [at, fresh] = tensors.emplace(std::move(name), std::move(view));
  if (!fresh) return Fail(ErrorCode::kCorrupt, "{}: two tensors are \"{}\"", file, at->first);
  return {};
}

Status Join(DeepSpeedFamily family, const Rule& rule, const std::string& key, std::span<const RankFile> ranks,
            TensorMap& tensors) {
  const std::vector<std::string> names = HuggingFaceNames(family, rule, key);
  ASSIGN_OR_RETURN(const std::vector<Piece> pieces, PiecesOf(ranks, key, rule.matrix));
  if (rule.cut == Cut::kNone) return Insert(tensors, names[0], pieces[0].entry->tensor, pieces[0].file);
  const auto blocks = static_cast<std::int64_t>(names.size());
  const auto count = static_cast<std::int64_t>(ranks.size());
  if (pieces[0].outputs % blocks != 0) {
    return Fail(ErrorCode::kCorrupt, "{}: tensor \"{}\" has {} outputs, which are no q, k and v",
                pieces[0].file, key, pieces[0].outputs);
  }
  for (std::int64_t block = 0; block < blocks; ++block) {
    std::vector<TensorPiece> parts;
    for (std::int64_t rank = 0; rank < count; ++rank) {
      ASSIGN_OR_RETURN(TensorPiece part, Cutting(pieces[static_cast<std::size_t>(rank)], key, rule.cut, rank,
                                                 count, block, blocks));
      parts.push_back(part);
    }
    const bool outputs = rule.cut == Cut::kOutputs;
    TensorView view;
    view.dtype = ReadAs(pieces[0].entry->tensor.dtype);
    view.shape = {pieces[0].outputs / blocks * (outputs ? count : 1)};
    if (pieces[0].weight) view.shape.push_back(pieces[0].inputs * (outputs ? 1 : count));
    view.pieces = std::make_shared<const std::vector<TensorPiece>>(std::move(parts));
    RETURN_IF_ERROR(CheckedElementCount(view.shape));
    RETURN_IF_ERROR(Insert(tensors, names[static_cast<std::size_t>(block)], std::move(view), pieces[0].file));
  }
  return {};
}

// --- the configuration ---

std::string LowerCase(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

// A file of the set, beside the configuration or below.
Result<fs::path> PlaceOf(const fs::path& directory, const json::value& entry, const std::string& config) {
  if (!entry.is_string()) return Fail(ErrorCode::kCorrupt, "{}: a checkpoint that is no file name", config);
  const std::string name(entry.get_string());
  fs::path relative = fs::path(name).lexically_normal();
  std::error_code error;
  if (relative.is_absolute())
    relative = relative.lexically_relative(fs::absolute(directory, error).lexically_normal());
  if (name.find('\0') != std::string::npos || relative.empty() || relative == "." ||
      *relative.begin() == "..") {
    return Fail(ErrorCode::kCorrupt, "{}: checkpoint \"{}\" is no file in the directory of the configuration",
                config, name);
  }
  fs::path place = directory / relative;
  if (!fs::is_regular_file(place, error)) {
    return Fail(ErrorCode::kNotFound, "{}: {} is missing, and {} promises it", directory.string(),
                relative.string(), kDeepSpeedConfigName);
  }
  return place;
}

Result<std::vector<fs::path>> PlacesOf(const fs::path& directory, const json::value* list,
                                       std::string_view key, const std::string& config) {
  if (list == nullptr || !list->is_array() || list->get_array().empty())
    return Fail(ErrorCode::kCorrupt, "{}: \"{}\" is no list of files", config, key);
  std::vector<fs::path> places;
  for (const json::value& entry : list->get_array()) {
    ASSIGN_OR_RETURN(fs::path place, PlaceOf(directory, entry, config));
    if (std::find(places.begin(), places.end(), place) != places.end())
      return Fail(ErrorCode::kCorrupt, "{}: {} is listed twice", config, place.filename().string());
    places.push_back(std::move(place));
  }
  return places;
}

// The ranks the set was saved by: what DeepSpeed's loader (replace_transformer_layer in
// module_inject/replace_module.py) takes for it.
Result<std::int64_t> RanksOf(const json::object& root, std::size_t files, const std::string& config) {
  auto count = static_cast<std::int64_t>(files);
  for (const char* key : {"tp_size", "mp_size"}) {
    auto given = GetInt(root, key);
    if (!given) return WithContext(std::move(given).error(), config);
    count = given->value_or(count);
  }
  if (count < 1 || static_cast<std::int64_t>(files) % count != 0) {
    return Fail(ErrorCode::kCorrupt, "{}: {} files cannot be parts of {} ranks (tp_size)", config, files,
                count);
  }
  return count;
}

// What type "ds_model" leaves open.
Result<DeepSpeedFamily> FamilyOf(const fs::path& directory, const std::string& type) {
  if (type == "bloom") return DeepSpeedFamily::kBloom;
  const std::string path = (directory / "config.json").string();
  ASSIGN_OR_RETURN(const std::string text, ReadFileToString(path));
  ASSIGN_OR_RETURN(const json::value parsed, ParseJson(text, path));
  if (!parsed.is_object()) return Fail(ErrorCode::kCorrupt, "{}: no JSON object", path);
  auto model_type = GetString(parsed.get_object(), "model_type");
  if (!model_type) return WithContext(std::move(model_type).error(), path);
  if (*model_type == "bloom") return DeepSpeedFamily::kBloom;
  if (*model_type == "opt") return DeepSpeedFamily::kOpt;
  return Fail(
      ErrorCode::kUnsupported,
      "{}: model_type \"{}\"; DeepSpeed's tensor-parallel sets can be read for bloom and opt. Use the "
      "model's Hugging Face checkpoint",
      path, model_type->value_or(""));
}

}  // namespace

Result<DeepSpeedSet> ReadDeepSpeedConfig(const fs::path& directory) {
  const std::string config = (directory / kDeepSpeedConfigName).string();
  ASSIGN_OR_RETURN(const std::string text, ReadFileToString(config));
  ASSIGN_OR_RETURN(const json::value parsed, ParseJson(text, config));
  if (!parsed.is_object()) return Fail(ErrorCode::kCorrupt, "{}: no JSON object", config);
  const json::object& root = parsed.get_object();
  auto type = GetString(root, "type");
  if (!type) return WithContext(std::move(type).error(), config);
  const std::string kind = LowerCase(type->value_or(""));
  if (kind != "bloom" && kind != "ds_model") {
    return Fail(ErrorCode::kUnsupported, "{}: type \"{}\"; expected \"bloom\" or \"ds_model\"", config,
                type->value_or(""));
  }
  auto parallelization = GetString(root, "parallelization");
  if (!parallelization) return WithContext(std::move(parallelization).error(), config);
  const std::string cut = parallelization->value_or("pp");
  const json::value* checkpoints = root.if_contains("checkpoints");
  const json::object* lists =
      checkpoints != nullptr && checkpoints->is_object() ? &checkpoints->get_object() : nullptr;
  DeepSpeedSet set;
  if (cut == "pp" && lists == nullptr) {
    ASSIGN_OR_RETURN(set.whole, PlacesOf(directory, checkpoints, "checkpoints", config));
    return set;
  }
  if (cut != "tp") {
    return Fail(ErrorCode::kUnsupported, "{}: parallelization \"{}\" of checkpoints by rank; expected \"tp\"",
                config, cut);
  }
  if (lists != nullptr && lists->contains("non_tp")) {
    ASSIGN_OR_RETURN(set.whole, PlacesOf(directory, lists->if_contains("non_tp"), "non_tp", config));
  }
  const json::value* by_rank = lists != nullptr ? lists->if_contains("tp") : checkpoints;
  ASSIGN_OR_RETURN(const std::vector<fs::path> files, PlacesOf(directory, by_rank, "tp", config));
  ASSIGN_OR_RETURN(const std::int64_t ranks, RanksOf(root, files.size(), config));
  ASSIGN_OR_RETURN(set.family, FamilyOf(directory, kind));
  for (auto at = files.begin(); at != files.end(); at += ranks) set.parts.emplace_back(at, at + ranks);
  return set;
}

Result<TensorMap> JoinRanks(DeepSpeedFamily family, std::span<const RankFile> ranks) {
  const RankFile& first = ranks.front();
  for (const RankFile& file : ranks) {
    for (const auto& [one, other] : {std::pair{&first, &file}, std::pair{&file, &first}}) {
      for (const auto& [key, entry] : one->tensors) {
        if (other->tensors.contains(key)) continue;
        return Fail(ErrorCode::kCorrupt,
                    "{}: tensor \"{}\" is missing, and {} has it: not the same part of two ranks (is tp_size "
                    "right?)",
                    other->name, key, one->name);
      }
    }
  }
  TensorMap tensors;
  for (const auto& [key, entry] : first.tensors) {
    if (const Rule* rule = RuleOf(key)) {
      RETURN_IF_ERROR(Join(family, *rule, key, ranks, tensors));
    } else {
      // Embeddings and the like, in OPT's sets, which have no non_tp files: each rank saved the same.
      RETURN_IF_ERROR(Insert(tensors, key, entry.tensor, first.name));
    }
  }
  return tensors;
}

}  // namespace bloomery
