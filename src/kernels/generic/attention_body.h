// plain header: attention of a few query rows and one head over a paged cache, over a vector trait V.
//
// Keys are stored with 16 tokens side by side, so that 16 scores come out of one chain of multiply-adds with
// no sum across lanes; values with head_dim side by side. Softmax runs online over chunks of kChunkBlocks
// blocks counted from position 0, so the order of all sums depends on the row's own position alone: not on
// the step it was computed in, not on the rows that share its loads, nor on where its blocks lie.
#pragma once

#include "kernels/generic/math_body.h"
#include "kernels/generic/unroll.h"
#include "kernels/kernel_table.h"

namespace bloomery::generic {

// Blocks scored before the running maximum is updated: 4 chains of multiply-adds hide their latency, twice
// that halves the rescaling of the output.
constexpr int kChunkBlocks = 8;
constexpr int kChunkKeys = kChunkBlocks * kKvTokens;

template <class V>
struct F32Cache {
  using Element = float;
  static typename V::F Load(const Element* from) { return V::Load(from); }
};
template <class V>
struct F16Cache {
  using Element = uint16_t;
  static typename V::F Load(const Element* from) { return V::LoadF16(from); }
};
template <class V>
struct BF16Cache {
  using Element = uint16_t;
  static typename V::F Load(const Element* from) { return V::LoadBF16(from); }
};

template <class V>
struct Int8Cache {
  using Element = int8_t;
  static typename V::F Load(const Element* from) { return V::LoadInt8(from); }
};

// The scales of a block of int8 keys or values; nothing for the other types.
template <class Cache>
inline const float* ScalesOf(const typename Cache::Element* block, int head_dim) {
  if constexpr (sizeof(typename Cache::Element) > 1) return nullptr;
  return reinterpret_cast<const float*>(block + static_cast<int64_t>(head_dim) * kKvTokens);
}

template <class Cache>
inline const typename Cache::Element* BlockAt(const void* base, const AttentionRows& a, int64_t block) {
  return reinterpret_cast<const typename Cache::Element*>(static_cast<const char*>(base) +
                                                          a.blocks[block] * a.block_bytes);
}

// Floats from one row of scratch to the next.
inline int64_t ScratchStride(const AttentionRows& a) {
  return (a.head_dim + kPanelColumns - 1) / kPanelColumns * kPanelColumns;
}

// Blocks of keys (or vectors of values) whose accumulators, with R rows, stay in registers. One row has four
// too: its chains of multiply-adds hide their own latency.
template <class V, int R>
constexpr int kAtOnce = R == 1 ? 4 : V::kAccumulators / R;

// scores[r]: of R rows with the B blocks from `block` of a chunk on, whose first is first_block. The blocks'
// values, which are next, are fetched meanwhile.
template <class V, class Cache, int R, int B>
inline void ScoreBlocks(const AttentionRows& a, int64_t first_block, int64_t block,
                        float (*scores)[kChunkKeys]) {
  const typename Cache::Element* keys[B];
  const typename Cache::Element* values[B];
  typename V::F dot[R][B];
  BLOOMERY_UNROLL
  for (int b = 0; b < B; ++b) {
    keys[b] = BlockAt<Cache>(a.key_base, a, first_block + block + b);
    values[b] = BlockAt<Cache>(a.value_base, a, first_block + block + b);
    BLOOMERY_UNROLL
    for (int r = 0; r < R; ++r) dot[r][b] = V::Zero();
  }
  for (int d = 0; d < a.head_dim; ++d) {
    typename V::F key[B];
    BLOOMERY_UNROLL
    for (int b = 0; b < B; ++b) {
      key[b] = Cache::Load(keys[b] + static_cast<int64_t>(d) * kKvTokens);
      V::Prefetch(reinterpret_cast<const char*>(values[b] + static_cast<int64_t>(d) * kKvTokens));
    }
    BLOOMERY_UNROLL
    for (int r = 0; r < R; ++r) {
      const typename V::F q = V::Set1(a.q[r * a.q_stride + d]);
      BLOOMERY_UNROLL
      for (int b = 0; b < B; ++b) dot[r][b] = V::Fma(key[b], q, dot[r][b]);
    }
  }
  BLOOMERY_UNROLL
  for (int b = 0; b < B; ++b) {
    const typename V::F position =
        V::Add(V::Set1(static_cast<float>((first_block + block + b) * kKvTokens)), V::Iota());
    const typename V::F bias = V::Mul(position, V::Set1(a.slope));
    const float* scales = ScalesOf<Cache>(keys[b], a.head_dim);
    BLOOMERY_UNROLL
    for (int r = 0; r < R; ++r) {
      const typename V::F product = scales != nullptr ? V::Mul(dot[r][b], V::Load(scales)) : dot[r][b];
      V::Store(scores[r] + (block + b) * kKvTokens, V::Fma(product, V::Set1(a.scale), bias));
    }
  }
}

// The keys that are read after a chunk's values: of the next chunk, or of the next head's first. Fetched
// meanwhile.
struct NextKeys {
  const void* base = nullptr;
  int64_t first_block = 0;
  int64_t blocks = 0;

