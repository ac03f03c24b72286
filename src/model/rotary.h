// Rotary positions (Su et al. 2021, "RoFormer"): what a description and its config.json say about them, and
// the frequencies that follow. Left out: turning the vectors (tensor/device.h).
//
// Of each head's first `dims` features, feature i and feature i + dims/2 are the two coordinates of a point
// that is turned by position · frequency[i]. (Pairs of neighbours, as in GPT-J, are another arrangement and
// not this one.)
#pragma once

#include <cstdint>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace bloomery {

enum class RopeScaling : std::uint8_t {
  kNone,
  kLinear,  // positions divided by the factor
  kLlama3,  // slow frequencies divided by the factor, fast ones kept, a ramp between
};

struct Rotary {
  std::int64_t dims = 0;  // even
  double base = 10000;
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1;
  // kLlama3: wavelengths above original_positions / low_factor are slow, below original_positions /
  // high_factor fast.
  double low_factor = 1;
  double high_factor = 4;
  double original_positions = 8192;
};

// From the fields "rotary_share" (of a head's features; default 1), "rotary_base" (default 10000) and
// "rope_scaling", which is an object as config.json's "rope_scaling" is; where the description has no such
// field, that of `config`, or its "rope_parameters". kUnsupported for a kind of scaling that is not known.
Result<Rotary> ReadRotary(const json::object& fields, const json::object& config, std::int64_t head_dim);

// [dims / 2], in f32 as transformers computes them.
std::vector<float> RotaryFrequencies(const Rotary& rotary);

}  // namespace bloomery
