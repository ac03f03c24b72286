// Ranks that Open MPI started. Where all of a group are on one host, everything goes through memory that they
// share (shared_segment.h); Open MPI carries what goes between hosts.
#pragma once

#include <memory>

#include "base/result.h"
#include "collective/communicator.h"

namespace bloomery {

// All ranks that mpirun started, this process among them; alone where it was not started by mpirun. Each call
// is collective and makes a group of its own. MPI, unless somebody else in the process has started it, is
// ended with the process. kUnavailable where MPI cannot be used.
Result<std::unique_ptr<Communicator>> MakeMpiCommunicator();

// Which of the ranks on this host this process is, as mpirun told it; one of one without mpirun.
struct HostRank {
  int rank = 0;
  int ranks = 1;
};
HostRank RankOnHost();

// Open MPI's own allreduce over the same ranks, to measure ours against.
Status AllReduceByMpi(std::span<float> data);

}  // namespace bloomery
