#include "collective/conformance.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>

namespace bloomery {
namespace {

// A value of rank `rank` at `i` in round `round`, of many sizes, so that the order of a sum shows in its
// bits.
float Value(int rank, std::size_t i, int round) {
  const auto mixed =
      static_cast<std::uint32_t>(rank * 7919 + round * 104729) + static_cast<std::uint32_t>(i) * 2654435761U;
  return std::ldexp(1.0F + static_cast<float>(mixed % 1000) / 1000.0F,
                    static_cast<int>(mixed / 1000 % 24) - 12) *
         (mixed % 2 == 0 ? 1.0F : -1.0F);
}

std::vector<float> Values(int rank, std::size_t count, int round) {
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i) values[i] = Value(rank, i, round);
  return values;
}

// Sizes around those at which an implementation may change its ways.
constexpr std::size_t kCounts[] = {1, 3, 16, 1000, 4096, 16384, 65536, 65537, 200001};

void CheckSums(Communicator& group) {
  int round = 0;
  for (const std::size_t count : kCounts) {
    for (int repeat = 0; repeat < 3; ++repeat, ++round) {
      std::vector<float> data = Values(group.rank(), count, round);
      ASSERT_TRUE(group.AllReduceSum(data));
      std::size_t wrong = 0;
      for (std::size_t i = 0; i < count; ++i) {
        float sum = Value(0, i, round);
        for (int rank = 1; rank < group.size(); ++rank) sum += Value(rank, i, round);
        wrong += std::memcmp(&sum, &data[i], sizeof(float)) != 0 ? 1 : 0;
      }
      ASSERT_EQ(wrong, 0U) << "of " << count << " sums, not added in the order of the ranks";
    }
  }
}

void CheckBroadcasts(Communicator& group) {
  for (const std::size_t size : {0UL, 1UL, 100UL, 300'000UL, 3'000'001UL}) {
    for (int root = 0; root < group.size(); ++root) {
      std::vector<std::byte> expected(size);
      for (std::size_t i = 0; i < size; ++i)
        expected[i] = static_cast<std::byte>(i * 31 + static_cast<std::size_t>(root));
      std::vector<std::byte> message = group.rank() == root ? expected : std::vector<std::byte>(7);
      ASSERT_TRUE(group.Broadcast(message, root));
      ASSERT_TRUE(message == expected) << size << " bytes from rank " << root;
    }
  }
}

void CheckGathers(Communicator& group) {
  int round = 1000;
  for (const std::size_t count : kCounts) {
    const int root = round % group.size();
    std::vector<float> all(group.rank() == root ? count * static_cast<std::size_t>(group.size()) : 0);
    ASSERT_TRUE(group.Gather(Values(group.rank(), count, round), all, root));
    for (int rank = 0; !all.empty() && rank < group.size(); ++rank) {
      const auto begin = all.begin() + static_cast<std::ptrdiff_t>(count) * rank;
      ASSERT_TRUE(std::vector<float>(begin, begin + static_cast<std::ptrdiff_t>(count)) ==
                  Values(rank, count, round))
          << "of rank " << rank << ", " << count;
    }
    ++round;
  }
}

// Round and round: rank 0 begins, the others pass on what they got.
void CheckMessages(Communicator& group) {
  constexpr int kRounds = 5;
  for (const std::size_t count : {1UL, 1000UL, 300'000UL}) {
    const int next = (group.rank() + 1) % group.size();
    const int before = (group.rank() + group.size() - 1) % group.size();
    for (int round = 0; round < kRounds; ++round) {
      std::vector<float> data = Values(0, count, round);
      ASSERT_TRUE(group.rank() != 0 || group.Send(data, next));
      std::fill(data.begin(), data.end(), 0.0F);  // the caller's again
      ASSERT_TRUE(group.Receive(data, before));
      ASSERT_TRUE(data == Values(0, count, round)) << "message " << round << " of " << count;
      ASSERT_TRUE(group.rank() == 0 || group.Send(data, next));
    }
    // Small ones do not wait for each other, in whatever order they are received.
    ASSERT_TRUE(group.Send(Values(group.rank(), 10, 0), next));
    std::vector<float> data(10);
    ASSERT_TRUE(group.Receive(data, before));
    ASSERT_TRUE(data == Values(before, 10, 0));
  }
}

void CheckSplits(Communicator& group) {
  for (int repeat = 0; repeat < 2; ++repeat) {
    auto part = group.Split(group.rank() % 2);
    ASSERT_TRUE(part);
    EXPECT_EQ((*part)->rank(), group.rank() / 2);
    EXPECT_EQ((*part)->size(), (group.size() + 1 - group.rank() % 2) / 2);
    // Both parts at work, not in step with each other.
    for (int round = 0; round <= group.rank() % 2 + 2; ++round) {
      std::vector<float> data(5, 1.0F);
      ASSERT_TRUE((*part)->AllReduceSum(data));
      EXPECT_EQ(data.front(), static_cast<float>((*part)->size()));
    }
    ASSERT_TRUE(group.Barrier());
  }
}

}  // namespace

void CheckCommunicator(Communicator& group) {
  CheckSums(group);
  CheckBroadcasts(group);
  CheckGathers(group);
  if (group.size() > 1) CheckMessages(group);
  CheckSplits(group);
  // Kinds of calls in turn, many times: buffers are used again by another kind.
  for (int round = 0; round < 200; ++round) {
    std::vector<float> data = {1.0F, static_cast<float>(round)};
    ASSERT_TRUE(group.AllReduceSum(data));
    ASSERT_EQ(data[1], static_cast<float>(round * group.size()));
    std::vector<std::byte> message(static_cast<std::size_t>(group.rank() == 0 ? round : 0));
    ASSERT_TRUE(group.Broadcast(message, 0));
    ASSERT_EQ(message.size(), static_cast<std::size_t>(round));
    std::vector<float> all(static_cast<std::size_t>(2 * group.size()));
    ASSERT_TRUE(group.Gather(data, all, 0));
    ASSERT_TRUE(round % 50 != 0 || group.Barrier());
  }
}

}  // namespace bloomery
