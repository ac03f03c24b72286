// A model as a set of shards (checkpoint/shard_set.h): cutting a checkpoint into one, and a rank's weights
// out of one. Which tensor is in which file: docs/formats/shards.md.
#pragma once

#include <filesystem>
#include <functional>
#include <limits>
#include <optional>
#include <string>

#include "base/result.h"
#include "checkpoint/shard_set.h"
#include "model/spec.h"
#include "model/weight_source.h"
#include "model/weights.h"
#include "tensor/device.h"

namespace bloomery {

// The weights of a part, wherever they come from.
using SourceOfPart = std::function<std::unique_ptr<WeightSource>(const Part& part)>;

// Packs a model for `grid` into `directory`, a layer at a time, and verifies what was written. Goes on where
// an earlier call was interrupted. `name`: what tells the weights from others. kCancelled where `progress`
// says so.
Status WriteShards(const ModelSpec& spec, Grid grid, const SourceOfPart& source, const std::string& name,
                   DType dtype, Device& device, const std::filesystem::path& directory,
                   const ShardProgress& progress);

// Whether what was cut for so many tensor ranks can be put together for fewer.
bool ShardsJoin(const ModelSpec& spec, int tensor_ranks);

// Where weights are kept: in memory as far as `memory_bytes` go, the other layers on disk, from where every
// step reads them.
struct Placement {
  std::uint64_t memory_bytes = std::numeric_limits<std::uint64_t>::max();
  bool layers_on_disk = false;  // all of them
};

// What a rank needs from a set: its own files, mapped, or with `open` fetched. kInvalidArgument where the set
// was cut for a number of tensor ranks that is no multiple of the grid's, or is of another dtype or layout.
struct ShardedPart {
  Part part;
  DType dtype = DType::kF32;
  std::shared_ptr<const ShardSet> set;

  // Of the set's tensor ranks, so many are this one's.
  int pieces() const { return set->manifest().tensor_ranks / part.grid.tensor_ranks; }
};
Result<ShardedPart> OpenShards(const ModelSpec& spec, Grid grid, int rank, std::optional<DType> dtype,
                               const Device& device, const std::filesystem::path& directory,
                               const OpenShardFile& open = nullptr);

// Maps, and reads ahead on every thread: nothing is converted or copied but norms and positions. kOutOfMemory
// where not even the layers that are always needed have room.
Result<ModelWeights> LoadShards(const ModelSpec& spec, const ShardedPart& sharded, Device& device,
                                const Placement& placement, const LoadProgress& progress);

}  // namespace bloomery
