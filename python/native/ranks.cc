#include "native/ranks.h"

#include <sys/prctl.h>

#include <csignal>
#include <cstdlib>

#include "base/system.h"
#include "collective/mpi_communicator.h"

namespace bloomery::python {

Result<std::unique_ptr<RankGroup>> JoinRanks(int tensor_parallel_degree) {
  if (tensor_parallel_degree < 1)
    return Fail(ErrorCode::kInvalidArgument, "tensor_parallel_degree must be at least 1");
  const char* variable = std::getenv("OMPI_COMM_WORLD_SIZE");
  const int started = variable != nullptr ? std::atoi(variable) : 0;
  if (started <= 1 && tensor_parallel_degree == 1) return nullptr;
  if (started != tensor_parallel_degree) {
    return Fail(ErrorCode::kInvalidArgument,
                "tensor_parallel_degree={} needs as many processes, and {}: start the script with "
                "`mpirun -n {} --bind-to none python SCRIPT`",
                tensor_parallel_degree,
                started == 0 ? "mpirun did not start this one" : fmt::format("mpirun started {}", started),
                tensor_parallel_degree);
  }
  // Without mpirun, or its daemon on this host, there is nothing to compute.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  const HostRank here = RankOnHost();
  BindToShareOfCores(here.rank, here.ranks);
  ASSIGN_OR_RETURN(auto world, MakeMpiCommunicator());
  return MakeRankGroup(std::move(world), Grid{tensor_parallel_degree, 1});
}

}  // namespace bloomery::python
