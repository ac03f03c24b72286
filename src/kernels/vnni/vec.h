// plain header: the vector trait of AVX-512 with VNNI: Avx512 with int8 dot products in one instruction.
#pragma once

#include "kernels/avx512/vec.h"

namespace bloomery {
namespace {

struct Vnni : Avx512 {
  using X = __m512i;

  // vpdpbusd multiplies unsigned (w + 128) by signed x; the sum starts at −128·Σx, which takes the offset
  // out.
  static I DotStart(int32_t offset) { return _mm512_set1_epi32(offset); }
  static W LoadWeights(const char* from) { return _mm512_loadu_si512(from); }
  static X Broadcast4(const int8_t* from) {
    int32_t four = 0;
    __builtin_memcpy(&four, from, sizeof(four));
    return _mm512_set1_epi32(four);
  }
  static I Dot(I sum, W w, X x) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));
    return sum;
  }

  // Nibbles are unsigned as they are.
  static N NibbleDot(N sum, W w, I x) { return Dot(sum, w, x); }
  static I NibbleSum(N v) { return v; }
};

}  // namespace
}  // namespace bloomery
