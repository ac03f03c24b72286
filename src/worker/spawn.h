// Starting a child process: its descriptors, environment and directory. Left out: watching and ending it.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"

namespace bloomery {

using Variables = std::vector<std::pair<std::string, std::string>>;

struct SpawnOptions {
  std::vector<std::string> command;  // the program is looked for in PATH
  std::vector<std::pair<int, int>>
      descriptors;                  // of ours, and as which the child has it; no others but 0 to 2
  Variables variables;              // in place of ours of that name
  std::filesystem::path directory;  // empty: ours
};

// The child leads a process group of its own: Ctrl-C in a terminal reaches the gateway alone, which then
// drains. kNotFound, kIo.
Result<pid_t> SpawnProcess(const SpawnOptions& options);

// Where Open MPI keeps its files: by default in places that a killed mpirun leaves them in.
Variables OpenMpiFolder(const std::filesystem::path& folder);

}  // namespace bloomery
