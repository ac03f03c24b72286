#include "model/weights.h"

#include <fmt/format.h>

#include <cmath>
#include <optional>
#include <string>

#include "model/balance.h"

namespace bloomery {
namespace {

// One linear layer as the spec sees it, before anyone knows where its bytes come from.
struct LinearPlan {
  std::int64_t out_features = 0;
  std::int64_t in_features = 0;
  bool bias = false;
};

struct LayerPlans {
  LinearPlan qkv;
  LinearPlan attention_out;
  LinearPlan ffn_up;
  LinearPlan ffn_down;
};

LayerPlans PlansOfLayer(const ModelSpec& spec) {
  return {{3 * spec.hidden_size, spec.hidden_size, spec.linear_bias},
          {spec.hidden_size, spec.hidden_size, spec.linear_bias},
          {spec.ffn_size, spec.hidden_size, spec.linear_bias},
          {spec.hidden_size, spec.ffn_size, spec.linear_bias}};
}

// Factors for a linear layer's inputs and outputs (LinearSource::in_scale, out_scale); empty for none.
struct LinearScales {
  std::vector<float> in;
  std::vector<float> out;
};

// A linear layer by its names in the checkpoint.
struct LinearRole {
  std::vector<std::string> stems;  // one; or q's, k's and v's, whose rows are put one below the other
  LinearPlan plan;
  bool qkv = false;  // rows are wanted in the order q | k | v, whatever the checkpoint's
};

// Where the bytes come from. The builder below walks the model once and asks for each part.
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  virtual Result<std::unique_ptr<LinearWeights>> Linear(const LinearRole& role,
                                                        const LinearScales& scales) = 0;
  // Largest weights, for balancing; nothing where balancing is of no use.
  virtual Result<std::optional<LinearPeaks>> Peaks(const LinearRole& role) = 0;
  // A bare matrix: `name` is the whole tensor name after the prefix.
  virtual Result<std::unique_ptr<LinearWeights>> Matrix(const std::string& name, const LinearPlan& plan) = 0;
  virtual Result<AlignedBuffer> F32Table(const std::string& name, std::int64_t rows, std::int64_t cols,
                                         float fill) = 0;
};

class CheckpointSource final : public WeightSource {
 public:
  CheckpointSource(const ModelSpec& spec, const Checkpoint& checkpoint, DType dtype, Device& device)
      : spec_(spec), checkpoint_(checkpoint), dtype_(dtype), device_(device), prefix_(FindPrefix()) {}

  Result<std::unique_ptr<LinearWeights>> Linear(const LinearRole& role, const LinearScales& scales) override {
    ASSIGN_OR_RETURN(LinearSource source, Source(role));
    source.in_scale = scales.in;
    source.out_scale = scales.out;
    return device_.PackLinear(source, dtype_);
  }

  Result<std::optional<LinearPeaks>> Peaks(const LinearRole& role) override {
    if (dtype_ != DType::kI8 && dtype_ != DType::kI4) return std::nullopt;
    ASSIGN_OR_RETURN(const LinearSource source, Source(role));
    ASSIGN_OR_RETURN(LinearPeaks peaks, device_.MeasurePeaks(source));
    return peaks;
  }

  Result<std::unique_ptr<LinearWeights>> Matrix(const std::string& name, const LinearPlan& plan) override {
    ASSIGN_OR_RETURN(const TensorView* weight, Tensor(name, {plan.out_features, plan.in_features}));
    LinearSource source{plan.out_features, plan.in_features, {{weight, 0, plan.out_features}}, {}};
    return device_.PackLinear(source, dtype_);
  }

  Result<AlignedBuffer> F32Table(const std::string& name, std::int64_t rows, std::int64_t cols,
                                 float /*fill*/) override {
    const Shape shape = rows == 1 ? Shape{cols} : Shape{rows, cols};
    ASSIGN_OR_RETURN(const TensorView* view, Tensor(name, shape));
    ASSIGN_OR_RETURN(AlignedBuffer buffer,
                     device_.Allocate(static_cast<std::size_t>(rows * cols) * sizeof(float)));
    ToF32(*view, 0, rows * cols, buffer.as<float>());
    return buffer;
  }

 private:
  // The first prefix under which the embedding exists; without any, the first one, so that the error names a
  // likely tensor.
  std::string FindPrefix() const {
    for (const std::string& prefix : spec_.prefixes) {
      if (checkpoint_.Find(prefix + spec_.names.embed) != nullptr) return prefix;
    }
    return spec_.prefixes.front();
  }

