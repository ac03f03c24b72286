// plain header: what a spine needs to fill its kernel table: the bodies, and the wide/single pair of a linear
// kernel.
#pragma once

#include "kernels/generic/attention_body.h"
#include "kernels/generic/linear_body.h"
#include "kernels/generic/row_body.h"
#include "kernels/kernel_table.h"

namespace bloomery::generic {

template <class V, class Weights, int R, int P>
constexpr LinearKernel FloatKernel() {
  return {R, P, 0, FloatBlock<V, Weights, R, P>, FloatBlock<V, Weights, R, 1>};
}

template <class V, int R, int P>
constexpr LinearKernel Int8Kernel() {
  return {R, P, 4, Int8Block<V, R, P>, Int8Block<V, R, 1>};
}

template <class V, int R, int P>
constexpr LinearKernel Int4Kernel() {
  return {R, P, 4, Int4Block<V, R, P>, Int4Block<V, R, 1>};
}

}  // namespace bloomery::generic
