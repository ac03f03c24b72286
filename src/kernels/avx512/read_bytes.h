// plain header: the read loop that memory bandwidth is measured with.
#pragma once

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

namespace bloomery {
namespace {

inline uint64_t ReadBytes512(const void* from, size_t size_bytes) {
  const char* bytes = static_cast<const char*>(from);
  __m512i sum[4] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(),
                    _mm512_setzero_si512()};
  for (size_t i = 0; i + 256 <= size_bytes; i += 256) {
    for (size_t s = 0; s < 4; ++s) {
      _mm_prefetch(bytes + i + 64 * s + 4096, _MM_HINT_T0);
      sum[s] = _mm512_add_epi64(sum[s], _mm512_loadu_si512(bytes + i + 64 * s));
    }
  }
  const __m512i all = _mm512_add_epi64(_mm512_add_epi64(sum[0], sum[1]), _mm512_add_epi64(sum[2], sum[3]));
  uint64_t lanes[8];
  _mm512_storeu_si512(lanes, all);
  uint64_t total = 0;  // unsigned: may wrap
  for (const uint64_t lane : lanes) total += lane;
  return total;
}

}  // namespace
}  // namespace bloomery