  // Bytes from a block of values to the keys that are fetched while it is read; 0 for none.
  template <class Cache>
  int64_t Offset(const AttentionRows& a, int64_t block, const typename Cache::Element* values) const {
    if (block >= blocks) return 0;
    return reinterpret_cast<const char*>(BlockAt<Cache>(base, a, first_block + block)) -
           reinterpret_cast<const char*>(values);
  }
};

// accumulators[r][16j, 16(j + J)) += Σ over keys [from, to) of the chunk of weight · value, for R rows from
// `row` on.
template <class V, class Cache, int R, int J>
inline void AddValues(const AttentionRows& a, int64_t first_block, int64_t from, int64_t to, int row,
                      const float (*weights)[kChunkKeys], int j, const NextKeys& next) {
  const int64_t stride = ScratchStride(a);
  float* accumulators = a.scratch + row * stride + static_cast<int64_t>(j) * kPanelColumns;
  typename V::F sum[R][J];
  BLOOMERY_UNROLL
  for (int r = 0; r < R; ++r) {
    BLOOMERY_UNROLL
    for (int i = 0; i < J; ++i) sum[r][i] = V::Load(accumulators + r * stride + i * kPanelColumns);
  }
  for (int64_t begin = from / kKvTokens * kKvTokens; begin < to; begin += kKvTokens) {
    const typename Cache::Element* block = BlockAt<Cache>(a.value_base, a, first_block + begin / kKvTokens);
    const float* scales = ScalesOf<Cache>(block, a.head_dim);
    const int64_t first = from > begin ? from : begin;
    const int64_t end = to - begin < kKvTokens ? to : begin + kKvTokens;
    const typename Cache::Element* value = block + (first - begin) * a.head_dim + j * kPanelColumns;
    const int64_t to_next = next.Offset<Cache>(a, begin / kKvTokens, block);
    for (int64_t key = first; key < end; ++key, value += a.head_dim) {
      const float scale = scales == nullptr ? 1.0F : scales[key - begin];
      typename V::F loaded[J];
      // The last vector of a head_dim that is no multiple of 16 reads on into the next token (the cache has
      // slack at its end); those lanes are never stored.
      BLOOMERY_UNROLL
      for (int i = 0; i < J; ++i) {
        loaded[i] = Cache::Load(value + i * kPanelColumns);
        if constexpr (R == 1) V::Prefetch(reinterpret_cast<const char*>(value + i * kPanelColumns) + to_next);
      }
      BLOOMERY_UNROLL
      for (int r = 0; r < R; ++r) {
        const typename V::F weight = V::Set1(weights[row + r][key] * scale);
        BLOOMERY_UNROLL
        for (int i = 0; i < J; ++i) sum[r][i] = V::Fma(loaded[i], weight, sum[r][i]);
      }
    }
  }
  BLOOMERY_UNROLL
  for (int r = 0; r < R; ++r) {
    BLOOMERY_UNROLL
    for (int i = 0; i < J; ++i) V::Store(accumulators + r * stride + i * kPanelColumns, sum[r][i]);
  }
}

template <class V, class Cache, int R>
inline void AddAllValues(const AttentionRows& a, int64_t first_block, int64_t from, int64_t to, int row,
                         const float (*weights)[kChunkKeys], const NextKeys& next) {
  if (from >= to) return;
  constexpr int kVectors = kAtOnce<V, R>;
  const int vectors = static_cast<int>(ScratchStride(a) / kPanelColumns);
  int j = 0;
  for (; j + kVectors <= vectors; j += kVectors)
    AddValues<V, Cache, R, kVectors>(a, first_block, from, to, row, weights, j, next);
  for (; j < vectors; ++j) AddValues<V, Cache, R, 1>(a, first_block, from, to, row, weights, j, next);
}

// One row's softmax so far: Σ exp(score − largest), lane by lane, and the largest score.
template <class V>
struct Softmax {
  typename V::F sum = V::Zero();
  float largest = -__builtin_inff();

