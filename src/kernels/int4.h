// Choosing int4 weights: the scale, the zero and the sixteen levels of every 32 values along K, by least
// squares. Left out: the layout (kernel_table.h) and multiplying with it (generic/linear_body.h).
#pragma once

#include <cstdint>

#include "kernels/packed_linear.h"

namespace bloomery {

// rows: [16][in_features] f32, rows past the last feature zero. Writes one panel in int4's layout, padding
// included, and its 16 column scales. A row with a NaN or an infinity gets a NaN scale, so that a broken
// checkpoint shows.
void WriteInt4Panel(const PackedShape& shape, const float* rows, std::uint8_t* panel, float* scales);

// Value k of lane `lane` of an int4 panel, before the column's scale.
float Int4Value(const std::uint8_t* panel, std::int64_t k, int lane);

}  // namespace bloomery
