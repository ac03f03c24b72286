// Weights out of a Hugging Face checkpoint's tensors, and weights made up.
#include <algorithm>
#include <span>
#include <string>

#include "model/weight_source.h"

namespace bloomery {
namespace {

class CheckpointSource final : public WeightSource {
 public:
  CheckpointSource(const ModelSpec& spec, const Part& part, const Checkpoint& checkpoint, DType dtype,
                   Device& device)
      : spec_(spec),
        part_(part),
        checkpoint_(checkpoint),
        dtype_(dtype),
        device_(device),
        prefix_(FindPrefix()) {}

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

  Result<AlignedBuffer> Table(const TableRole& role) override {
    const Shape shape = role.rows == 1 ? Shape{role.cols} : Shape{role.rows, role.cols};
    ASSIGN_OR_RETURN(const TensorView* view, Tensor(role.tensor, shape));
    ASSIGN_OR_RETURN(AlignedBuffer buffer,
                     device_.Allocate(static_cast<std::size_t>(role.rows * role.cols) * sizeof(float)));
    ToF32(*view, 0, role.rows * role.cols, buffer.as<float>());
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
    const LinearPlan plan = PlanOf(spec_, part_, role.kind);
    LinearSource source;
    source.out_features = plan.out_features;
    source.in_features = plan.in_features;
    source.first_column = plan.first_column;
    source.columns = plan.whole_columns;
    source.transposed = InLayer(role.kind) && spec_.weight_layout == WeightLayout::kInOut;
    const std::vector<std::string> stems = StemsOf(spec_, role);
    const std::size_t blocks = plan.outputs.size() / stems.size();  // of each tensor
    for (std::size_t i = 0; i < stems.size(); ++i) {
      const std::span outputs = std::span(plan.outputs).subspan(i * blocks, blocks);
      std::int64_t rows = 0;
      for (const OutputBlock& block : outputs) rows += block.whole_rows;
      const Shape shape =
          source.transposed ? Shape{plan.whole_columns, rows} : Shape{rows, plan.whole_columns};
      ASSIGN_OR_RETURN(const TensorView* weight, Tensor(stems[i] + ".weight", shape));
      AppendRows(role.kind, outputs, weight, source.weight);
      if (!plan.bias) continue;
      ASSIGN_OR_RETURN(const TensorView* bias, Tensor(stems[i] + ".bias", {rows}));
      AppendRows(role.kind, outputs, bias, source.bias);
    }
    return source;
  }

  // The part's rows out of a tensor that holds these blocks.
  void AppendRows(LinearKind kind, std::span<const OutputBlock> outputs, const TensorView* tensor,
                  std::vector<RowRange>& out) const {
    if (kind == LinearKind::kQkv && spec_.qkv_layout == QkvLayout::kFusedPerHead)
      return AppendHeads(tensor, out);
    std::int64_t begin = 0;
    for (const OutputBlock& block : outputs) {
      out.push_back({tensor, begin + block.first_row, block.rows});
      begin += block.whole_rows;
    }
  }

  // The part's heads out of q, k and v that are interleaved, for q, k and v in that order.
  void AppendHeads(const TensorView* tensor, std::vector<RowRange>& out) const {
    const std::int64_t dim = spec_.head_dim;
    for (std::int64_t which = 0; which < 3; ++which) {
      for (std::int64_t head = part_.heads.begin; head < part_.heads.end(); ++head)
        out.push_back({tensor, (head * 3 + which) * dim, dim});
    }
  }

  const ModelSpec& spec_;
  const Part& part_;
  const Checkpoint& checkpoint_;
  const DType dtype_;
  Device& device_;
  const std::string prefix_;
};

class RandomSource final : public WeightSource {
 public:
  RandomSource(const ModelSpec& spec, const Part& part, DType dtype, Device& device, std::uint64_t seed)
      : spec_(spec), part_(part), dtype_(dtype), device_(device), seed_(seed) {}

  Result<std::unique_ptr<LinearWeights>> Linear(const LinearRole& role,
                                                const LinearScales& /*scales*/) override {
    const LinearPlan plan = PlanOf(spec_, part_, role.kind);
    return device_.RandomLinear(plan.out_features, plan.in_features, plan.bias, dtype_, kStddev, seed_++);
  }

  Result<std::optional<LinearPeaks>> Peaks(const LinearRole& /*role*/) override { return std::nullopt; }

  Result<AlignedBuffer> Table(const TableRole& role) override {
    ASSIGN_OR_RETURN(AlignedBuffer buffer,
                     device_.Allocate(static_cast<std::size_t>(role.rows * role.cols) * sizeof(float)));
    std::fill_n(buffer.as<float>(), role.rows * role.cols, role.fill);
    return buffer;
  }

 private:
  // The initialiser range of both families' releases: activations stay of ordinary size through every layer.
  static constexpr float kStddev = 0.02F;

  const ModelSpec& spec_;
  const Part& part_;
  const DType dtype_;
  Device& device_;
  std::uint64_t seed_;
};

}  // namespace

std::unique_ptr<WeightSource> MakeCheckpointSource(const ModelSpec& spec, const Part& part,
                                                   const Checkpoint& checkpoint, DType dtype,
                                                   Device& device) {
  return std::make_unique<CheckpointSource>(spec, part, checkpoint, dtype, device);
}

std::unique_ptr<WeightSource> MakeRandomSource(const ModelSpec& spec, const Part& part, DType dtype,
                                               Device& device, std::uint64_t seed) {
  return std::make_unique<RandomSource>(spec, part, dtype, device, seed);
}

}  // namespace bloomery
