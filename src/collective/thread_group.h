// Ranks that are threads of one process: what tests run a cut model on, and break at will.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

#include "collective/communicator.h"

namespace bloomery {

struct ThreadGroupOptions {
  // Before each call a rank waits a random time, up to this.
  std::chrono::microseconds max_delay{0};
  std::uint64_t seed = 1;
  // This rank is lost at its call number `dies_at_call` (from 0): that call and all later ones of every rank
  // fail. -1: nobody.
  int dying_rank = -1;
  std::int64_t dies_at_call = 0;
};

// One communicator for each of `size` threads, by rank.
std::vector<std::unique_ptr<Communicator>> MakeThreadGroup(int size, const ThreadGroupOptions& options = {});

}  // namespace bloomery
