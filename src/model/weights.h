// A model's weights on a device, and how they get there: from a checkpoint's tensors, or random for measuring
// a shape. Left out: the computation (transformer.h), what a rank's part is (partition.h).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "checkpoint/checkpoint.h"
#include "model/partition.h"
#include "model/spec.h"
#include "tensor/device.h"

namespace bloomery {

// Gain and bias of a norm, [hidden] each; empty where the architecture has none.
struct NormWeights {
  AlignedBuffer gain;
  AlignedBuffer bias;
};

struct LayerLinears {
  // [(heads + 2·kv_heads)·head_dim, hidden], rows in the order q | k | v whatever the checkpoint's
  std::unique_ptr<LinearWeights> qkv;
  std::unique_ptr<LinearWeights> attention_out;  // [hidden, heads·head_dim]
  std::unique_ptr<LinearWeights> ffn_up;         // [ffn, hidden]; gated: [2·ffn, hidden], gate | up
  std::unique_ptr<LinearWeights> ffn_down;       // [hidden, ffn]
};

struct LayerWeights {
  NormWeights attention_norm;
  NormWeights ffn_norm;
  LayerLinears linears;  // null where the layer is streamed
};

class LayerStream;

// One rank's part of a model: sizes below are the part's.
struct ModelWeights {
  Part part;
  std::unique_ptr<LinearWeights> embed;        // [vocab, embed], also the head where it is tied; first stage
  std::unique_ptr<LinearWeights> head;         // [vocab, embed], null where it is `embed`; last stage
  std::unique_ptr<LinearWeights> project_in;   // [hidden, embed] or null
  std::unique_ptr<LinearWeights> project_out;  // [embed, hidden] or null
  AlignedBuffer positions;                     // [offset + max_positions, hidden] f32, or empty
  NormWeights embed_norm;
  NormWeights final_norm;
  std::vector<LayerWeights> layers;
  std::unique_ptr<LayerStream> stream;  // of the layers that are not in memory; null where all are
  DType dtype = DType::kF32;

  ModelWeights();
  ModelWeights(ModelWeights&& other) noexcept;
  ~ModelWeights();

  const LinearWeights& head_or_embed() const { return head ? *head : *embed; }

  // What one decode step reads from memory, in its order: every linear layer that is there and the head once.
  std::vector<const LinearWeights*> StepLinears() const;
  std::uint64_t BytesPerStep() const;
};

// Called from the loading thread with the fraction done, in [0, 1], and what is being loaded.
using LoadProgress = std::function<void(double fraction, std::string_view what)>;

// Reads the part's own rows and columns only. dtype: f32, f16, bf16, int8 or int4. An error names the file,
// the tensor and the reason.
Result<ModelWeights> LoadWeights(const ModelSpec& spec, const Part& part, const Checkpoint& checkpoint,
                                 DType dtype, Device& device, const LoadProgress& progress);

// Random weights of the same sizes, made in place.
Result<ModelWeights> RandomWeights(const ModelSpec& spec, const Part& part, DType dtype, Device& device,
                                   std::uint64_t seed, const LoadProgress& progress);

// What a part of a model needs in memory; computed from the spec alone, before anything is allocated.
struct Footprint {
  std::uint64_t weight_bytes = 0;           // packed linears, tables and norms
  std::uint64_t weight_bytes_per_step = 0;  // of which one decode step reads
};
Footprint WeightFootprint(const ModelSpec& spec, const Part& part, DType dtype, const Device& device);

}  // namespace bloomery
