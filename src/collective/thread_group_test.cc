#include "collective/thread_group.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "collective/conformance.h"

namespace bloomery {
namespace {

template <typename Body>
void OnEachRank(std::vector<std::unique_ptr<Communicator>>& ranks, Body body) {
  std::vector<std::jthread> threads;
  for (auto& rank : ranks) threads.emplace_back([&body, &rank] { body(*rank); });
}

TEST(ThreadGroupTest, DoesWhatEveryCommunicatorDoes) {
  for (const int size : {1, 2, 3, 5}) {
    auto ranks = MakeThreadGroup(size);
    OnEachRank(ranks, CheckCommunicator);
  }
}

TEST(ThreadGroupTest, DelaysChangeNothing) {
  auto ranks = MakeThreadGroup(3, {.max_delay = std::chrono::microseconds(50)});
  OnEachRank(ranks, CheckCommunicator);
}

TEST(ThreadGroupTest, ALostRankEndsEveryCallOfEveryRank) {
  for (const std::int64_t call : {0, 1, 7, 20}) {
    auto ranks = MakeThreadGroup(3, {.dying_rank = 1, .dies_at_call = call});
    std::atomic<int> ended{0};
    OnEachRank(ranks, [&](Communicator& group) {
      std::vector<float> data(10, 1.0F);
      Status status;
      for (int i = 0; i < 1000 && status; ++i) {
        if (status) status = group.AllReduceSum(data);
        if (status && group.rank() == 0) status = group.Receive(data, 2);
        if (status && group.rank() == 2) status = group.Send(data, 0);
      }
      ASSERT_FALSE(status);
      EXPECT_EQ(status.error().code, ErrorCode::kUnavailable);
      EXPECT_FALSE(group.Barrier());
      ++ended;
    });
    EXPECT_EQ(ended, 3);
  }
}

}  // namespace
}  // namespace bloomery
