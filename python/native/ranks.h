// One Python process as one of the ranks that mpirun started.
#pragma once

#include <memory>

#include "base/result.h"
#include "engine/rank_group.h"

namespace bloomery::python {

// Meets the other ranks. Null for a model on one rank. kInvalidArgument where mpirun started another number,
// or has not started this process: Python cannot start itself again, as the program does.
Result<std::unique_ptr<RankGroup>> JoinRanks(int tensor_parallel_degree);

}  // namespace bloomery::python
