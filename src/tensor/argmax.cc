#include "tensor/argmax.h"

#include <algorithm>
#include <array>

namespace bloomery {

// Piece by piece: the largest of a piece in as many chains as a register has lanes, its place only where it
// leads.
std::int32_t Argmax(std::span<const float> scores) {
  constexpr std::size_t kLanes = 16;
  constexpr std::size_t kPiece = 64 * kLanes;
  std::size_t best = 0;
  for (std::size_t begin = 0; begin < scores.size(); begin += kPiece) {
    const std::span<const float> piece = scores.subspan(begin, std::min(kPiece, scores.size() - begin));
    std::array<float, kLanes> largest;
    largest.fill(scores[best]);
    std::size_t i = 0;
    for (; i + kLanes <= piece.size(); i += kLanes) {
      for (std::size_t lane = 0; lane < kLanes; ++lane)
        largest[lane] = piece[i + lane] > largest[lane] ? piece[i + lane] : largest[lane];
    }
    for (; i < piece.size(); ++i) largest[0] = std::max(largest[0], piece[i]);
    const float leader = *std::max_element(largest.begin(), largest.end());
    if (!(leader > scores[best])) continue;
    const auto place = std::find(piece.begin(), piece.end(), leader);
    best = begin + static_cast<std::size_t>(place - piece.begin());
  }
  return static_cast<std::int32_t>(best);
}

}  // namespace bloomery
