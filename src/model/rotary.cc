#include "model/rotary.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string_view>

namespace bloomery {
namespace {

// A number that must be there, finite and above zero.
Result<double> Positive(const json::object& object, std::string_view key) {
  ASSIGN_OR_RETURN(const auto value, GetDouble(object, key));
  if (!value || !std::isfinite(*value) || *value <= 0) {
    return Fail(ErrorCode::kInvalidArgument, "{} must be a number above 0, got {}", key, value.value_or(0));
  }
  return *value;
}

Status ReadLlama3(const json::object& scaling, Rotary& rotary) {
  rotary.scaling = RopeScaling::kLlama3;
  ASSIGN_OR_RETURN(rotary.factor, Positive(scaling, "factor"));
  ASSIGN_OR_RETURN(rotary.low_factor, Positive(scaling, "low_freq_factor"));
  ASSIGN_OR_RETURN(rotary.high_factor, Positive(scaling, "high_freq_factor"));
  ASSIGN_OR_RETURN(rotary.original_positions, Positive(scaling, "original_max_position_embeddings"));
  if (rotary.high_factor > rotary.low_factor) return {};
  return Fail(ErrorCode::kInvalidArgument, "high_freq_factor {} must be above low_freq_factor {}",
              rotary.high_factor, rotary.low_factor);
}

// `share` is of a head's features.
Status ReadScaling(const json::object& scaling, Rotary& rotary, double& share) {
  // Newer configurations keep the base, and the share, in here.
  if (scaling.contains("rope_theta")) {
    ASSIGN_OR_RETURN(rotary.base, Positive(scaling, "rope_theta"));
  }
  if (scaling.contains("partial_rotary_factor")) {
    ASSIGN_OR_RETURN(share, Positive(scaling, "partial_rotary_factor"));
  }
  ASSIGN_OR_RETURN(const auto kind, GetString(scaling, scaling.contains("rope_type") ? "rope_type" : "type"));
  if (kind == "default") return {};
  if (kind == "linear") {
    rotary.scaling = RopeScaling::kLinear;
    ASSIGN_OR_RETURN(rotary.factor, Positive(scaling, "factor"));
    return {};
  }
  if (kind == "llama3") return ReadLlama3(scaling, rotary);
  return Fail(ErrorCode::kUnsupported, "\"{}\" is not supported; known: default, linear, llama3",
              kind.value_or(""));
}

// Null where there is none.
const json::value* ScalingOf(const json::object& fields, const json::object& config) {
  const json::value* value = fields.if_contains("rope_scaling");
  for (const std::string_view key : {"rope_scaling", "rope_parameters"}) {
    if (value == nullptr || value->is_null()) value = config.if_contains(key);
  }
  return value != nullptr && value->is_null() ? nullptr : value;
}

}  // namespace

Result<Rotary> ReadRotary(const json::object& fields, const json::object& config, std::int64_t head_dim) {
  Rotary rotary;
  double share = 1;
  if (const json::value* value = fields.if_contains("rotary_share"); value != nullptr && !value->is_null()) {
    ASSIGN_OR_RETURN(share, Positive(fields, "rotary_share"));
  }
  if (const json::value* value = fields.if_contains("rotary_base"); value != nullptr && !value->is_null()) {
    ASSIGN_OR_RETURN(rotary.base, Positive(fields, "rotary_base"));
  }
  if (const json::value* scaling = ScalingOf(fields, config)) {
    if (!scaling->is_object()) return Fail(ErrorCode::kInvalidArgument, "rope_scaling must be an object");
    auto read = ReadScaling(scaling->get_object(), rotary, share);
    if (!read) return WithContext(std::move(read).error(), "rope_scaling");
  }
  if (share > 1) return Fail(ErrorCode::kInvalidArgument, "rotary_share {} is above 1", share);
  rotary.dims = static_cast<std::int64_t>(static_cast<double>(head_dim) * share);
  if (rotary.dims >= 2 && rotary.dims % 2 == 0) return rotary;
  return Fail(ErrorCode::kInvalidArgument,
              "rotary positions turn pairs of features: {} of a head's {} is no even number of them",
              rotary.dims, head_dim);
}

std::vector<float> RotaryFrequencies(const Rotary& rotary) {
  std::vector<float> frequencies;
  const auto base = static_cast<float>(rotary.base);
  const auto factor = static_cast<float>(rotary.factor);
  for (std::int64_t i = 0; i < rotary.dims; i += 2) {
    const float plain = 1.0F / std::pow(base, static_cast<float>(i) / static_cast<float>(rotary.dims));
    if (rotary.scaling == RopeScaling::kNone) {
      frequencies.push_back(plain);
      continue;
    }
    // How far between slow (0) and fast (1).
    const double turns = rotary.original_positions * static_cast<double>(plain) /
                         (2 * std::numbers::pi);  // in the old context
    const double ramp = (turns - rotary.low_factor) / (rotary.high_factor - rotary.low_factor);
    const auto fast =
        rotary.scaling == RopeScaling::kLinear ? 0.0F : static_cast<float>(std::clamp(ramp, 0.0, 1.0));
    frequencies.push_back((1.0F - fast) * plain / factor + fast * plain);
  }
  return frequencies;
}

}  // namespace bloomery
