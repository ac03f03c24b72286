#include "cli/ranks.h"

#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "base/system.h"
#include "collective/mpi_communicator.h"
#include "engine/model_runner.h"
#include "model/shards.h"

namespace bloomery {
namespace {

// Of which this process is one; 0: mpirun did not start it.
int RanksStarted() {
  const char* ranks = std::getenv("OMPI_COMM_WORLD_SIZE");
  return ranks != nullptr ? std::atoi(ranks) : 0;
}

std::vector<std::string> OwnCommand() {
  std::ifstream file("/proc/self/cmdline");
  std::vector<std::string> command;
  for (std::string word; std::getline(file, word, '\0');) command.push_back(word);
  return command;
}

}  // namespace

Result<std::vector<std::string>> MpirunCommand(const ModelFlags& flags,
                                               const std::vector<std::string>& command) {
  std::error_code error;
  const auto program = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) return Fail(ErrorCode::kIo, "cannot find this program's file: {}", error.message());
  std::vector<std::string> all = {"mpirun", "-n", std::to_string(flags.grid().size()), "--bind-to", "none"};
  if (flags.hostfile.empty()) {
    // One host: as many ranks as asked for, over shared memory alone.
    all.insert(all.end(), {"--host", fmt::format("localhost:{}", flags.grid().size()), "--mca", "btl",
                           "self,vader", "--mca", "btl_vader_single_copy_mechanism", "none"});
  } else {
    all.insert(all.end(), {"--hostfile", flags.hostfile});
  }
  all.insert(all.end(), flags.mpirun_args.begin(), flags.mpirun_args.end());
  all.push_back(program.string());
  all.insert(all.end(), command.begin() + 1, command.end());
  return all;
}

Status CheckGrid(const ModelFlags& flags, const LoadOptions& options) {
  ASSIGN_OR_RETURN(const ModelSpec spec, SpecOf(options));
  if (options.shape.empty() && ShardSet::Exists(options.directory)) {
    ASSIGN_OR_RETURN(const auto device, MakeDevice(flags));
    RETURN_IF_ERROR(OpenShards(spec, flags.grid(), 0, options.dtype, *device, options.directory,
                               options.open_shard_file));
    return {};
  }
  RETURN_IF_ERROR(CutModel(spec, flags.grid(), 0));
  return {};
}

Status StartRanks(const ModelFlags& flags) {
  if (flags.grid().size() == 1 || RanksStarted() > 0) return {};
  ASSIGN_OR_RETURN(const LoadOptions options, ToLoadOptions(flags));
  RETURN_IF_ERROR(CheckGrid(flags, options));
  ASSIGN_OR_RETURN(const std::vector<std::string> command, MpirunCommand(flags, OwnCommand()));
  AllowMpirunAsRoot();
  if (::isatty(STDERR_FILENO) == 1) ::setenv(kTerminalVariable, "1", 0);
  // Ctrl-C ends ranks at once: there is nothing that they could still do.
  ::setenv("OMPI_MCA_odls_base_sigkill_timeout", "0", 0);
  std::vector<char*> argv;
  for (const std::string& argument : command) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  ::execvp(argv[0], argv.data());
  return Fail(ErrorCode::kNotFound,
              "cannot start mpirun: {}; --tp and --pp need Open MPI (Debian: openmpi-bin)",
              std::strerror(errno));
}

void AllowMpirunAsRoot() {
  if (::geteuid() != 0) return;
  ::setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 0);
  ::setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 0);
}

Result<std::unique_ptr<RankGroup>> JoinRanks(const ModelFlags& flags) {
  if (flags.grid().size() == 1 && RanksStarted() <= 1) return nullptr;
  // mpirun, or its daemon on this host, is the parent: without it there is nothing to compute.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  const HostRank here = RankOnHost();
  BindToShareOfCores(here.rank, here.ranks);
  ASSIGN_OR_RETURN(auto world, MakeMpiCommunicator());
  return MakeRankGroup(std::move(world), flags.grid());
}

Status FollowRankZero(LoadedModel model) {
  return ModelRunner(*model.transformer, *model.kv_cache, model.ranks->world.get()).Follow();
}

}  // namespace bloomery
