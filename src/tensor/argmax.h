// The place of the largest of many values: what greedy decoding makes of a row of logits.
#pragma once

#include <cstdint>
#include <span>

namespace bloomery {

// The first of equals.
std::int32_t Argmax(std::span<const float> scores);

}  // namespace bloomery
