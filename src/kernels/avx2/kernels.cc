// The AVX2 spine. 16 registers hold R·P·2 accumulators (a panel is two registers), the weights of a step and
// one broadcast activation: 12 accumulators at most.
#include "kernels/avx2/vec.h"
#include "kernels/generic/table_body.h"

namespace bloomery {
namespace {

using V = Avx2;

uint64_t ReadBytes(const void* from, size_t size_bytes) {
  const char* bytes = static_cast<const char*>(from);
  __m256i sum[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(),
                    _mm256_setzero_si256()};
  for (size_t i = 0; i + 128 <= size_bytes; i += 128) {
    _mm_prefetch(bytes + i + 4096, _MM_HINT_T0);
    _mm_prefetch(bytes + i + 4160, _MM_HINT_T0);
    for (size_t s = 0; s < 4; ++s) {
      const __m256i value = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes + i + 32 * s));
      sum[s] = _mm256_add_epi64(sum[s], value);
    }
  }
  const __m256i all = _mm256_add_epi64(_mm256_add_epi64(sum[0], sum[1]), _mm256_add_epi64(sum[2], sum[3]));
  uint64_t lanes[4];
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), all);
  return lanes[0] + lanes[1] + lanes[2] + lanes[3];
}

}  // namespace

const KernelTable kAvx2Kernels = {
    .linear = {{.few = {generic::FloatKernel<V, generic::F32Weights<V>, 6, 1>(),
                        generic::FloatKernel<V, generic::F32Weights<V>, 4, 1>(),
                        generic::FloatKernel<V, generic::F32Weights<V>, 2, 2>(),
                        generic::FloatKernel<V, generic::F32Weights<V>, 1, 4>()},
                .many = generic::FloatKernel<V, generic::F32Weights<V>, 6, 1>()},
               {.few = {generic::FloatKernel<V, generic::F16Weights<V>, 6, 1>(),
                        generic::FloatKernel<V, generic::F16Weights<V>, 4, 1>(),
                        generic::FloatKernel<V, generic::F16Weights<V>, 2, 2>(),
                        generic::FloatKernel<V, generic::F16Weights<V>, 1, 4>()},
                .many = generic::FloatKernel<V, generic::F16Weights<V>, 6, 1>()},
               {.few = {generic::FloatKernel<V, generic::BF16Weights<V>, 4, 1>(),
                        generic::FloatKernel<V, generic::BF16Weights<V>, 2, 2>(),
                        generic::FloatKernel<V, generic::BF16Weights<V>, 1, 2>()},
                .many = generic::FloatKernel<V, generic::BF16Weights<V>, 4, 1>()},
               {.few = {generic::Int8Kernel<V, 4, 1>(), generic::Int8Kernel<V, 2, 1>(),
                        generic::Int8Kernel<V, 1, 1>()},
                .many = generic::Int8Kernel<V, 4, 1>()},
               {.few = {generic::Int4Kernel<V, 4, 1>(), generic::Int4Kernel<V, 2, 1>(),
                        generic::Int4Kernel<V, 1, 1>()},
                .many = generic::Int4Kernel<V, 4, 1>()}},
    .epilogue = generic::Epilogue<V>,
    .quantize_row = generic::Quantize<V>,
    .round_row = nullptr,
    .layer_norm_row = generic::LayerNorm<V>,
    .rms_norm_row = generic::RmsNorm<V>,
    .gate_row = generic::Gate<V>,
    .rotate_row = generic::Rotate<V>,
    .attention = {generic::Attention<V, generic::F32Cache<V>>, generic::Attention<V, generic::F16Cache<V>>,
                  generic::Attention<V, generic::BF16Cache<V>>, generic::Attention<V, generic::Int8Cache<V>>},
    .f32_to_f16 = generic::F32ToF16Row<V>,
    .f16_to_f32 = generic::F16ToF32Row<V>,
    .read_bytes = ReadBytes,
};

}  // namespace bloomery
