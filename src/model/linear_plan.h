// The linear layers of a model and what a rank's part of each is: sizes and places, before anyone knows where
// the bytes come from.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "model/partition.h"
#include "model/spec.h"

namespace bloomery {

enum class LinearKind : std::uint8_t {
  kEmbed,  // and the head, where it is tied
  kHead,   // the embedding's tensor where it is tied
  kProjectIn,
  kProjectOut,
  // From here on: one in each layer.
  kQkv,  // outputs in the order q | k | v, whatever the checkpoint's
  kAttentionOut,
  kFfnUp,  // outputs in the order gate | up where the FFN is gated
  kFfnDown,
};

// In the order in which a step goes through them.
inline constexpr std::array<LinearKind, 4> kLayerLinears = {LinearKind::kQkv, LinearKind::kAttentionOut,
                                                            LinearKind::kFfnUp, LinearKind::kFfnDown};

constexpr bool InLayer(LinearKind kind) { return kind >= LinearKind::kQkv; }

struct LinearRole {
  LinearKind kind = LinearKind::kEmbed;
  std::int64_t layer = 0;  // of those that a layer has
};

enum class Cut : std::uint8_t {
  kNone,     // every tensor rank has all of it
  kOutputs,  // a part is some of its outputs: rows of the matrix
  kInputs,   // … some of its inputs: columns
};

// Outputs that are cut as one: a matrix has several one below the other where its name stands for several.
struct OutputBlock {
  std::int64_t whole_rows = 0;
  std::int64_t first_row = 0;  // the part's
  std::int64_t rows = 0;
};

struct LinearPlan {
  Cut cut = Cut::kNone;
  std::int64_t out_features = 0;  // the part's: of all blocks
  std::int64_t in_features = 0;
  bool bias = false;                 // the part adds one
  std::vector<OutputBlock> outputs;  // q, k, v; gate, up; or one
  std::int64_t whole_columns = 0;
  std::int64_t first_column = 0;
};

LinearPlan PlanOf(const ModelSpec& spec, const Part& part, LinearKind kind);

// The embedding's table is the head too, and both are on this rank.
bool TableIsHead(const ModelSpec& spec, const Part& part);

// Linear layers of a part, in the order in which a step goes through them: without kEmbed, unless it is the
// head.
std::vector<LinearRole> StepRoles(const ModelSpec& spec, const Part& part);

// Names in the checkpoint, after the prefix, without ".weight": one for each block of outputs, or one for
// all.
std::vector<std::string> StemsOf(const ModelSpec& spec, const LinearRole& role);

// "h.3." or the like: what a layer's names begin with.
std::string LayerPrefix(const ModelSpec& spec, std::int64_t layer);

// "layers.3.qkv", "embed": the name in a set of shards.
std::string ShardName(const LinearRole& role);

}  // namespace bloomery