  Result<const TensorView*> Tensor(const std::string& name, const Shape& shape) const {
    const std::string full = name == spec_.names.head ? name : prefix_ + name;
    const TensorView* view = checkpoint_.Find(full);
    if (view == nullptr) {
      auto missing = checkpoint_.Get(full);
      if (!missing) return std::unexpected(std::move(missing).error());
    }
    if (view->dtype != DType::kF32 && view->dtype != DType::kF16 && view->dtype != DType::kBF16) {
      return Fail(ErrorCode::kUnsupported, "{}: tensor \"{}\" is {}; weights must be f32, f16 or bf16",
                  checkpoint_.FileOf(full), full, DTypeName(view->dtype));
    }
    if (view->shape != shape) {
      return Fail(ErrorCode::kInvalidArgument, "{}: tensor \"{}\" has shape {}, config.json asks for {}",
                  checkpoint_.FileOf(full), full, ShapeString(view->shape), ShapeString(shape));
    }
    return view;
  }

  Result<LinearSource> Source(const LinearRole& role) const {
    const LinearPlan& plan = role.plan;
    LinearSource source{plan.out_features, plan.in_features, {}, {}};
    const std::int64_t rows = plan.out_features / static_cast<std::int64_t>(role.stems.size());
    for (const std::string& stem : role.stems) {
      ASSIGN_OR_RETURN(const TensorView* weight, Tensor(stem + ".weight", {rows, plan.in_features}));
      AppendRows(weight, rows, role.qkv, source.weight);
      if (!plan.bias) continue;
      ASSIGN_OR_RETURN(const TensorView* bias, Tensor(stem + ".bias", {rows}));
      AppendRows(bias, rows, role.qkv, source.bias);
    }
    return source;
  }

  // One checkpoint tensor's rows, for q, k and v in that order.
  void AppendRows(const TensorView* tensor, std::int64_t rows, bool qkv, std::vector<RowRange>& out) const {
    if (!qkv || spec_.qkv_layout == QkvLayout::kSeparate) {
      out.push_back({tensor, 0, rows});
      return;
    }
    const std::int64_t dim = spec_.head_dim();
    for (std::int64_t part = 0; part < 3; ++part) {
      for (std::int64_t head = 0; head < spec_.heads; ++head)
        out.push_back({tensor, (head * 3 + part) * dim, dim});
    }
  }

  const ModelSpec& spec_;
  const Checkpoint& checkpoint_;
  const DType dtype_;
  Device& device_;
  const std::string prefix_;
};

class RandomSource final : public WeightSource {
 public:
  RandomSource(DType dtype, Device& device, std::uint64_t seed)
      : dtype_(dtype), device_(device), seed_(seed) {}

  Result<std::unique_ptr<LinearWeights>> Linear(const LinearRole& role,
                                                const LinearScales& /*scales*/) override {
    return Make(role.plan);
  }
  Result<std::optional<LinearPeaks>> Peaks(const LinearRole& /*role*/) override { return std::nullopt; }
  Result<std::unique_ptr<LinearWeights>> Matrix(const std::string& /*name*/,
                                                const LinearPlan& plan) override {
    return Make(plan);
  }

  Result<AlignedBuffer> F32Table(const std::string& /*name*/, std::int64_t rows, std::int64_t cols,
                                 float fill) override {
    ASSIGN_OR_RETURN(AlignedBuffer buffer,
                     device_.Allocate(static_cast<std::size_t>(rows * cols) * sizeof(float)));
    std::fill_n(buffer.as<float>(), rows * cols, fill);
    return buffer;
  }

 private:
  // The initialiser range of both families' releases: activations stay of ordinary size through every layer.
  static constexpr float kStddev = 0.02F;

  Result<std::unique_ptr<LinearWeights>> Make(const LinearPlan& plan) {
    return device_.RandomLinear(plan.out_features, plan.in_features, plan.bias, dtype_, kStddev, seed_++);
  }

  const DType dtype_;
  Device& device_;
  std::uint64_t seed_;
};

std::string LayerPrefix(const ModelSpec& spec, std::int64_t layer) {
  static constexpr std::string_view kHole = "{layer}";
  std::string name = spec.names.layer;
  if (const std::size_t at = name.find(kHole); at != std::string::npos)
    name.replace(at, kHole.size(), std::to_string(layer));
  return name;
}

class Builder {
 public:
  Builder(const ModelSpec& spec, WeightSource& source, const LoadProgress& progress)
      : spec_(spec), source_(source), progress_(progress) {}

