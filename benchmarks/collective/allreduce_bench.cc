// Our sum over ranks beside Open MPI's, in turns in one run:
//
//   mpirun -n 2 --bind-to none build/release/benchmarks/collective/allreduce_bench
//
// A line a size: median and P99 of each in microseconds, and the ratio of the medians. The last line is the
// barrier: what a call costs that carries nothing.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <vector>

#include "base/system.h"
#include "collective/mpi_communicator.h"

namespace bloomery {
namespace {

using Clock = std::chrono::steady_clock;

struct Times {
  double median = 0;
  double p99 = 0;
};

Times Summarise(std::vector<double> us) {
  std::sort(us.begin(), us.end());
  return {us[us.size() / 2], us[us.size() * 99 / 100]};
}

// Every call begins with all ranks together, as in a step, where each has just computed its share.
template <typename Call>
double Microseconds(Communicator& world, const Call& call) {
  if (!world.Barrier()) std::exit(1);
  const auto start = Clock::now();
  if (!call()) std::exit(1);
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

void Measure(Communicator& world, std::size_t bytes, int rounds) {
  std::vector<float> data(bytes / sizeof(float), 1.0F);
  std::vector<double> ours;
  std::vector<double> theirs;
  for (int round = -rounds / 10; round < rounds; ++round) {
    std::fill(data.begin(), data.end(), 1.0F);
    const double a = Microseconds(world, [&] { return world.AllReduceSum(data); });
    std::fill(data.begin(), data.end(), 1.0F);
    const double b = Microseconds(world, [&] { return AllReduceByMpi(data); });
    if (round < 0) continue;
    ours.push_back(a);
    theirs.push_back(b);
  }
  if (world.rank() != 0) return;
  const Times a = Summarise(std::move(ours));
  const Times b = Summarise(std::move(theirs));
  fmt::print("{:>9} {:>9.1f} {:>9.1f} {:>9.1f} {:>9.1f} {:>9.2f}\n", bytes / 1024, a.median, a.p99, b.median,
             b.p99, b.median / a.median);
}

int Main() {
  auto joined = MakeMpiCommunicator();
  if (!joined) {
    fmt::print(stderr, "{}\n", joined.error().message);
    return 1;
  }
  Communicator& world = **joined;
  const HostRank here = RankOnHost();
  BindToShareOfCores(here.rank, here.ranks);
  if (world.rank() == 0) {
    fmt::print("{} ranks\n{:>9} {:>9} {:>9} {:>9} {:>9} {:>9}\n", world.size(), "KiB", "ours us", "P99",
               "MPI us", "P99", "MPI/ours");
  }
  for (const std::size_t kib : {1UL, 4UL, 16UL, 64UL, 1024UL, 4096UL})
    Measure(world, kib * 1024, kib >= 1024 ? 500 : 5000);
  // One after the other: a single one may find that the others have come already.
  constexpr int kBarriers = 100;
  std::vector<double> barriers;
  for (int round = 0; round < 1000; ++round) {
    const double us = Microseconds(world, [&]() -> Status {
      for (int i = 0; i < kBarriers; ++i) RETURN_IF_ERROR(world.Barrier());
      return {};
    });
    barriers.push_back(us / kBarriers);
  }
  const Times barrier = Summarise(std::move(barriers));
  if (world.rank() == 0) fmt::print("{:>9} {:>9.2f} {:>9.2f}\n", "barrier", barrier.median, barrier.p99);
  return 0;
}

}  // namespace
}  // namespace bloomery

int main() { return bloomery::Main(); }
