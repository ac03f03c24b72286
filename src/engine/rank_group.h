// The ranks that hold a model together, as one of them sees the others.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "collective/communicator.h"
#include "model/partition.h"
#include "model/transformer.h"

namespace bloomery {

struct RankGroup {
  Grid grid;
  std::unique_ptr<Communicator> world;
  std::unique_ptr<Communicator> tensor;    // this stage's ranks
  std::unique_ptr<Communicator> pipeline;  // this tensor rank's stages, the last first

  Peers peers() const {
    return {.tensor = grid.tensor_ranks > 1 ? tensor.get() : nullptr,
            .pipeline = grid.stages > 1 ? pipeline.get() : nullptr};
  }
};

// Collective. kInvalidArgument where `world` has another size than the grid.
Result<std::unique_ptr<RankGroup>> MakeRankGroup(std::unique_ptr<Communicator> world, Grid grid);

// Every rank's text, by rank, on every rank. Collective.
Result<std::vector<std::string>> GatherTexts(Communicator& world, const std::string& mine);

// An error that any rank has, on every rank: its own where it has one. Collective.
Status AgreeOnStatus(Communicator& world, const Status& mine);

}  // namespace bloomery
