// A file written by torch.save (its zip form, the default since 1.6): tensors as views on the mapping.
// Format: docs/formats/torch-zip.md.
#pragma once

#include "base/byte_source.h"
#include "checkpoint/tensor_map.h"

namespace bloomery {

// `source` must be in memory. Accepts a state_dict, or one inside {"state_dict" | "model" | "module": …}.
// Errors name file, tensor and reason.
Result<TensorMap> ParseTorchFile(const ByteSource& source);

}  // namespace bloomery
