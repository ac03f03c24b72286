#include "kernels/int4.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "kernels/round.h"

namespace bloomery {
namespace {

// Levels are 0 … 15, scale bytes 0 … 255.
constexpr float kTopLevel = 15.0F;
constexpr float kTopByte = 255.0F;

// The range that the levels span is tried at these shares of the group's own range: outer values that are
// rare cost less clamped than a coarser step costs all the others.
constexpr std::array<float, 7> kShrinks = {1.0F, 0.95F, 0.9F, 0.85F, 0.8F, 0.75F, 0.7F};

// One value for each of the panel's 16 lanes: loops over lanes are what the compiler makes vectors of.
using Lanes = std::array<float, kPanelColumns>;

// The values of one group, [32][16].
using Group = std::array<Lanes, kNibbleGroup>;

// A step and a zero per lane: w ≈ step · (q − zero), zero in [0, 15].
struct Levels {
  Lanes step;
  Lanes zero;
};

float LevelOf(float value, float inverse, float zero) {
  return std::clamp(RoundNear(value * inverse + zero), 0.0F, kTopLevel);
}

Lanes Inverse(const Lanes& step) {
  Lanes inverse;
  for (std::size_t i = 0; i < inverse.size(); ++i) inverse[i] = step[i] > kQuantFloor ? 1.0F / step[i] : 0.0F;
  return inverse;
}

Lanes SquaredError(const Group& group, const Levels& levels) {
  const Lanes inverse = Inverse(levels.step);
  Lanes error{};
  for (const Lanes& values : group) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      const float q = LevelOf(values[i], inverse[i], levels.zero[i]);
      const float distance = levels.step[i] * (q - levels.zero[i]) - values[i];
      error[i] += distance * distance;
    }
  }
  return error;
}

// Least squares: the line through the levels that these steps and zeros choose.
Levels Refit(const Group& group, const Levels& levels) {
  const Lanes inverse = Inverse(levels.step);
  Lanes sum_q{};
  Lanes sum_w{};
  Lanes sum_qq{};
  Lanes sum_qw{};
  for (const Lanes& values : group) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      const float q = LevelOf(values[i], inverse[i], levels.zero[i]);
      sum_q[i] += q;
      sum_w[i] += values[i];
      sum_qq[i] += q * q;
      sum_qw[i] += q * values[i];
    }
  }
  Levels refit = levels;
  for (std::size_t i = 0; i < inverse.size(); ++i) {
    constexpr float kCount = kNibbleGroup;
    const float spread = sum_qq[i] - sum_q[i] * sum_q[i] / kCount;
    const float slope = spread > 0 ? (sum_qw[i] - sum_q[i] * sum_w[i] / kCount) / spread : 0.0F;
    if (!(slope > kQuantFloor)) continue;
    refit.step[i] = slope;
    refit.zero[i] = std::clamp((sum_q[i] - sum_w[i] / slope) / kCount, 0.0F, kTopLevel);
  }
  return refit;
}

// The best of several ranges, each refitted once.
Levels ChooseLevels(const Group& group) {
  Lanes low{};  // the range always holds 0, so that zero lies within the levels
  Lanes high{};
  for (const Lanes& values : group) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      low[i] = std::min(low[i], values[i]);
      high[i] = std::max(high[i], values[i]);
    }
  }
  Levels best{};
  Lanes least;
  least.fill(HUGE_VALF);
  for (const float shrink : kShrinks) {
    Levels levels;
    for (std::size_t i = 0; i < low.size(); ++i) {
      levels.step[i] = (high[i] - low[i]) * shrink / kTopLevel;
      levels.zero[i] = levels.step[i] > kQuantFloor ? -low[i] * shrink / levels.step[i] : 0.0F;
    }
    levels = Refit(group, levels);
    const Lanes error = SquaredError(group, levels);
    for (std::size_t i = 0; i < error.size(); ++i) {
      if (!(error[i] < least[i])) continue;
      least[i] = error[i];
      best.step[i] = levels.step[i];
      best.zero[i] = levels.zero[i];
    }
  }
  return best;
}

Group ReadGroup(const PackedShape& shape, const float* rows, std::int64_t first_k) {
  Group group{};
  const std::int64_t count = std::clamp<std::int64_t>(shape.in_features - first_k, 0, kNibbleGroup);
  for (std::size_t lane = 0; lane < kPanelColumns; ++lane) {
    const float* row = rows + static_cast<std::int64_t>(lane) * shape.in_features + first_k;
    for (std::int64_t k = 0; k < count; ++k) group[static_cast<std::size_t>(k)][lane] = row[k];
  }
  return group;
}

