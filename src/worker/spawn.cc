#include "worker/spawn.h"

#include <spawn.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>

namespace bloomery {
namespace {

std::vector<std::string> Environment(const Variables& variables) {
  std::vector<std::string> all;
  for (const auto& [name, value] : variables) all.push_back(name + "=" + value);
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text(*entry);
    const std::string_view name = text.substr(0, text.find('='));
    const bool replaced =
        std::any_of(variables.begin(), variables.end(), [&](const auto& one) { return one.first == name; });
    if (!replaced) all.emplace_back(text);
  }
  return all;
}

std::vector<char*> Pointers(std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (std::string& text : texts) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

}  // namespace

Result<pid_t> SpawnProcess(const SpawnOptions& options) {
  std::vector<std::string> command = options.command;
  std::vector<std::string> environment = Environment(options.variables);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  // dup2 clears close-on-exec on the copy, and posix_spawn does so too where both are the same descriptor
  // (POSIX.1-2024).
  for (const auto& [ours, theirs] : options.descriptors)
    posix_spawn_file_actions_adddup2(&actions, ours, theirs);
  // What libraries open without close-on-exec, clients' connections for one, is not the child's.
  int first_unused = STDERR_FILENO + 1;
  for (const auto& [ours, theirs] : options.descriptors) first_unused = std::max(first_unused, theirs + 1);
  posix_spawn_file_actions_addclosefrom_np(&actions, first_unused);
  if (!options.directory.empty()) posix_spawn_file_actions_addchdir_np(&actions, options.directory.c_str());
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
  posix_spawnattr_setpgroup(&attributes, 0);
  pid_t pid = -1;
  const int failed = posix_spawnp(&pid, command.front().c_str(), &actions, &attributes,
                                  Pointers(command).data(), Pointers(environment).data());
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  if (failed != 0)
    return Fail(failed == ENOENT ? ErrorCode::kNotFound : ErrorCode::kIo, "cannot start {}: {}",
                options.command.front(), std::strerror(failed));
  return pid;
}

Variables OpenMpiFolder(const std::filesystem::path& folder) {
  Variables variables;
  for (const char* name : {"orte_tmpdir_base", "btl_vader_backing_directory", "osc_sm_backing_directory",
                           "shmem_mmap_backing_file_base_dir"}) {
    variables.emplace_back(std::string("OMPI_MCA_") + name, folder.string());
  }
  return variables;
}

}  // namespace bloomery
