// plain header: the vector trait of AVX2, FMA and F16C: 16 f32 lanes in two registers. avx512/vec.h says what
// a trait is.
#pragma once

#include <immintrin.h>

#include "kernels/kernel_table.h"

namespace bloomery {
namespace {

struct Avx2 {
  // F that a loop may sum into: 4 × 2 of 16 registers; the rest holds what is multiplied.
  static constexpr int kAccumulators = 4;

  struct F {
    __m256 lo, hi;
  };
  struct I {
    __m256i lo, hi;
  };
  using W = I;
  struct X {
    __m256i value, magnitude;
  };

  // All ones in the first n of 16 lanes.
  static I First(int n) {
    const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return {_mm256_cmpgt_epi32(_mm256_set1_epi32(n), index),
            _mm256_cmpgt_epi32(_mm256_set1_epi32(n - 8), index)};
  }

  static F Zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static F Set1(float v) { return {_mm256_set1_ps(v), _mm256_set1_ps(v)}; }
  static F Iota() {
    return {_mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7), _mm256_setr_ps(8, 9, 10, 11, 12, 13, 14, 15)};
  }
  static F Load(const float* from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
  static F LoadFirst(const float* from, int n) {
    if (n == kPanelColumns) return Load(from);
    const I mask = First(n);
    // A masked load does not touch lanes that are off; the second half starts only where it has one.
    return {_mm256_maskload_ps(from, mask.lo),
            n > 8 ? _mm256_maskload_ps(from + 8, mask.hi) : _mm256_setzero_ps()};
  }
  static F KeepFirst(F v, int n) {
    const I mask = First(n);
    return {_mm256_and_ps(v.lo, _mm256_castsi256_ps(mask.lo)),
            _mm256_and_ps(v.hi, _mm256_castsi256_ps(mask.hi))};
  }
  static F LoadF16(const uint16_t* from) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))),
            _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + 8)))};
  }
  static __m256 Widen(const uint16_t* from) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
  }
  static F LoadBF16(const uint16_t* from) { return {Widen(from), Widen(from + 8)}; }
  static void LoadBF16Pairs(const char* from, F& even, F& odd) {
    const W pairs = {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)),
                     _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + 32))};
    const __m256i high = _mm256_set1_epi32(static_cast<int>(0xFFFF0000U));
    even = {_mm256_castsi256_ps(_mm256_slli_epi32(pairs.lo, 16)),
            _mm256_castsi256_ps(_mm256_slli_epi32(pairs.hi, 16))};
    odd = {_mm256_castsi256_ps(_mm256_and_si256(pairs.lo, high)),
           _mm256_castsi256_ps(_mm256_and_si256(pairs.hi, high))};
  }
  static void Store(float* to, F v) {
    _mm256_storeu_ps(to, v.lo);
    _mm256_storeu_ps(to + 8, v.hi);
  }
  static void StoreFirst(float* to, F v, int n) {
    if (n == kPanelColumns) return Store(to, v);
    const I mask = First(n);
    _mm256_maskstore_ps(to, mask.lo, v.lo);
    if (n > 8) _mm256_maskstore_ps(to + 8, mask.hi, v.hi);
  }
  static void StoreF16(uint16_t* to, F v) {
    constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(v.lo, kNearest));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 8), _mm256_cvtps_ph(v.hi, kNearest));
  }
  static void StoreInt8(int8_t* to, F v) {
    const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(v.lo), _mm256_cvtps_epi32(v.hi));
    const __m256i ordered = _mm256_permute4x64_epi64(words, _MM_SHUFFLE(3, 1, 2, 0));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                     _mm_packs_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1)));
  }
  static void Prefetch(const char* from) { _mm_prefetch(from, _MM_HINT_T0); }

  static F Add(F a, F b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
  static F Sub(F a, F b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
  static F Mul(F a, F b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
  static F Div(F a, F b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
  static F Sqrt(F a) { return {_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)}; }
  static F Fma(F a, F b, F c) {
    return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
  }
  static F Max(F a, F b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
  static F Min(F a, F b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
  static F Abs(F a) {
    const __m256 sign = _mm256_set1_ps(-0.0F);
    return {_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi)};
  }
  static F Round(F a) {
    constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(a.lo, kNearest), _mm256_round_ps(a.hi, kNearest)};
  }
  static F SelectLess(F a, F b, F yes, F no) {
    return {_mm256_blendv_ps(no.lo, yes.lo, _mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ)),
            _mm256_blendv_ps(no.hi, yes.hi, _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ))};
  }
  // v · 2ⁿ for integral n in [−126, 128]; in two factors, because 2¹²⁸ alone would not be finite.
  static __m256 Pow2(__m256i n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
  }
  static __m256 TimesPow2Half(__m256 v, __m256 n) {
    const __m256i whole = _mm256_cvtps_epi32(n);
    const __m256i half = _mm256_srai_epi32(whole, 1);
    return _mm256_mul_ps(_mm256_mul_ps(v, Pow2(half)), Pow2(_mm256_sub_epi32(whole, half)));
  }
  static F TimesPow2(F v, F n) { return {TimesPow2Half(v.lo, n.lo), TimesPow2Half(v.hi, n.hi)}; }

  // Weights as signed bytes; |x| · sign(x)w: see avx512/vec.h for why nothing saturates.
  static I DotStart(int32_t) { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  static W LoadWeights(const char* from) {
    const __m256i offset = _mm256_set1_epi8(static_cast<char>(kWeightOffset));
    return {_mm256_xor_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)), offset),
            _mm256_xor_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + 32)), offset)};
  }
  static X Broadcast4(const int8_t* from) {
    int32_t four = 0;
    __builtin_memcpy(&four, from, sizeof(four));
    const __m256i x = _mm256_set1_epi32(four);
    return {x, _mm256_abs_epi8(x)};
  }
  static __m256i DotHalf(__m256i sum, __m256i w, X x) {
    const __m256i pairs = _mm256_maddubs_epi16(x.magnitude, _mm256_sign_epi8(w, x.value));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  static I Dot(I sum, W w, X x) { return {DotHalf(sum.lo, w.lo, x), DotHalf(sum.hi, w.hi, x)}; }
  // int4: unsigned nibbles · signed activations in 16-bit lanes. 32 values along K put 8 pairs of at most
  // 2·15·127 into a lane: 30480, no overflow.
  using N = I;
  static void LoadNibbles(const char* from, W& low, W& high) {
    const __m256i mask = _mm256_set1_epi8(0x0F);
    const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + 32));
    low = {_mm256_and_si256(a, mask), _mm256_and_si256(b, mask)};
    high = {_mm256_and_si256(_mm256_srli_epi16(a, 4), mask), _mm256_and_si256(_mm256_srli_epi16(b, 4), mask)};
  }
  static I Repeat4(const int8_t* from) {
    int32_t four = 0;
    __builtin_memcpy(&four, from, sizeof(four));
    return {_mm256_set1_epi32(four), _mm256_set1_epi32(four)};
  }
  static N NibbleZero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  static N NibbleDot(N sum, W w, I x) {
    return {_mm256_add_epi16(sum.lo, _mm256_maddubs_epi16(w.lo, x.lo)),
            _mm256_add_epi16(sum.hi, _mm256_maddubs_epi16(w.hi, x.hi))};
  }
  static I NibbleSum(N v) {
    const __m256i ones = _mm256_set1_epi16(1);
    return {_mm256_madd_epi16(v.lo, ones), _mm256_madd_epi16(v.hi, ones)};
  }
  // 16 signed bytes.
  static F LoadInt8(const int8_t* from) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
  }
  // 16 unsigned bytes.
  static F LoadBytes(const char* from) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)),
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8)))};
  }
  // lane i + lane i + 8, then + 4, + 2, + 1.
  static float SumLanes(F v) {
    const __m256 eight = _mm256_add_ps(v.lo, v.hi);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
  }
  static float MaxLanes(F v) {
    const __m256 eight = _mm256_max_ps(v.lo, v.hi);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
  }
  static F ToFloat(I v) { return {_mm256_cvtepi32_ps(v.lo), _mm256_cvtepi32_ps(v.hi)}; }
};

}  // namespace
}  // namespace bloomery
