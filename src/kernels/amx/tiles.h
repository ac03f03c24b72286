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
constexpr int kTileInt8 = kTileLine;  // values along K of one tile
constexpr int kTileBF16 = kTileLine / 2;
// As kPrefetchBytes of generic/linear_body.h.
constexpr int kTilePrefetchBytes = 8192;

// The instructions by hand: GCC's intrinsics take no template argument for a tile's number, and do not say
// what memory they read.
template <int T>
inline void ZeroTile() {
  asm volatile("tilezero %%tmm%c0" : : "i"(T));
}
template <int T>
inline void LoadTile(const void* at, int64_t stride) {
  asm volatile("tileloadd (%1,%2,1), %%tmm%c0" : : "i"(T), "r"(at), "r"(stride) : "memory");
}
template <int T>
inline void StoreTile(void* at, int64_t stride) {
  asm volatile("tilestored %%tmm%c0, (%1,%2,1)" : : "i"(T), "r"(at), "r"(stride) : "memory");
}
// sums += signed activations × unsigned weights, 64 along K.
template <int Sums, int X, int W>
inline void DotInt8() {
  asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sums), "i"(X), "i"(W));
}
template <int Sums, int X, int W>
inline void DotBF16() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sums), "i"(X), "i"(W));
}

// Registers 0 to 3 hold sums, 4 and 5 activations, of `rows` rows each; 6 and 7 hold weights. Configuring
// takes as long as several products, so a thread keeps its last configuration.
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
  asm volatile("ldtilecfg (%0)" : : "r"(&config) : "memory");
  configured = rows;
}

// The end of a panel where K does not fill `tiles` tiles: `lines` lines, then zeros.
template <int Tiles>
struct Tail {
  Tail(const char* weights, int64_t lines) {
    __builtin_memcpy(bytes, weights, static_cast<size_t>(lines) * kTileLine);
  }
  alignas(64) char bytes[Tiles * kTileBytes] = {};
};

inline void PrefetchTile(const char* weights) {
  BLOOMERY_UNROLL
  for (int line = 0; line < kTileRows; ++line) {
    _mm_prefetch(weights + kTilePrefetchBytes + line * kTileLine, _MM_HINT_T0);
  }
}

// What a group's integer sums of P panels become: acc (+)= (sums + offset) · scale, row after row.
template <int P>
struct GroupSums {
  const int32_t* sums;
  const int32_t* offsets;
  const float* scales;
  float* acc;
  int64_t acc_stride;
  bool resume;

  template <int Rows>
  void Add() {
    BLOOMERY_UNROLL
    for (int r = 0; r < Rows; ++r) {
      const __m512i offset = _mm512_set1_epi32(offsets[r]);
      const __m512 scale = _mm512_set1_ps(scales[r]);
      BLOOMERY_UNROLL
      for (int p = 0; p < P; ++p) {
        const __m512i sum = _mm512_add_epi32(_mm512_load_si512(sums + (r * P + p) * kPanelColumns), offset);
        float* to = acc + r * acc_stride + p * kPanelColumns;
        const __m512 before = resume ? _mm512_loadu_ps(to) : _mm512_setzero_ps();
        _mm512_storeu_ps(to, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, before));
      }
    }
    sums += Rows * P * kPanelColumns;
    offsets += Rows;
    scales += Rows;
    acc += Rows * acc_stride;
  }
};

// 16·A rows × P panels of one group along K, tile of sums after tile of sums: while one is multiplied, the
// one before it is stored and a part of what the tiles before gave is scaled. Each of these three takes units
// of the processor that the others leave idle, if they come mixed: its window is shorter than a group.
template <int A, int P>
struct Int8Unit {
  static constexpr int kTiles = A * P;
  static constexpr int kRows = A * kTileRows;
  static constexpr int64_t kLineBytes = P * kTileLine;

  // Row and panel of the i-th tile of sums: a snake, so that each loads anew only what differs.
  static constexpr int RowOf(int i) { return i / P; }
  static constexpr int PanelOf(int i) { return RowOf(i) % 2 == 0 ? i % P : P - 1 - i % P; }

  template <int I>
  static void Store(char* sums) {
    StoreTile<I>(sums + RowOf(I) * kTileRows * kLineBytes + PanelOf(I) * kTileLine, kLineBytes);
  }
  static void StoreLast(char* sums) { Store<kTiles - 1>(sums); }

  // `x` and `next_x`: the first and the second half of the group.
  template <int I = 0>
  static void Multiply(const int8_t* x, const int8_t* next_x, const char* const (&weights)[2],
                       GroupSums<P>* before, char* sums) {
    constexpr int kBefore = I == 0 ? 0 : I - 1;
    if constexpr (I == 0 || RowOf(I) != RowOf(kBefore)) {
      LoadTile<4>(x + RowOf(I) * kTileBytes, kTileLine);
      LoadTile<5>(next_x + RowOf(I) * kTileBytes, kTileLine);
    }
    if constexpr (I == 0 || PanelOf(I) != PanelOf(kBefore)) {
      LoadTile<6>(weights[PanelOf(I)], kTileLine);
      LoadTile<7>(weights[PanelOf(I)] + kTileBytes, kTileLine);
    }
    // The last tile of sums waits until the first of the next unit is under way.
    if (I == 0 && kTiles == 1 && before != nullptr) StoreLast(sums);
    ZeroTile<I>();
    DotInt8<I, 4, 6>();
    if (before != nullptr) before->template Add<kRows / kTiles>();
    DotInt8<I, 5, 7>();
    if (I > 0) Store<kBefore>(sums);
    if (I == 0 && kTiles > 1 && before != nullptr) StoreLast(sums);
    if constexpr (I + 1 < kTiles) Multiply<I + 1>(x, next_x, weights, before, sums);
  }
};

