#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <chrono>
#include <numeric>

namespace bloomery {
namespace {

class ThreadPoolTest : public testing::TestWithParam<int> {};

TEST_P(ThreadPoolTest, RunsEachThreadOncePerSection) {
  ThreadPool pool(GetParam());
  std::vector<int> calls(static_cast<std::size_t>(pool.threads()), 0);
  for (int section = 0; section < 2000; ++section) {
    pool.Run([&](int thread) { ++calls[static_cast<std::size_t>(thread)]; });
  }
  for (const int count : calls) EXPECT_EQ(count, 2000);
}

TEST_P(ThreadPoolTest, ParallelForCoversEveryIndexOnceInAlignedChunks) {
  ThreadPool pool(GetParam());
  for (const std::int64_t count : {0, 1, 7, 64, 1000}) {
    std::vector<int> hits(static_cast<std::size_t>(count), 0);
    pool.ParallelFor(count, 16, [&](std::int64_t begin, std::int64_t end) {
      EXPECT_EQ(begin % 16, 0);
      EXPECT_LE(end - begin, 16);
      for (std::int64_t i = begin; i < end; ++i) ++hits[static_cast<std::size_t>(i)];
    });
    EXPECT_EQ(std::accumulate(hits.begin(), hits.end(), std::int64_t{0}), count);
    for (const int hit : hits) EXPECT_EQ(hit, 1);
  }
}

TEST_P(ThreadPoolTest, ParallelStreamCoversEveryIndexOnce) {
  ThreadPool pool(GetParam());
  for (const std::int64_t count : {0, 1, 7, 64, 1000}) {
    std::vector<int> hits(static_cast<std::size_t>(count), 0);
    pool.ParallelStream(count, [&](int thread, std::int64_t index) {
      EXPECT_LT(thread, pool.threads());
      ++hits[static_cast<std::size_t>(index)];
    });
    for (const int hit : hits) EXPECT_EQ(hit, 1);
  }
}

TEST_P(ThreadPoolTest, ParallelStreamLeavesNothingToASlowThread) {
  ThreadPool pool(GetParam());
  std::atomic<int> done{0};
  pool.ParallelStream(64, [&](int, std::int64_t index) {
    // The first index lasts until all others are done.
    while (index == 0 && pool.threads() > 1 && done.load() < 63) std::this_thread::yield();
    done.fetch_add(1);
  });
  EXPECT_EQ(done.load(), 64);
}

TEST_P(ThreadPoolTest, WorksAgainAfterParking) {
  ThreadPool pool({.threads = GetParam(), .pin = true, .spin_us = 1});
  std::atomic<int> total{0};
  for (int i = 0; i < 3; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    pool.Run([&](int) { total.fetch_add(1); });
  }
  EXPECT_EQ(total.load(), 3 * pool.threads());
}

INSTANTIATE_TEST_SUITE_P(Threads, ThreadPoolTest, testing::Values(1, 2, 3, 8));

}  // namespace
}  // namespace bloomery
