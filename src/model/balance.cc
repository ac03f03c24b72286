#include "model/balance.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <optional>

namespace bloomery {
namespace {

// Beyond 2¹² either side would leave the range in which f16 checkpoints hold values at all.
constexpr double kMostBits = 12;

std::optional<double> BitsApart(float feature, float weight) {
  if (!(feature > 0 && weight > 0) || !std::isfinite(feature) || !std::isfinite(weight)) return std::nullopt;
  return 0.5 * (std::log2(static_cast<double>(feature)) - std::log2(static_cast<double>(weight)));
}

}  // namespace

std::vector<float> BalanceScales(std::span<const float> features, std::span<const float> weights) {
  assert(features.size() == weights.size());
  double sum = 0;
  int count = 0;
  for (std::size_t k = 0; k < features.size(); ++k) {
    if (const auto bits = BitsApart(features[k], weights[k])) {
      sum += *bits;
      ++count;
    }
  }
  const double mean = count > 0 ? sum / count : 0;
  std::vector<float> scales(features.size(), 1.0F);
  for (std::size_t k = 0; k < features.size(); ++k) {
    if (const auto bits = BitsApart(features[k], weights[k])) {
      const double exponent = std::clamp(std::round(*bits - mean), -kMostBits, kMostBits);
      scales[k] = std::ldexp(1.0F, static_cast<int>(exponent));
    }
  }
  return scales;
}

}  // namespace bloomery
