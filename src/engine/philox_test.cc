#include "engine/philox.h"

#include <gtest/gtest.h>

#include <set>

namespace bloomery {
namespace {

// Known answers of Random123's kat_vectors (philox4x32, 10 rounds).
TEST(Philox, KnownAnswers) {
  using Block = std::array<std::uint32_t, 4>;
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}), (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(UniformAt, IsInRangeAndDependsOnEveryArgument) {
  std::set<double> seen;
  for (std::uint64_t seed = 0; seed < 8; ++seed) {
    for (std::uint32_t sequence = 0; sequence < 8; ++sequence) {
      for (std::uint64_t position = 0; position < 64; ++position) {
        const double u = UniformAt(seed, sequence, position);
        EXPECT_GE(u, 0);
        EXPECT_LT(u, 1);
        seen.insert(u);
      }
    }
  }
  EXPECT_EQ(seen.size(), 8U * 8U * 64U);
}

}  // namespace
}  // namespace bloomery