  Result<ModelWeights> Build(DType dtype) {
    ModelWeights weights;
    weights.dtype = dtype;
    Report(0, "embeddings");
    RETURN_IF_ERROR(BuildEnds(weights));
    for (std::int64_t i = 0; i < spec_.layers; ++i) {
      // The ends count as one layer more: close enough for a progress bar.
      Report(static_cast<double>(i + 1) / static_cast<double>(spec_.layers + 1),
             fmt::format("layer {}/{}", i + 1, spec_.layers));
      ASSIGN_OR_RETURN(LayerWeights layer, BuildLayer(LayerPrefix(spec_, i)));
      weights.layers.push_back(std::move(layer));
    }
    Report(1, "done");
    return weights;
  }

 private:
  void Report(double fraction, std::string_view what) const {
    if (progress_) progress_(fraction, what);
  }

  Status BuildEnds(ModelWeights& weights) {
    const TensorNames& names = spec_.names;
    const LinearPlan table{spec_.vocab_size, spec_.embed_size, false};
    ASSIGN_OR_RETURN(weights.embed, source_.Matrix(names.embed, table));
    if (!spec_.tied_head) {
      ASSIGN_OR_RETURN(weights.head, source_.Matrix(names.head, table));
    }
    if (spec_.projected()) {
      ASSIGN_OR_RETURN(weights.project_in,
                       source_.Matrix(names.project_in, {spec_.hidden_size, spec_.embed_size, false}));
      ASSIGN_OR_RETURN(weights.project_out,
                       source_.Matrix(names.project_out, {spec_.embed_size, spec_.hidden_size, false}));
    }
    if (spec_.positions == PositionKind::kLearned) {
      const std::int64_t rows = spec_.max_positions + spec_.position_offset;
      ASSIGN_OR_RETURN(weights.positions, source_.F32Table(names.positions, rows, spec_.hidden_size, 0.0F));
    }
    if (spec_.embed_norm) {
      ASSIGN_OR_RETURN(weights.embed_norm, BuildNorm(names.embed_norm));
    }
    if (spec_.final_norm) {
      ASSIGN_OR_RETURN(weights.final_norm, BuildNorm(names.final_norm));
    }
    return {};
  }

  Result<NormWeights> BuildNorm(const std::string& stem) {
    NormWeights norm;
    if (!spec_.norm_affine) return norm;
    ASSIGN_OR_RETURN(norm.gain, source_.F32Table(stem + ".weight", 1, spec_.hidden_size, 1.0F));
    ASSIGN_OR_RETURN(norm.bias, source_.F32Table(stem + ".bias", 1, spec_.hidden_size, 0.0F));
    return norm;
  }

  Result<LayerWeights> BuildLayer(const std::string& prefix) {
    const TensorNames& names = spec_.names;
    const LayerPlans plans = PlansOfLayer(spec_);
    LinearRole qkv{{}, plans.qkv, /*qkv=*/true};
    for (const std::string& name : names.qkv) qkv.stems.push_back(prefix + name);
    const LinearRole attention_out{{prefix + names.attention_out}, plans.attention_out};
    const LinearRole ffn_up{{prefix + names.ffn_up}, plans.ffn_up};
    const LinearRole ffn_down{{prefix + names.ffn_down}, plans.ffn_down};
    LayerWeights layer;
    ASSIGN_OR_RETURN(layer.attention_norm, BuildNorm(prefix + names.attention_norm));
    ASSIGN_OR_RETURN(layer.ffn_norm, BuildNorm(prefix + names.ffn_norm));
    LinearScales qkv_scales;
    LinearScales out_scales;
    RETURN_IF_ERROR(BalancePair(qkv, attention_out, layer.attention_norm, /*linear_between=*/true, qkv_scales,
                                out_scales));
    ASSIGN_OR_RETURN(layer.qkv, source_.Linear(qkv, qkv_scales));
    ASSIGN_OR_RETURN(layer.attention_out, source_.Linear(attention_out, out_scales));
    LinearScales up_scales;
    LinearScales down_scales;
    RETURN_IF_ERROR(BalancePair(ffn_up, ffn_down, layer.ffn_norm, spec_.activation == Activation::kRelu,
                                up_scales, down_scales));
    ASSIGN_OR_RETURN(layer.ffn_up, source_.Linear(ffn_up, up_scales));
    ASSIGN_OR_RETURN(layer.ffn_down, source_.Linear(ffn_down, down_scales));
    return layer;
  }

