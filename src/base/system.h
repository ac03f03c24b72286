// What this process may use of the machine: memory under its cgroup, cores under its affinity mask, and what
// it has used so far.
#pragma once

#include <cstdint>

namespace bloomery {

// Bytes that can still be allocated without swapping: the smaller of MemAvailable and what the cgroup (v2 or
// v1) leaves.
std::uint64_t AvailableMemoryBytes();

// High-water mark of resident memory of this process, in bytes (VmHWM).
std::uint64_t PeakRssBytes();

// Cores this process may run on: its affinity mask, further cut by a cgroup CPU quota (rounded up). At
// least 1.
int UsableCores();

// Cores of the machine that are running, whoever may use them.
int MachineCores();

// NUMA nodes with cores this process may run on (hwloc); at least 1.
int UsableNumaNodes();

// Binds this process, and threads that it starts from now on, to one of `shares` equal runs of its cores in
// the order of the machine's topology (hwloc): cores of one NUMA node stay together, and memory touched first
// by them lies there. Where there are fewer cores than shares, several shares are the same core. A CPU quota
// counts as shared equally from then on.
void BindToShareOfCores(int share, int shares);

}  // namespace bloomery
