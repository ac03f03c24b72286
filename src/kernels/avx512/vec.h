// plain header: the vector trait of AVX-512 (F, BW, DQ, VL): 16 f32 lanes in one register.
//
// A trait gives F (16 f32), I (16 int32 sums of an int8 dot), W (one 64-byte step of an int8 panel), X (four
// activations, repeated), N (16 sums of an int4 dot) and the operations below. In an anonymous namespace, so
// that every spine has code of its own and the linker cannot hand AVX-512 instructions to an older CPU.
#pragma once

#include <immintrin.h>

#include "kernels/kernel_table.h"

namespace bloomery {
namespace {

struct Avx512 {
  // F that a loop may sum into: 16 of 32 registers; the rest holds what is multiplied.
  static constexpr int kAccumulators = 16;
  using F = __m512;
  using I = __m512i;
  using W = __m512i;
  struct X {
    __m512i magnitude;
    __mmask64 negative;
  };

  static __mmask16 First(int n) { return static_cast<__mmask16>((1U << static_cast<unsigned>(n)) - 1U); }

  static F Zero() { return _mm512_setzero_ps(); }
  static F Set1(float v) { return _mm512_set1_ps(v); }
  static F Iota() { return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }
  static F Load(const float* from) { return _mm512_loadu_ps(from); }
  static F LoadFirst(const float* from, int n) { return _mm512_maskz_loadu_ps(First(n), from); }
  static F KeepFirst(F v, int n) { return _mm512_maskz_mov_ps(First(n), v); }
  static F LoadF16(const uint16_t* from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  }
  static F LoadBF16(const uint16_t* from) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
  }
  static void LoadBF16Pairs(const char* from, F& even, F& odd) {
    const __m512i pairs = _mm512_loadu_si512(from);
    even = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
    odd = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xFFFF0000U))));
  }
  static void Store(float* to, F v) { _mm512_storeu_ps(to, v); }
  static void StoreFirst(float* to, F v, int n) { _mm512_mask_storeu_ps(to, First(n), v); }
  static void StoreF16(uint16_t* to, F v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                        _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  static void StoreInt8(int8_t* to, F v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v)));
  }
  static void Prefetch(const char* from) { _mm_prefetch(from, _MM_HINT_T0); }

  static F Add(F a, F b) { return _mm512_add_ps(a, b); }
  static F Sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F Mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F Div(F a, F b) { return _mm512_div_ps(a, b); }
  static F Sqrt(F a) { return _mm512_sqrt_ps(a); }
  static F Fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F Max(F a, F b) { return _mm512_max_ps(a, b); }  // b where either is NaN
  static F Min(F a, F b) { return _mm512_min_ps(a, b); }  // b where either is NaN
  static F Abs(F a) { return _mm512_abs_ps(a); }
  static F Round(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static F SelectLess(F a, F b, F yes, F no) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
  }
  // v · 2ⁿ for integral n in [−126, 128].
  static F TimesPow2(F v, F n) { return _mm512_scalef_ps(v, n); }

  // Weights as signed bytes; |x| · sign(x)w in bytes: two products of at most 127·127 fit 16 bits, so the
  // saturating instruction never saturates.
  static I DotStart(int32_t) { return _mm512_setzero_si512(); }
  static W LoadWeights(const char* from) {
    return _mm512_xor_si512(_mm512_loadu_si512(from), _mm512_set1_epi8(static_cast<char>(kWeightOffset)));
  }
  static X Broadcast4(const int8_t* from) {
    int32_t four = 0;
    __builtin_memcpy(&four, from, sizeof(four));
    const __m512i x = _mm512_set1_epi32(four);
    return {_mm512_abs_epi8(x), _mm512_movepi8_mask(x)};
  }
  static I Dot(I sum, W w, X x) {
    const __m512i w_signed = _mm512_mask_sub_epi8(w, x.negative, _mm512_setzero_si512(), w);
    const __m512i pairs = _mm512_maddubs_epi16(x.magnitude, w_signed);
    return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
  }
  // int4: unsigned nibbles · signed activations in 16-bit lanes. 32 values along K put 8 pairs of at most
  // 2·15·127 into a lane: 30480, no overflow.
  using N = I;
  static void LoadNibbles(const char* from, W& low, W& high) {
    const __m512i mask = _mm512_set1_epi8(0x0F);
    const __m512i bytes = _mm512_loadu_si512(from);
    low = _mm512_and_si512(bytes, mask);
    high = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), mask);
  }
  static I Repeat4(const int8_t* from) {
    int32_t four = 0;
    __builtin_memcpy(&four, from, sizeof(four));
    return _mm512_set1_epi32(four);
  }
  static N NibbleZero() { return _mm512_setzero_si512(); }
  static N NibbleDot(N sum, W w, I x) { return _mm512_add_epi16(sum, _mm512_maddubs_epi16(w, x)); }
  static I NibbleSum(N v) { return _mm512_madd_epi16(v, _mm512_set1_epi16(1)); }
  // 16 signed bytes.
  static F LoadInt8(const int8_t* from) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
  }
  // 16 unsigned bytes.
  static F LoadBytes(const char* from) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
  }
  // lane i + lane i + 8, then + 4, + 2, + 1: the same tree as Avx2's.
  static float SumLanes(F v) { return _mm512_reduce_add_ps(v); }
  static float MaxLanes(F v) { return _mm512_reduce_max_ps(v); }
  static F ToFloat(I v) { return _mm512_cvtepi32_ps(v); }
};

}  // namespace
}  // namespace bloomery
