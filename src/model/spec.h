// A model, described: what its architecture file and its config.json say together, in one resolved form that
// loading and the forward pass read. There is no code for a family: adding one is adding
// architectures/<model_type>.json and goldens. Left out: tensors' bytes (weights.h), the computation
// (transformer.h).
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "model/rotary.h"
#include "tensor/device.h"

namespace bloomery {

enum class PositionKind : std::uint8_t {
  kLearned,  // a table added to the embeddings, row = position + position_offset
  kAlibi,    // slope · key position added to the scores
  kRotary,   // q and k are turned by their positions (rotary.h)
};

enum class QkvLayout : std::uint8_t {
  kFusedPerHead,  // one tensor viewed [heads, 3, head_dim, hidden]: q0 k0 v0 q1 k1 v1 … (BLOOM, GPT-NeoX)
  kFused,         // one tensor: q, then k, then v (GPT-2)
  kSeparate,      // three tensors, [heads · head_dim, hidden] and twice [kv_heads · head_dim, hidden]
};

enum class NormKind : std::uint8_t {
  kLayer,  // mean and variance, gain and bias
  kRms,    // root mean square, gain
};

// How a layer's weights lie in the checkpoint. Embedding, head and projections are [out, in] always.
enum class WeightLayout : std::uint8_t {
  kOutIn,  // a row for each output: torch's Linear
  kInOut,  // a row for each input: GPT-2's Conv1D
};

// How a linear layer is cut over tensor ranks.
enum class Split : std::uint8_t {
  kColumn,      // by outputs: what follows works on a rank's own
  kRow,         // by inputs: a sum over the ranks completes the output
  kReplicated,  // not: every rank has and computes all of it
  kVocabulary,  // by tokens
};

// Of q, k, v and the attention's output either both are cut or none; the same of the FFN's two.
struct Splits {
  Split qkv = Split::kColumn;
  Split attention_out = Split::kRow;
  Split ffn_up = Split::kColumn;
  Split ffn_down = Split::kRow;
  Split embed = Split::kVocabulary;  // and the head

  bool cuts_attention() const { return qkv != Split::kReplicated; }
  bool cuts_ffn() const { return ffn_up != Split::kReplicated; }
  bool cuts_vocabulary() const { return embed != Split::kReplicated; }
};

// Which of a layer's linears have a bias.
struct Biases {
  bool qkv = true;
  bool attention_out = true;
  bool ffn_up = true;
  bool ffn_down = true;
};

// Names in the checkpoint, without prefix. Norms and layer linears are stems: ".weight" and ".bias" follow.
struct TensorNames {
  std::string embed;
  std::string positions;
  std::string embed_norm;
  std::string project_in;
  std::string project_out;
  std::string final_norm;
  std::string head;   // never prefixed
  std::string layer;  // "h.{layer}."
  std::string attention_norm;
  std::vector<std::string> qkv;  // one or three
  std::string attention_out;
  std::string ffn_norm;
  std::string ffn_gate;  // of a gated FFN
  std::string ffn_up;
  std::string ffn_down;
};

struct ModelSpec {
  std::string architecture;  // "bloom", "opt"

  std::int64_t hidden_size = 0;
  std::int64_t embed_size = 0;  // ≠ hidden_size: project_in and project_out exist
  std::int64_t layers = 0;
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;  // divides heads: as many query heads share a key and value head
  std::int64_t head_dim = 0;  // hidden_size / heads, unless the model says otherwise
  std::int64_t vocab_size = 0;
  std::int64_t ffn_size = 0;       // features between the two matrices
  std::int64_t max_positions = 0;  // tokens of context
  NormKind norm = NormKind::kLayer;
  float norm_eps = 0;
  Activation activation = Activation::kNone;
  bool gated_ffn = false;  // down(activation(gate·x) · (up·x)), not down(activation(up·x))
  PositionKind positions = PositionKind::kLearned;
  std::int64_t position_offset = 0;
  Rotary rotary;
  QkvLayout qkv_layout = QkvLayout::kSeparate;
  WeightLayout weight_layout = WeightLayout::kOutIn;
  bool norm_before = true;  // false: norms follow the residual sum (opt-350m)
  bool residual_from_norm =
      false;  // the residual is the norm's output (BLOOM's apply_residual_connection_post_layernorm)
  bool parallel_residual = false;  // x + attention(norm(x)) + ffn(norm(x)), not one after the other
  bool embed_norm = false;
  bool final_norm = true;
  Biases bias;
  bool norm_affine = true;
  bool tied_head = true;
  Splits splits;

  std::vector<std::string> prefixes;  // of tensor names, tried in order
  TensorNames names;

  std::optional<DType> checkpoint_dtype;    // torch_dtype, if it names one
  std::vector<std::int32_t> eos_token_ids;  // may be empty
  std::optional<std::int32_t> bos_token_id;
  std::optional<std::int32_t> pad_token_id;

  std::int64_t q_size() const { return heads * head_dim; }
  std::int64_t kv_size() const { return kv_heads * head_dim; }
  bool projected() const { return embed_size != hidden_size; }
  std::int64_t ParameterCount() const;
};

// Resolves an architecture description against a config.json. kInvalidArgument / kUnsupported name the key at
// fault.
Result<ModelSpec> ResolveSpec(const json::object& architecture, const json::object& config);

// Reads DIR/config.json (and generation_config.json for the end-of-sequence tokens), with the description
// `policy` or, where that is empty, DIR/architecture.json or, without one, the built-in description for its
// model_type.
Result<ModelSpec> LoadSpec(const std::filesystem::path& directory, const std::filesystem::path& policy = {});

// A published size by name ("opt-1.3b", "bloom-176b"), for measuring without weights; and its config.json.
Result<ModelSpec> NamedShape(std::string_view name);
Result<json::object> NamedShapeConfig(std::string_view name);

std::vector<std::string> NamedShapes();
std::vector<std::string> BuiltInArchitectures();

// ALiBi slopes of `heads` heads (Press et al. 2022; the non-power-of-two rule as in transformers'
// build_alibi_tensor).
std::vector<float> AlibiSlopes(std::int64_t heads);

}  // namespace bloomery