// Where 32 values begin: their scale bytes, zero bytes and nibbles.
std::uint8_t* GroupHeader(std::uint8_t* panel, std::int64_t first_k) {
  return panel + first_k / kQuantGroup * kNibbleGroupBytes +
         first_k % kQuantGroup / kNibbleGroup * kPanelColumns;
}

std::size_t NibbleOffset(std::int64_t k, std::size_t lane) {
  const auto in_group = static_cast<std::size_t>(k % kQuantGroup);
  return kNibbleHeaderBytes + (in_group / 8 * kPanelColumns + lane) * 4 + in_group % 4;
}

// Fixes scale and zero bytes, then the levels that suit the rounded ones.
void WriteGroup(const Group& group, const Levels& levels, const Lanes& column_scales, std::int64_t first_k,
                std::uint8_t* panel) {
  std::uint8_t* header = GroupHeader(panel, first_k);
  std::uint8_t* nibbles = panel + first_k / kQuantGroup * kNibbleGroupBytes;
  for (std::size_t lane = 0; lane < kPanelColumns; ++lane) {
    const float scale = column_scales[lane];
    const float byte = scale > 0 ? std::clamp(RoundNear(levels.step[lane] / scale),
                                              levels.step[lane] > 0 ? 1.0F : 0.0F, kTopByte)
                                 : 0.0F;
    const float zero = std::clamp(RoundNear(levels.zero[lane] * kNibbleZeroSteps), 0.0F, kTopByte);
    header[lane] = static_cast<std::uint8_t>(byte);
    header[kNibbleGroups * kPanelColumns + lane] = static_cast<std::uint8_t>(zero);
    const float inverse = byte > 0 ? 1.0F / (scale * byte) : 0.0F;
    for (std::size_t k = 0; k < kNibbleGroup; ++k) {
      const float value = byte > 0 ? group[k][lane] : 0.0F;  // a poisoned row's may be NaN
      const auto q = static_cast<unsigned>(LevelOf(value, inverse, zero / kNibbleZeroSteps));
      std::uint8_t& pair = nibbles[NibbleOffset(first_k + static_cast<std::int64_t>(k), lane)];
      pair = static_cast<std::uint8_t>(k % 8 < 4 ? q : pair | q << 4U);
    }
  }
}

}  // namespace

void WriteInt4Panel(const PackedShape& shape, const float* rows, std::uint8_t* panel, float* scales) {
  const auto groups = static_cast<std::size_t>(shape.k_padded / kNibbleGroup);
  std::vector<Levels> levels(groups);
  Lanes largest{};
  for (std::size_t g = 0; g < groups; ++g) {
    levels[g] = ChooseLevels(ReadGroup(shape, rows, static_cast<std::int64_t>(g) * kNibbleGroup));
    for (std::size_t i = 0; i < largest.size(); ++i) largest[i] = std::max(largest[i], levels[g].step[i]);
  }
  Lanes column_scales;
  for (std::size_t lane = 0; lane < kPanelColumns; ++lane) {
    float poison = 0;  // NaN where the row holds a NaN or an infinity
    const float* row = rows + static_cast<std::int64_t>(lane) * shape.in_features;
    for (std::int64_t k = 0; k < shape.in_features; ++k) poison += row[k] * 0.0F;
    column_scales[lane] = poison == 0 ? largest[lane] / kTopByte : 0.0F;
    scales[lane] = column_scales[lane] + poison;
  }
  for (std::size_t g = 0; g < groups; ++g) {
    const auto first_k = static_cast<std::int64_t>(g) * kNibbleGroup;
    WriteGroup(ReadGroup(shape, rows, first_k), levels[g], column_scales, first_k, panel);
  }
}

float Int4Value(const std::uint8_t* panel, std::int64_t k, int lane) {
  const std::uint8_t* group = panel + k / kQuantGroup * kNibbleGroupBytes;
  const auto header = static_cast<std::size_t>(k % kQuantGroup / kNibbleGroup * kPanelColumns + lane);
  const std::uint8_t pair = group[NibbleOffset(k, static_cast<std::size_t>(lane))];
  const auto q = static_cast<float>(k % 8 < 4 ? pair & 15U : pair >> 4U);
  const auto zero = static_cast<float>(group[kNibbleGroups * kPanelColumns + header]);
  return static_cast<float>(group[header]) * (q - zero / kNibbleZeroSteps);
}

}  // namespace bloomery
