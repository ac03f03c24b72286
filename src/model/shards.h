// A model as a set of shards (checkpoint/shard_set.h): cutting a checkpoint into one, and a rank's weights
// out of one. Which tensor is in which file: docs/formats/shards.md.
#pragma once

#include <filesystem>
#include <string>

#include "base/result.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/shard_set.h"
#include "model/spec.h"
#include "model/weights.h"
#include "tensor/device.h"

namespace bloomery {

// Packs `checkpoint` for `grid` into `directory`, a layer at a time, and verifies what was written. Goes on
// where an earlier call was interrupted. `source`: what identifies the checkpoint. kCancelled where
// `progress` says so.
Status WriteShards(const ModelSpec& spec, Grid grid, const Checkpoint& checkpoint, const std::string& source,
                   DType dtype, Device& device, const std::filesystem::path& directory,
                   const ShardProgress& progress);

// What a rank needs from a set: its own files, mapped. kInvalidArgument where the set was cut for a number of
// tensor ranks that is no multiple of the grid's, or is of another dtype or layout.
struct ShardedPart {
  Part part;
  DType dtype = DType::kF32;
  std::shared_ptr<const ShardSet> set;
};
Result<ShardedPart> OpenShards(const ModelSpec& spec, Grid grid, int rank, std::optional<DType> dtype,
                               const Device& device, const std::filesystem::path& directory);

// Maps, and reads ahead on every thread: nothing is converted or copied but norms and positions.
Result<ModelWeights> LoadShards(const ModelSpec& spec, const ShardedPart& sharded, Device& device,
                                const LoadProgress& progress);

}  // namespace bloomery
