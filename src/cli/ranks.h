// The program as several ranks: starting it again under mpirun, and joining what mpirun started.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "cli/options.h"
#include "engine/rank_group.h"

namespace bloomery {

// `command` on every rank that the flags ask for. One host's ranks get no more processors than there are;
// Open MPI binds nothing, JoinRanks does.
Result<std::vector<std::string>> MpirunCommand(const ModelFlags& flags,
                                               const std::vector<std::string>& command);

// Says now, once and with what would do, what every rank would say later: a grid that the model cannot be cut
// for, or that a set of shards does not have.
Status CheckGrid(const ModelFlags& flags, const LoadOptions& options);

// Where the flags ask for several ranks and this process is not one of them: replaces it by mpirun with this
// program on every rank. Returns where there is nothing to start, or with the reason why mpirun cannot be.
Status StartRanks(const ModelFlags& flags);

// Open MPI refuses to start anything as root unless the environment says twice that it may.
void AllowMpirunAsRoot();

// Among several ranks: binds this process to its share of the host's cores and meets the others. Null for one
// rank.
Result<std::unique_ptr<RankGroup>> JoinRanks(const ModelFlags& flags);

// What a rank other than 0 does once it has loaded its part, until rank 0 ends.
Status FollowRankZero(LoadedModel model);

}  // namespace bloomery
