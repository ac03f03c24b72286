// Where a part's weights come from: one way to walk a model's tensors (weights.cc), several places to take
// them from.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "checkpoint/checkpoint.h"
#include "model/linear_plan.h"
#include "model/weights.h"
#include "tensor/device.h"

namespace bloomery {

// Factors for a linear layer's inputs and outputs (LinearSource::in_scale, out_scale); empty for none.
struct LinearScales {
  std::vector<float> in;
  std::vector<float> out;
};

// A table of f32 that is used as it is: norms, positions.
struct TableRole {
  std::string tensor;  // name in the checkpoint, after the prefix
  std::string shard;   // name in a set of shards
  std::int64_t rows = 1;
  std::int64_t cols = 0;
  float fill = 0;  // where weights are made up
};

class WeightSource {
 public:
  virtual ~WeightSource() = default;
  virtual Result<std::unique_ptr<LinearWeights>> Linear(const LinearRole& role,
                                                        const LinearScales& scales) = 0;
  // Largest weights of the part, for balancing; nothing where balancing is of no use.
  virtual Result<std::optional<LinearPeaks>> Peaks(const LinearRole& role) = 0;
  virtual Result<AlignedBuffer> Table(const TableRole& role) = 0;
  // The layer's linears are to be left out: they are read when they are needed.
  virtual bool Streams(std::int64_t /*layer*/) const { return false; }
};

// All arguments must outlive the source.
std::unique_ptr<WeightSource> MakeCheckpointSource(const ModelSpec& spec, const Part& part,
                                                   const Checkpoint& checkpoint, DType dtype, Device& device);
std::unique_ptr<WeightSource> MakeRandomSource(const ModelSpec& spec, const Part& part, DType dtype,
                                               Device& device, std::uint64_t seed);

// A layer's norms, and the factors that balance its linear layers against each other (balance.h): where
// weights are balanced, the norms have been divided by what their outputs are multiplied with.
struct LayerBalance {
  NormWeights attention_norm;
  NormWeights ffn_norm;
  LinearScales qkv;
  LinearScales attention_out;
  LinearScales ffn_up;
  LinearScales ffn_down;
};
Result<LayerBalance> BalanceLayer(const ModelSpec& spec, WeightSource& source, std::int64_t layer);

TableRole PositionsTable(const ModelSpec& spec);
// Gain and bias, an RMS norm's gain, or none where the architecture has none.
std::vector<TableRole> NormTables(const ModelSpec& spec, const std::string& tensor, const std::string& shard);
Result<NormWeights> ReadNorm(const ModelSpec& spec, WeightSource& source, const std::string& tensor,
                             const std::string& shard);

Result<LayerLinears> BuildLinears(WeightSource& source, std::int64_t layer, const LayerBalance& balance);

// Walks the part and asks the source for everything in it.
Result<ModelWeights> BuildWeights(const ModelSpec& spec, const Part& part, DType dtype, WeightSource& source,
                                  const LoadProgress& progress);

}  // namespace bloomery
