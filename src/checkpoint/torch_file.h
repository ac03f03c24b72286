// A file written by torch.save (its zip form, the default since 1.6): tensors as views on the mapping.
// Format: docs/formats/torch-zip.md.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "base/byte_source.h"
#include "checkpoint/tensor_map.h"

namespace bloomery {

// `source` must be in memory. Accepts a state_dict, or one inside {"state_dict" | "model" | "module": …}.
// Errors name file, tensor and reason.
Result<TensorMap> ParseTorchFile(const ByteSource& source);

struct ScaledTensor {
  TensorView tensor;
  std::optional<TensorView> scale;
};
using ScaledTensorMap = std::map<std::string, ScaledTensor, std::less<>>;

// The same of a plain dictionary whose values are tensors or, as DeepSpeed-Inference writes them, lists of a
// tensor and its scale.
Result<ScaledTensorMap> ParseScaledTorchFile(const ByteSource& source);

}  // namespace bloomery