// Units · 16·A rows × P panels. Groups along K are the outer loop, so that a group's weights and activations
// are in the first cache for all rows.
template <int Units, int A, int P>
void Int8Tiles(const LinearBlock& block) {
  using Unit = Int8Unit<A, P>;
  constexpr int kRows = Units * Unit::kRows;
  ConfigureTiles(kTileRows);
  alignas(64) int32_t sums[Unit::kRows * P * kPanelColumns];
  char* const sum_bytes = reinterpret_cast<char*>(sums);
  const char* weights = static_cast<const char*>(block.weights);
  const int8_t* x = static_cast<const int8_t*>(block.x);
  GroupSums<P> before{};
  GroupSums<P>* previous = nullptr;
  for (int64_t group = 0; group * kQuantGroup < block.k; ++group) {
    const int64_t left = block.k - group * kQuantGroup;
    const auto multiply_rows = [&](const char* const(&panels)[2]) {
      for (int unit = 0; unit < Units; ++unit) {
        const int8_t* from = x + unit * Unit::kRows * kTileInt8;
        Unit::Multiply(from, from + kRows * kTileInt8, panels, previous, sum_bytes);
        const int64_t row = unit * Unit::kRows;
        before = {.sums = sums,
                  .offsets = block.x_offsets + group * kRows + row,
                  .scales = block.x_scales + group * kRows + row,
                  .acc = block.acc + row * block.acc_stride,
                  .acc_stride = block.acc_stride,
                  .resume = block.resume || group > 0};
        previous = &before;
      }
    };
    if (left >= kQuantGroup) {
      if (P == 1) {
        PrefetchTile(weights);
        PrefetchTile(weights + kTileBytes);
      }
      multiply_rows({weights, weights + block.panel_bytes});
    } else {
      const Tail<2> first(weights, left / 4);
      const Tail<2> last(weights + (P - 1) * block.panel_bytes, left / 4);
      multiply_rows({first.bytes, last.bytes});
    }
    weights += 2 * kTileBytes;
    x += kRows * kQuantGroup;
  }
  Unit::StoreLast(sum_bytes);
  before.template Add<Unit::kRows>();
}

// A × P tiles of sums and of one step along K, of up to 16·A rows.
template <int A, int P>
inline void MultiplyBF16(const char* x, const char* weights, const char* next_weights) {
  LoadTile<4>(x, kTileLine);
  LoadTile<6>(weights, kTileLine);
  DotBF16<0, 4, 6>();
  if constexpr (A == 2) {
    LoadTile<5>(x + kTileBytes, kTileLine);
    DotBF16<2, 5, 6>();
  }
  if constexpr (P == 2) {
    LoadTile<7>(next_weights, kTileLine);
    DotBF16<1, 4, 7>();
    if constexpr (A == 2) DotBF16<3, 5, 7>();
  }
}

// Rows·A rows × P panels; x is bf16. Every product of a tile sums 32 values along K in the order that the
// instruction fixes, then adds them to the output: the same for every number of rows.
template <int Rows, int A, int P>
void BF16Tiles(const LinearBlock& block) {
  static_assert(A == 1 || Rows == kTileRows);
  ConfigureTiles(Rows);
  const int64_t line_bytes = block.acc_stride * static_cast<int64_t>(sizeof(float));
  char* const acc = reinterpret_cast<char*>(block.acc);
  char* const next_acc = acc + Rows * line_bytes;
  if (block.resume) {
    LoadTile<0>(acc, line_bytes);
    if constexpr (P == 2) LoadTile<1>(acc + kTileLine, line_bytes);
    if constexpr (A == 2) LoadTile<2>(next_acc, line_bytes);
    if constexpr (A == 2 && P == 2) LoadTile<3>(next_acc + kTileLine, line_bytes);
  } else {
    ZeroTile<0>();
    ZeroTile<1>();
    ZeroTile<2>();
    ZeroTile<3>();
  }
  const char* weights = static_cast<const char*>(block.weights);
  const char* x = static_cast<const char*>(block.x);
  for (int64_t k = 0; k < block.k; k += kTileBF16) {
    if (P == 1) PrefetchTile(weights);
    if (block.k - k >= kTileBF16) {
      MultiplyBF16<A, P>(x, weights, weights + block.panel_bytes);
    } else {
      const Tail<1> first(weights, (block.k - k) / 2);
      const Tail<1> last(weights + (P - 1) * block.panel_bytes, (block.k - k) / 2);
      MultiplyBF16<A, P>(x, first.bytes, last.bytes);
    }
    weights += kTileBytes;
    x += Rows * A * kTileLine;
  }
  StoreTile<0>(acc, line_bytes);
  if constexpr (P == 2) StoreTile<1>(acc + kTileLine, line_bytes);
  if constexpr (A == 2) StoreTile<2>(next_acc, line_bytes);
  if constexpr (A == 2 && P == 2) StoreTile<3>(next_acc + kTileLine, line_bytes);
}

}  // namespace
}  // namespace bloomery
