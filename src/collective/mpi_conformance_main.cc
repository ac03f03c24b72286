// The checks that every communicator passes, on ranks that mpirun started: each runs them, and fails as a
// whole where one does.
#include <gtest/gtest.h>

#include "collective/conformance.h"
#include "collective/mpi_communicator.h"

namespace bloomery {
namespace {

std::unique_ptr<Communicator> g_world;

TEST(MpiCommunicatorTest, DoesWhatEveryCommunicatorDoes) { CheckCommunicator(*g_world); }

}  // namespace
}  // namespace bloomery

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  auto world = bloomery::MakeMpiCommunicator();
  if (!world) return 1;
  bloomery::g_world = *std::move(world);
  auto& listeners = testing::UnitTest::GetInstance()->listeners();
  if (bloomery::g_world->rank() > 0) delete listeners.Release(listeners.default_result_printer());
  const int failed = RUN_ALL_TESTS();
  bloomery::g_world.reset();
  return failed;
}
