#include "model/weights.h"

#include <fmt/format.h>

#include <cmath>
#include <optional>
#include <string>

#include "model/layer_stream.h"
#include "model/linear_plan.h"
#include "model/weight_source.h"

namespace bloomery {
namespace {

class Builder {
 public:
  Builder(const ModelSpec& spec, const Part& part, WeightSource& source, const LoadProgress& progress)
      : spec_(spec), part_(part), source_(source), progress_(progress) {}

  Result<ModelWeights> Build(DType dtype) {
    ModelWeights weights;
    weights.dtype = dtype;
    weights.part = part_;
    Report(0, "embeddings");
    if (part_.first_stage()) RETURN_IF_ERROR(BuildBeginning(weights));
    if (part_.last_stage()) RETURN_IF_ERROR(BuildEnd(weights));
    for (std::int64_t i = 0; i < part_.layers.size; ++i) {
      // The ends count as one layer more: close enough for a progress bar.
      Report(static_cast<double>(i + 1) / static_cast<double>(part_.layers.size + 1),
             fmt::format("layer {}/{}", i + 1, part_.layers.size));
      ASSIGN_OR_RETURN(LayerWeights layer, BuildLayer(part_.layers.begin + i));
      weights.layers.push_back(std::move(layer));
    }
    Report(1, "done");
    return weights;
  }

 private:
  void Report(double fraction, std::string_view what) const {
    if (progress_) progress_(fraction, what);
  }

  Status BuildBeginning(ModelWeights& weights) {
    ASSIGN_OR_RETURN(weights.embed, source_.Linear({LinearKind::kEmbed}, {}));
    if (spec_.projected()) {
      ASSIGN_OR_RETURN(weights.project_in, source_.Linear({LinearKind::kProjectIn}, {}));
    }
    if (spec_.positions == PositionKind::kLearned) {
      ASSIGN_OR_RETURN(weights.positions, source_.Table(PositionsTable(spec_)));
    }
    if (spec_.embed_norm) {
      ASSIGN_OR_RETURN(weights.embed_norm, ReadNorm(spec_, source_, spec_.names.embed_norm, "embed_norm"));
    }
    return {};
  }

  Status BuildEnd(ModelWeights& weights) {
    if (!TableIsHead(spec_, part_)) {
      ASSIGN_OR_RETURN(weights.head, source_.Linear({LinearKind::kHead}, {}));
    }
    if (spec_.projected()) {
      ASSIGN_OR_RETURN(weights.project_out, source_.Linear({LinearKind::kProjectOut}, {}));
    }
    if (spec_.final_norm) {
      ASSIGN_OR_RETURN(weights.final_norm, ReadNorm(spec_, source_, spec_.names.final_norm, "final_norm"));
    }
    return {};
  }

  Result<LayerWeights> BuildLayer(std::int64_t index) {
    ASSIGN_OR_RETURN(LayerBalance balance, BalanceLayer(spec_, source_, index));
    LayerWeights layer;
    layer.attention_norm = std::move(balance.attention_norm);
    layer.ffn_norm = std::move(balance.ffn_norm);
    if (!source_.Streams(index)) {
      ASSIGN_OR_RETURN(layer.linears, BuildLinears(source_, index, balance));
    }
    return layer;
  }

  const ModelSpec& spec_;
  const Part& part_;
  WeightSource& source_;
  const LoadProgress& progress_;
};

}  // namespace

Result<LayerLinears> BuildLinears(WeightSource& source, std::int64_t layer, const LayerBalance& balance) {
  LayerLinears linears;
  ASSIGN_OR_RETURN(linears.qkv, source.Linear({LinearKind::kQkv, layer}, balance.qkv));
  ASSIGN_OR_RETURN(linears.attention_out,
                   source.Linear({LinearKind::kAttentionOut, layer}, balance.attention_out));
  ASSIGN_OR_RETURN(linears.ffn_up, source.Linear({LinearKind::kFfnUp, layer}, balance.ffn_up));
  ASSIGN_OR_RETURN(linears.ffn_down, source.Linear({LinearKind::kFfnDown, layer}, balance.ffn_down));
  return linears;
}

Result<ModelWeights> BuildWeights(const ModelSpec& spec, const Part& part, DType dtype, WeightSource& source,
                                  const LoadProgress& progress) {
  return Builder(spec, part, source, progress).Build(dtype);
}

Result<ModelWeights> LoadWeights(const ModelSpec& spec, const Part& part, const Checkpoint& checkpoint,
                                 DType dtype, Device& device, const LoadProgress& progress) {
  return BuildWeights(spec, part, dtype, *MakeCheckpointSource(spec, part, checkpoint, dtype, device),
                      progress);
}

Result<ModelWeights> RandomWeights(const ModelSpec& spec, const Part& part, DType dtype, Device& device,
                                   std::uint64_t seed, const LoadProgress& progress) {
  return BuildWeights(spec, part, dtype, *MakeRandomSource(spec, part, dtype, device, seed), progress);
}

ModelWeights::ModelWeights() = default;
ModelWeights::ModelWeights(ModelWeights&& other) noexcept = default;
ModelWeights::~ModelWeights() = default;

std::vector<const LinearWeights*> ModelWeights::StepLinears() const {
  std::vector<const LinearWeights*> linears;
  if (project_in) linears.push_back(project_in.get());
  for (const LayerWeights& layer : layers) {
    const LayerLinears& of = layer.linears;
    if (!of.qkv) continue;  // streamed
    for (const auto& linear : {&of.qkv, &of.attention_out, &of.ffn_up, &of.ffn_down})
      linears.push_back(linear->get());
  }
  if (project_out) linears.push_back(project_out.get());
  if (part.last_stage()) linears.push_back(&head_or_embed());
  return linears;
}

std::uint64_t ModelWeights::BytesPerStep() const {
  std::uint64_t bytes = 0;
  for (const LinearWeights* linear : StepLinears()) bytes += linear->size_bytes();
  return bytes;
}

Footprint WeightFootprint(const ModelSpec& spec, const Part& part, DType dtype, const Device& device) {
  const auto packed = [&](const LinearRole& role) {
    const LinearPlan plan = PlanOf(spec, part, role.kind);
    return device.PackedBytes(plan.out_features, plan.in_features, plan.bias, dtype);
  };
  Footprint footprint;
  for (const LinearRole& role : StepRoles(spec, part)) footprint.weight_bytes_per_step += packed(role);
  footprint.weight_bytes = footprint.weight_bytes_per_step;
  if (part.first_stage() && !TableIsHead(spec, part)) footprint.weight_bytes += packed({LinearKind::kEmbed});
  const std::uint64_t row_bytes = static_cast<std::uint64_t>(spec.hidden_size) * sizeof(float);
  if (spec.positions == PositionKind::kLearned && part.first_stage()) {
    footprint.weight_bytes +=
        static_cast<std::uint64_t>(spec.max_positions + spec.position_offset) * row_bytes;
  }
  if (spec.norm_affine) {
    const std::uint64_t vectors = spec.norm == NormKind::kRms ? 1 : 2;  // of a norm
    footprint.weight_bytes += 2 * vectors * (static_cast<std::uint64_t>(part.layers.size) + 1) * row_bytes;
  }
  return footprint;
}

}  // namespace bloomery