  // Turns the scores of the chunk's first `keys` keys into weights relative to the new largest score, those
  // behind them in the last block into 0 (their slots may hold anything); scales what was summed before.
  void Add(float* scores, int64_t keys, float* accumulators, int64_t columns) {
    using F = typename V::F;
    if (keys <= 0) return;
    const int64_t padded = (keys + kKvTokens - 1) / kKvTokens * kKvTokens;
    for (int64_t key = keys; key < padded; ++key) scores[key] = -__builtin_inff();
    F chunk = V::Load(scores);
    for (int64_t key = kKvTokens; key < padded; key += kKvTokens)
      chunk = V::Max(chunk, V::Load(scores + key));
    const float chunk_largest = V::MaxLanes(chunk);
    const float now_largest = chunk_largest > largest ? chunk_largest : largest;
    const F shrink = Exp<V>(V::Set1(largest - now_largest));  // 0 in the first chunk
    sum = V::Mul(sum, shrink);
    for (int64_t key = 0; key < padded; key += kKvTokens) {
      const F weight = Exp<V>(V::Sub(V::Load(scores + key), V::Set1(now_largest)));
      V::Store(scores + key, weight);
      sum = V::Add(sum, weight);
    }
    for (int64_t c = 0; c < columns; c += kPanelColumns)
      V::Store(accumulators + c, V::Mul(V::Load(accumulators + c), shrink));
    largest = now_largest;
  }
};

// R rows share the loads of every key that the last of them sees, and of every value that the first sees; the
// values of the few keys behind those are added row by row. A row's own sums are the same for any R.
template <class V, class Cache, int R>
inline void AttendRows(const AttentionRows& a) {
  const int64_t stride = ScratchStride(a);
  for (int64_t c = 0; c < R * stride; c += kPanelColumns) V::Store(a.scratch + c, V::Zero());
  Softmax<V> softmax[R];
  alignas(64) float scores[R][kChunkKeys];
  for (int64_t begin = 0; begin < a.keys + R - 1; begin += kChunkKeys) {
    const auto keys_of = [&](int row) {
      const int64_t left = a.keys + row - begin;
      return left < kChunkKeys ? left : kChunkKeys;
    };
    const int64_t first_block = begin / kKvTokens;
    const int64_t blocks = (keys_of(R - 1) + kKvTokens - 1) / kKvTokens;
    constexpr int kBlocks = kAtOnce<V, R>;
    int64_t b = 0;
    for (; b + kBlocks <= blocks; b += kBlocks) ScoreBlocks<V, Cache, R, kBlocks>(a, first_block, b, scores);
    for (; b < blocks; ++b) ScoreBlocks<V, Cache, R, 1>(a, first_block, b, scores);
    for (int row = 0; row < R; ++row)
      softmax[row].Add(scores[row], keys_of(row), a.scratch + row * stride, stride);
    const int64_t shared = keys_of(0) > 0 ? keys_of(0) : 0;
    NextKeys next;
    if (R == 1 && begin + kChunkKeys < a.keys) {
      const int64_t left = (a.keys - begin - kChunkKeys + kKvTokens - 1) / kKvTokens;
      next = {a.key_base, first_block + kChunkBlocks, left < kChunkBlocks ? left : kChunkBlocks};
    } else if (R == 1) {
      next = {static_cast<const char*>(a.key_base) + a.head_bytes, 0, blocks};
    }
    AddAllValues<V, Cache, R>(a, first_block, 0, shared, 0, scores, next);
    for (int row = 1; row < R; ++row)
      AddAllValues<V, Cache, 1>(a, first_block, shared, keys_of(row), row, scores, {});
  }
  for (int row = 0; row < R; ++row) {
    const typename V::F inverse = V::Set1(1.0F / V::SumLanes(softmax[row].sum));
    for (int c = 0; c < a.head_dim; c += kPanelColumns) {
      const int left = a.head_dim - c;
      V::StoreFirst(a.out + row * a.out_stride + c, V::Mul(V::Load(a.scratch + row * stride + c), inverse),
                    left < kPanelColumns ? left : kPanelColumns);
    }
  }
}

template <class V, class Cache>
void Attention(const AttentionRows& a) {
  if (a.rows == 1) {
    AttendRows<V, Cache, 1>(a);
  } else {
    AttendRows<V, Cache, kAttentionRows>(a);
  }
}

}  // namespace bloomery::generic
