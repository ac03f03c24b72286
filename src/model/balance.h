// Moves size between activations and weights before the weights are rounded to integers, where that changes
// nothing else.
//
// Some features of large models are tens of times larger than the rest (LLM.int8(), Dettmers et al. 2022).
// One of them makes the integer step of its whole group too coarse for its neighbours; and the weights that
// multiply it are as much smaller, and vanish beside those of other inputs. Where an activation is linear in
// something that we hold (a norm's gain and bias, the rows of the linear layer before), feature k can be
// divided by s[k] there and column k of the weights multiplied by it (SmoothQuant, Xiao et al. 2023, with its
// α = ½). No data is needed: what the features will be is estimated from the parameters that make them. Every
// s[k] is a power of two, so nothing is rounded.
#pragma once

#include <span>
#include <vector>

namespace bloomery {

// s[k] for features whose magnitudes are in proportion to `features` and the largest weight of which is
// `weights` ([features] both): √(features/weights), brought to a geometric mean of 1 and rounded to a power
// of two. Features or weights that are zero or no finite numbers keep s = 1.
std::vector<float> BalanceScales(std::span<const float> features, std::span<const float> weights);

}  // namespace bloomery
