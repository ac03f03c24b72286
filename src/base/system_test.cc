#include "base/system.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <thread>
#include <vector>

namespace bloomery {
namespace {

TEST(System, MemoryAndCoresAreWithinTheMachine) {
  EXPECT_GT(AvailableMemoryBytes(), 16U << 20U);
  EXPECT_GE(UsableCores(), 1);
  EXPECT_LE(UsableCores(), static_cast<int>(std::thread::hardware_concurrency()));
}

TEST(System, NumaNodesAreThoseOfLinux) {
  int nodes = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/sys/devices/system/node")) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("node") && name.size() > 4) ++nodes;
  }
  EXPECT_GE(UsableNumaNodes(), 1);
  EXPECT_LE(UsableNumaNodes(), nodes);
}

TEST(System, PeakRssFollowsAllocation) {
  const std::uint64_t before = PeakRssBytes();
  EXPECT_GT(before, 0U);
  constexpr std::size_t kBytes = 64U << 20U;
  const std::vector<char> touched(kBytes, 1);
  EXPECT_GE(PeakRssBytes() + (4U << 20U), kBytes) << touched[kBytes / 2];
}

}  // namespace
}  // namespace bloomery
