#include "base/system.h"

#include <hwloc.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

namespace bloomery {
namespace {

constexpr std::uint64_t kUnlimited = std::numeric_limits<std::uint64_t>::max();

std::optional<std::string> FirstLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line)) return std::nullopt;
  return line;
}

// A cgroup limit file: a number, or "max" for none.
std::optional<std::uint64_t> ReadNumber(const std::string& path) {
  const auto line = FirstLine(path);
  if (!line) return std::nullopt;
  if (*line == "max") return kUnlimited;
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(line->data(), line->data() + line->size(), value);
  if (error != std::errc() || end == line->data()) return std::nullopt;
  return value;
}

// "MemAvailable:  123 kB" style files.
std::uint64_t ReadKbField(const std::string& path, const std::string& field) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.rfind(field, 0) == 0) {
      std::istringstream rest(line.substr(field.size()));
      std::uint64_t kilobytes = 0;
      rest >> kilobytes;
      return kilobytes * 1024;
    }
  }
  return 0;
}

// Folder of this process in the unified (v2) hierarchy, "" when there is none.
std::string CgroupV2Folder() {
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("0::", 0) == 0) return "/sys/fs/cgroup" + line.substr(3);
  }
  return "";
}

// A limit set on any ancestor binds too, so the walk goes up to the root of the hierarchy.
std::uint64_t CgroupMemoryLeft() {
  std::uint64_t left = kUnlimited;
  const auto consider = [&left](const std::string& limit_file, const std::string& usage_file) {
    const auto limit = ReadNumber(limit_file);
    const auto usage = ReadNumber(usage_file);
    if (limit && usage && *limit != kUnlimited) left = std::min(left, *limit > *usage ? *limit - *usage : 0);
  };
  for (std::filesystem::path folder = CgroupV2Folder(); folder.string().starts_with("/sys/fs/cgroup");
       folder = folder.parent_path()) {
    consider(folder / "memory.max", folder / "memory.current");
  }
  consider("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes");
  return left;
}

int CgroupCpuQuota() {
  const std::string folder = CgroupV2Folder();
  const auto line = folder.empty() ? std::nullopt : FirstLine(folder + "/cpu.max");
  if (!line) return std::numeric_limits<int>::max();
  std::istringstream fields(*line);
  double quota = 0;
  double period = 0;
  if (!(fields >> quota >> period) || period <= 0) return std::numeric_limits<int>::max();
  return std::max(1, static_cast<int>((quota + period - 1) / period));
}

// Processes that share this one's quota: set by BindToShareOfCores.
std::atomic<int> g_shares_of_quota = 1;

}  // namespace

std::uint64_t AvailableMemoryBytes() {
  return std::min(ReadKbField("/proc/meminfo", "MemAvailable:"), CgroupMemoryLeft());
}

std::uint64_t PeakRssBytes() { return ReadKbField("/proc/self/status", "VmHWM:"); }

int UsableCores() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  const int affinity = sched_getaffinity(0, sizeof(mask), &mask) == 0 ? CPU_COUNT(&mask) : 1;
  return std::max(1, std::min(affinity, CgroupCpuQuota() / g_shares_of_quota));
}

int MachineCores() { return static_cast<int>(std::max(1L, ::sysconf(_SC_NPROCESSORS_ONLN))); }

int UsableNumaNodes() {
  hwloc_topology_t topology = nullptr;
  if (hwloc_topology_init(&topology) != 0) return 1;
  int nodes = 0;
  hwloc_cpuset_t allowed = hwloc_bitmap_alloc();
  if (hwloc_topology_load(topology) == 0 &&
      hwloc_get_cpubind(topology, allowed, HWLOC_CPUBIND_PROCESS) == 0) {
    for (hwloc_obj_t node = nullptr;
         (node = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_NUMANODE, node)) != nullptr;) {
      if (hwloc_bitmap_intersects(node->cpuset, allowed) != 0) ++nodes;
    }
  }
  hwloc_bitmap_free(allowed);
  hwloc_topology_destroy(topology);
  return std::max(1, nodes);
}

void BindToShareOfCores(int share, int shares) {
  g_shares_of_quota = shares;
  hwloc_topology_t topology = nullptr;
  if (hwloc_topology_init(&topology) != 0) return;
  hwloc_cpuset_t allowed = hwloc_bitmap_alloc();
  if (hwloc_topology_load(topology) == 0 &&
      hwloc_get_cpubind(topology, allowed, HWLOC_CPUBIND_PROCESS) == 0) {
    // Processing units in topology order, of those this process may use.
    std::vector<unsigned> cores;
    for (hwloc_obj_t unit = nullptr;
         (unit = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_PU, unit)) != nullptr;) {
      if (hwloc_bitmap_isset(allowed, unit->os_index) != 0) cores.push_back(unit->os_index);
    }
    const auto count = static_cast<int>(cores.size());
    if (shares > 1 && count > 0) {
      const int first = count >= shares ? count * share / shares : share % count;
      const int end = count >= shares ? count * (share + 1) / shares : first + 1;
      hwloc_bitmap_zero(allowed);
      for (int core = first; core < end; ++core)
        hwloc_bitmap_set(allowed, cores[static_cast<std::size_t>(core)]);
      hwloc_set_cpubind(topology, allowed, HWLOC_CPUBIND_PROCESS);
    }
  }
  hwloc_bitmap_free(allowed);
  hwloc_topology_destroy(topology);
}

}  // namespace bloomery