  // Balances norm ▸ first, and where what lies between is linear in each feature (attention in its values,
  // ReLU for factors above 0) first ▸ second. The second's inputs are the last of the first's outputs: of q |
  // k | v, the values.
  Status BalancePair(const LinearRole& first, const LinearRole& second, NormWeights& norm,
                     bool linear_between, LinearScales& first_scales, LinearScales& second_scales) {
    ASSIGN_OR_RETURN(const auto peaks, source_.Peaks(first));
    if (!peaks) return {};
    // A norm whose output is also the residual must keep its size.
    if (spec_.norm_before && !spec_.residual_from_norm && spec_.norm_affine)
      first_scales.in = BalanceNorm(norm, peaks->in);
    if (!linear_between) return {};
    ASSIGN_OR_RETURN(const auto second_peaks, source_.Peaks(second));
    if (!second_peaks) return {};
    const std::size_t inputs = second_peaks->in.size();
    const std::size_t begin = peaks->out.size() - inputs;
    second_scales.in = BalanceScales(std::span(peaks->out).subspan(begin), second_peaks->in);
    first_scales.out.assign(peaks->out.size(), 1.0F);
    for (std::size_t k = 0; k < inputs; ++k) first_scales.out[begin + k] = 1.0F / second_scales.in[k];
    return {};
  }

  // Divides the norm's gain and bias by the factors it returns for the inputs of what follows. A normalised
  // feature reaches about three times its gain, around its bias.
  std::vector<float> BalanceNorm(NormWeights& norm, std::span<const float> weight_peaks) const {
    std::vector<float> features(weight_peaks.size());
    float* gain = norm.gain.as<float>();
    float* bias = norm.bias.as<float>();
    for (std::size_t k = 0; k < features.size(); ++k)
      features[k] = 3 * std::fabs(gain[k]) + std::fabs(bias[k]);
    std::vector<float> scales = BalanceScales(features, weight_peaks);
    for (std::size_t k = 0; k < features.size(); ++k) {
      gain[k] /= scales[k];
      bias[k] /= scales[k];
    }
    return scales;
  }

  const ModelSpec& spec_;
  WeightSource& source_;
  const LoadProgress& progress_;
};

}  // namespace

Result<ModelWeights> LoadWeights(const ModelSpec& spec, const Checkpoint& checkpoint, DType dtype,
                                 Device& device, const LoadProgress& progress) {
  CheckpointSource source(spec, checkpoint, dtype, device);
  return Builder(spec, source, progress).Build(dtype);
}

Result<ModelWeights> RandomWeights(const ModelSpec& spec, DType dtype, Device& device, std::uint64_t seed,
                                   const LoadProgress& progress) {
  RandomSource source(dtype, device, seed);
  return Builder(spec, source, progress).Build(dtype);
}

std::vector<const LinearWeights*> ModelWeights::StepLinears() const {
  std::vector<const LinearWeights*> linears;
  if (project_in) linears.push_back(project_in.get());
  for (const LayerWeights& layer : layers) {
    for (const auto& linear : {&layer.qkv, &layer.attention_out, &layer.ffn_up, &layer.ffn_down})
      linears.push_back(linear->get());
  }
  if (project_out) linears.push_back(project_out.get());
  linears.push_back(&head_or_embed());
  return linears;
}

std::uint64_t ModelWeights::BytesPerStep() const {
  std::uint64_t bytes = 0;
  for (const LinearWeights* linear : StepLinears()) bytes += linear->size_bytes();
  return bytes;
}

Footprint WeightFootprint(const ModelSpec& spec, DType dtype, const Device& device) {
  const auto packed = [&](const LinearPlan& plan) {
    return device.PackedBytes(plan.out_features, plan.in_features, plan.bias, dtype);
  };
  const LayerPlans plans = PlansOfLayer(spec);
  const std::uint64_t layer =
      packed(plans.qkv) + packed(plans.attention_out) + packed(plans.ffn_up) + packed(plans.ffn_down);
  const std::uint64_t table = packed({spec.vocab_size, spec.embed_size, false});
  Footprint footprint;
  footprint.weight_bytes_per_step = static_cast<std::uint64_t>(spec.layers) * layer + table;
  if (spec.projected()) {
    footprint.weight_bytes_per_step += packed({spec.hidden_size, spec.embed_size, false}) +
                                       packed({spec.embed_size, spec.hidden_size, false});
  }
  footprint.weight_bytes = footprint.weight_bytes_per_step + (spec.tied_head ? 0 : table);
  const std::uint64_t row_bytes = static_cast<std::uint64_t>(spec.hidden_size) * sizeof(float);
  if (spec.positions == PositionKind::kLearned) {
    footprint.weight_bytes +=
        static_cast<std::uint64_t>(spec.max_positions + spec.position_offset) * row_bytes;
  }
  if (spec.norm_affine)
    footprint.weight_bytes += (4ULL * static_cast<std::uint64_t>(spec.layers) + 4ULL) * row_bytes;
  return footprint;
}

}  // namespace bloomery
