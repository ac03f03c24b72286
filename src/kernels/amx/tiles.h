// plain header: linear kernels over AMX tiles: matrices of up to 16 rows × 64 bytes in 8 registers, of which
// one instruction multiplies two and adds to a third (Intel 64 and IA-32 Architectures Software Developer's
// Manual, volume 1, chapter 18).
//
// The packed panels are tiles as they are: 16 lines of 64 bytes hold 64 values along K of int8, or 32 of
// bf16, for 16 outputs. Activations are packed in runs of as many values, so that 16 rows of them are the
// other tile.
#pragma once

#include <immintrin.h>

#include "kernels/generic/unroll.h"
#include "kernels/kernel_table.h"

namespace bloomery {
namespace {

constexpr int kTileRows = 16;
constexpr int kTileLine = 64;  // bytes
constexpr int kTileBytes = kTileRows * kTileLine;
constexpr int kTileInt8 = kTileLine;      // values along K of one tile
constexpr int kTileBF16 = kTileLine / 2;
// As kPrefetchBytes of generic/linear_body.h.
constexpr int kTilePrefetchBytes = 8192;

// GCC's tile instructions do not say what memory they read: this keeps what was stored at `at` before them.
inline void FinishStores(const void* at) { asm volatile("" : : "r"(at) : "memory"); }

// Registers 0 to 3 hold sums and 4, 5 activations, of `rows` rows each; 6 and 7 hold weights. Configuring
// takes about as long as ten products, so a thread keeps its last configuration.
inline void ConfigureTiles(int rows) {
  static thread_local int configured = 0;
  if (configured == rows) return;
  struct alignas(64) {
    uint8_t palette = 1;
    uint8_t start_row = 0;
    uint8_t reserved[14] = {};
    uint16_t line_bytes[16] = {};
    uint8_t rows[16] = {};
  } config;
  for (int tile = 0; tile < 8; ++tile) {
    config.line_bytes[tile] = kTileLine;
    config.rows[tile] = static_cast<uint8_t>(tile < 6 ? rows : kTileRows);
  }
  FinishStores(&config);
  _tile_loadconfig(&config);
  configured = rows;
}

// What is left of a panel when K does not fill a tile: `lines` lines, then zeros.
struct TileTail {
  TileTail(const char* weights, int64_t lines) {
    __builtin_memcpy(bytes, weights, static_cast<size_t>(lines) * kTileLine);
    FinishStores(bytes);
  }
  alignas(64) char bytes[kTileBytes] = {};
};

// Sums of A × P tiles += one tile of each of A row groups × one of each of P panels. `a` and `b` are the
// first tiles' bytes; tiles of rows follow one another.
template <int A, int P>
inline void MultiplyInt8(const void* a, const char* b, const char* next_b) {
  _tile_loadd(4, a, kTileLine);
  _tile_loadd(6, b, kTileLine);
  _tile_dpbsud(0, 4, 6);
  if constexpr (A == 2) {
    _tile_loadd(5, static_cast<const char*>(a) + kTileBytes, kTileLine);
    _tile_dpbsud(2, 5, 6);
  }
  if constexpr (P == 2) {
    _tile_loadd(7, next_b, kTileLine);
    _tile_dpbsud(1, 4, 7);
    if constexpr (A == 2) _tile_dpbsud(3, 5, 7);
  }
}

template <int A, int P>
inline void MultiplyBF16(const void* a, const char* b, const char* next_b) {
  _tile_loadd(4, a, kTileLine);
  _tile_loadd(6, b, kTileLine);
  _tile_dpbf16ps(0, 4, 6);
  if constexpr (A == 2) {
    _tile_loadd(5, static_cast<const char*>(a) + kTileBytes, kTileLine);
    _tile_dpbf16ps(2, 5, 6);
  }
  if constexpr (P == 2) {
    _tile_loadd(7, next_b, kTileLine);
    _tile_dpbf16ps(1, 4, 7);
    if constexpr (A == 2) _tile_dpbf16ps(3, 5, 7);
  }
}

template <int A, int P>
inline void ZeroSums() {
  _tile_zero(0);
  if constexpr (P == 2) _tile_zero(1);
  if constexpr (A == 2) _tile_zero(2);
  if constexpr (A == 2 && P == 2) _tile_zero(3);
}

// Sums to (or from) `at`, lines `stride` bytes apart; the second panel's lie behind the first's.
template <int A, int P>
inline void StoreSums(void* at, int64_t stride) {
  char* bytes = static_cast<char*>(at);
  _tile_stored(0, bytes, stride);
  if constexpr (P == 2) _tile_stored(1, bytes + kTileLine, stride);
  if constexpr (A == 2) _tile_stored(2, bytes + kTileRows * stride, stride);
  if constexpr (A == 2 && P == 2) _tile_stored(3, bytes + kTileRows * stride + kTileLine, stride);
}

template <int A, int P>
inline void LoadSums(const void* at, int64_t stride) {
  const char* bytes = static_cast<const char*>(at);
  _tile_loadd(0, bytes, stride);
  if constexpr (P == 2) _tile_loadd(1, bytes + kTileLine, stride);
  if constexpr (A == 2) _tile_loadd(2, bytes + kTileRows * stride, stride);
  if constexpr (A == 2 && P == 2) _tile_loadd(3, bytes + kTileRows * stride + kTileLine, stride);
}

inline void PrefetchTile(const char* weights) {
  BLOOMERY_UNROLL
  for (int line = 0; line < kTileRows; ++line) {
    _mm_prefetch(weights + kTilePrefetchBytes + line * kTileLine, _MM_HINT_T0);
  }
}

// acc (+)= sums · scale: the integer sums of one group, with the weights' offset taken out.
template <int Rows, int P>
inline void AddGroup(const int32_t* sums, const int32_t* offsets, const float* scales, float* acc,
                     int64_t acc_stride, bool resume) {
  for (int r = 0; r < Rows; ++r) {
    const __m512i offset = _mm512_set1_epi32(offsets[r]);
    const __m512 scale = _mm512_set1_ps(scales[r]);
    BLOOMERY_UNROLL
    for (int p = 0; p < P; ++p) {
      const __m512i sum = _mm512_add_epi32(_mm512_load_si512(sums + (r * P + p) * kPanelColumns), offset);
      float* to = acc + r * acc_stride + p * kPanelColumns;
      _mm512_storeu_ps(to, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale,
                                           resume ? _mm512_loadu_ps(to) : _mm512_setzero_ps()));
    }
  }
}

// 16·A rows × P panels. A group's sums are scaled while the next group's products are under way.
template <int A, int P>
void Int8Tiles(const LinearBlock& block) {
  constexpr int kRows = kTileRows * A;
  ConfigureTiles(kTileRows);
  alignas(64) int32_t sums[kRows * P * kPanelColumns];
  const char* weights = static_cast<const char*>(block.weights);
  const int8_t* x = static_cast<const int8_t*>(block.x);
  const float* scales = block.x_scales;
  const int32_t* offsets = block.x_offsets;
  bool resume = block.resume;
  for (int64_t k = 0; k < block.k; k += kQuantGroup) {
    const int64_t end = block.k - k < kQuantGroup ? block.k - k : kQuantGroup;
    ZeroSums<A, P>();
    for (int64_t at = 0; at < end; at += kTileInt8) {
      if (P == 1) PrefetchTile(weights);
      if (end - at >= kTileInt8) {
        MultiplyInt8<A, P>(x, weights, weights + block.panel_bytes);
      } else {
        const TileTail tail(weights, (end - at) / 4);
        const TileTail next(weights + (P - 1) * block.panel_bytes, (end - at) / 4);
        MultiplyInt8<A, P>(x, tail.bytes, next.bytes);
      }
      weights += kTileBytes;
      x += kRows * kTileInt8;
    }
    if (k > 0) {
      AddGroup<kRows, P>(sums, offsets, scales, block.acc, block.acc_stride, resume);
      scales += kRows;
      offsets += kRows;
      resume = true;
    }
    StoreSums<A, P>(sums, P * kTileLine);
  }
  AddGroup<kRows, P>(sums, offsets, scales, block.acc, block.acc_stride, resume);
}

// Rows·A rows × P panels; x is bf16. Every product of a tile sums 32 values along K in the order that the
// instruction fixes, then adds them to the output: the same for every number of rows.
template <int Rows, int A, int P>
void BF16Tiles(const LinearBlock& block) {
  static_assert(A == 1 || Rows == kTileRows);
  ConfigureTiles(Rows);
  const int64_t acc_bytes = block.acc_stride * static_cast<int64_t>(sizeof(float));
  if (block.resume) {
    FinishStores(block.acc);
    LoadSums<A, P>(block.acc, acc_bytes);
  } else {
    ZeroSums<A, P>();
  }
  const char* weights = static_cast<const char*>(block.weights);
  const char* x = static_cast<const char*>(block.x);
  for (int64_t k = 0; k < block.k; k += kTileBF16) {
    if (P == 1) PrefetchTile(weights);
    if (block.k - k >= kTileBF16) {
      MultiplyBF16<A, P>(x, weights, weights + block.panel_bytes);
    } else {
      const TileTail tail(weights, (block.k - k) / 2);
      const TileTail next(weights + (P - 1) * block.panel_bytes, (block.k - k) / 2);
      MultiplyBF16<A, P>(x, tail.bytes, next.bytes);
    }
    weights += kTileBytes;
    x += Rows * A * kTileLine;
  }
  StoreSums<A, P>(block.acc, acc_bytes);
}

}  // namespace
}  // namespace bloomery
