#include "native/ranks.h"

#include <sys/prctl.h>

#include <csignal>
#include <cstdlib>
#include <mutex>

#include "base/system.h"
#include "collective/mpi_communicator.h"

namespace bloomery::python {

Result<std::unique_ptr<RankGroup>> JoinRanks(int tensor_parallel_degree) {
  if (tensor_parallel_degree < 1)
    return Fail(ErrorCode::kInvalidArgument, "tensor_parallel_degree must be at least 1");
  const char* variable = std::getenv("OMPI_COMM_WORLD_SIZE");
  const int started = variable != nullptr ? std::atoi(variable) : 0;
  if (started <= 1 && tensor_parallel_degree == 1) return nullptr;
  if (started == 0) {
    return Fail(
        ErrorCode::kInvalidArgument,
        "tensor_parallel_degree={} needs as many processes, and mpirun did not start this one: start the "
        "script with `mpirun -n {} --bind-to none python SCRIPT`, or a server of the model.py with --tp {}",
        tensor_parallel_degree, tensor_parallel_degree, tensor_parallel_degree);
  }
  if (started != tensor_parallel_degree) {
    return Fail(ErrorCode::kInvalidArgument,
                "mpirun started {} ranks, and tensor_parallel_degree is {}: both must be the same", started,
                tensor_parallel_degree);
  }
  // Without mpirun, or its daemon on this host, there is nothing to compute.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  // Once: another model of this process has the same share, not a share of it.
  static std::once_flag bound;
  std::call_once(bound, [] {
    const HostRank here = RankOnHost();
    BindToShareOfCores(here.rank, here.ranks);
  });
  ASSIGN_OR_RETURN(auto world, MakeMpiCommunicator());
  return MakeRankGroup(std::move(world), Grid{tensor_parallel_degree, 1});
}

}  // namespace bloomery::python
