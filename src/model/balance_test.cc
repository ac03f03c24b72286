#include "model/balance.h"

#include <gtest/gtest.h>

#include <cmath>

namespace bloomery {
namespace {

TEST(BalanceScales, LeavesEvenFeaturesAlone) {
  EXPECT_EQ(BalanceScales(std::vector<float>{1.0F, 1.2F, 0.9F}, std::vector<float>{0.02F, 0.021F, 0.019F}),
            (std::vector<float>{1, 1, 1}));
}

TEST(BalanceScales, BringsAnOutlierBackThatWasMadeByScaling) {
  std::vector<float> features(64, 1.0F);
  std::vector<float> weights(64, 1.0F);
  features[1] = 64;
  weights[1] = 1.0F / 64;
  const std::vector<float> scales = BalanceScales(features, weights);
  EXPECT_EQ(scales[1] / scales[0], 64.0F);
}

TEST(BalanceScales, SharesALargeFeatureBetweenBothSides) {
  std::vector<float> features(64, 1.0F);
  features[3] = 64;
  const std::vector<float> scales = BalanceScales(features, std::vector<float>(64, 1.0F));
  EXPECT_EQ(scales[3] / scales[0], 8.0F);
}

TEST(BalanceScales, ArePowersOfTwoWithinBounds) {
  const std::vector<float> features = {0, 1, 1e30F, 1e-30F, HUGE_VALF, std::nanf(""), 7};
  const std::vector<float> scales = BalanceScales(features, std::vector<float>(features.size(), 0.3F));
  for (std::size_t k = 0; k < scales.size(); ++k) {
    int exponent = 0;
    EXPECT_EQ(std::frexp(scales[k], &exponent), 0.5F) << k;
    EXPECT_LE(std::abs(exponent - 1), 12) << k;
  }
  EXPECT_EQ(scales[0], 1.0F);
  EXPECT_EQ(scales[4], 1.0F);
  EXPECT_EQ(scales[5], 1.0F);
}

}  // namespace
}  // namespace bloomery
