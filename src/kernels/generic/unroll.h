// plain header: the loop hint that keeps accumulator arrays in registers.
#pragma once

#if defined(__clang__)
#define BLOOMERY_UNROLL _Pragma("unroll")
#else
#define BLOOMERY_UNROLL _Pragma("GCC unroll 32")
#endif
