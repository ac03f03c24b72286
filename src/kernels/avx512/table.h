// plain header: the kernel table of the spines with 512-bit registers, over their vector trait V.
#pragma once

#include "kernels/avx512/read_bytes.h"
#include "kernels/generic/table_body.h"

namespace bloomery {
namespace {

template <class V>
constexpr KernelTable Table512() {
  return {
      .linear = {{.few = {generic::FloatKernel<V, generic::F32Weights<V>, 8, 2>(),
                          generic::FloatKernel<V, generic::F32Weights<V>, 4, 4>(),
                          generic::FloatKernel<V, generic::F32Weights<V>, 2, 4>(),
                          generic::FloatKernel<V, generic::F32Weights<V>, 1, 4>()},
                  .many = generic::FloatKernel<V, generic::F32Weights<V>, 12, 2>()},
                 {.few = {generic::FloatKernel<V, generic::F16Weights<V>, 8, 2>(),
                          generic::FloatKernel<V, generic::F16Weights<V>, 4, 4>(),
                          generic::FloatKernel<V, generic::F16Weights<V>, 2, 4>(),
                          generic::FloatKernel<V, generic::F16Weights<V>, 1, 4>()},
                  .many = generic::FloatKernel<V, generic::F16Weights<V>, 12, 2>()},
                 {.few = {generic::FloatKernel<V, generic::BF16Weights<V>, 8, 2>(),
                          generic::FloatKernel<V, generic::BF16Weights<V>, 4, 4>(),
                          generic::FloatKernel<V, generic::BF16Weights<V>, 2, 4>(),
                          generic::FloatKernel<V, generic::BF16Weights<V>, 1, 4>()},
                  .many = generic::FloatKernel<V, generic::BF16Weights<V>, 12, 2>()},
                 {.few = {generic::Int8Kernel<V, 16, 1>(), generic::Int8Kernel<V, 12, 2>(),
                          generic::Int8Kernel<V, 8, 1>(), generic::Int8Kernel<V, 4, 1>(),
                          generic::Int8Kernel<V, 2, 1>(), generic::Int8Kernel<V, 1, 1>()},
                  .many = generic::Int8Kernel<V, 12, 2>()},
                 {.few = {generic::Int4Kernel<V, 8, 1>(), generic::Int4Kernel<V, 4, 1>(),
                          generic::Int4Kernel<V, 2, 1>(), generic::Int4Kernel<V, 1, 1>()},
                  .many = generic::Int4Kernel<V, 4, 2>()}},
      .epilogue = generic::Epilogue<V>,
      .quantize_row = generic::Quantize<V>,
      .round_row = nullptr,
      .layer_norm_row = generic::LayerNorm<V>,
      .rms_norm_row = generic::RmsNorm<V>,
      .gate_row = generic::Gate<V>,
      .rotate_row = generic::Rotate<V>,
      .attention = {generic::Attention<V, generic::F32Cache<V>>, generic::Attention<V, generic::F16Cache<V>>,
                    generic::Attention<V, generic::BF16Cache<V>>,
                    generic::Attention<V, generic::Int8Cache<V>>},
      .f32_to_f16 = generic::F32ToF16Row<V>,
      .f16_to_f32 = generic::F16ToF32Row<V>,
      .read_bytes = ReadBytes512,
  };
}

}  // namespace
}  // namespace bloomery
