// plain header: attention of one query row and head over a paged cache, over a vector trait V.
//
// Keys are stored with 16 tokens side by side, so that 16 scores come out of one chain of multiply-adds with
// no sum across lanes; values with head_dim side by side. Softmax runs online over chunks of kChunkBlocks
// blocks counted from position 0, so the order of all sums depends on the row's own position alone: not on
// the step it was computed in, nor on where its blocks lie.
#pragma once

#include "kernels/generic/math_body.h"
#include "kernels/generic/unroll.h"
#include "kernels/kernel_table.h"

namespace bloomery::generic {

// Blocks scored before the running maximum is updated: 4 chains of multiply-adds hide their latency, twice
// that halves the rescaling of the output.
constexpr int kChunkBlocks = 8;

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
inline const typename Cache::Element* BlockAt(const void* base, const AttentionRow& a, int64_t block) {
  return reinterpret_cast<const typename Cache::Element*>(static_cast<const char*>(base) +
                                                          a.blocks[block] * a.block_bytes);
}

// scores[0, 16·B): of B consecutive blocks.
template <class V, class Cache, int B>
inline void ScoreBlocks(const AttentionRow& a, int64_t first_block, float* scores) {
  const typename Cache::Element* keys[B];
  typename V::F dot[B];
  BLOOMERY_UNROLL
  for (int b = 0; b < B; ++b) {
    keys[b] = BlockAt<Cache>(a.key_base, a, first_block + b);
    dot[b] = V::Zero();
  }
  for (int d = 0; d < a.head_dim; ++d) {
    const typename V::F q = V::Set1(a.q[d]);
    BLOOMERY_UNROLL
    for (int b = 0; b < B; ++b) {
      dot[b] = V::Fma(Cache::Load(keys[b] + static_cast<int64_t>(d) * kKvTokens), q, dot[b]);
    }
  }
  BLOOMERY_UNROLL
  for (int b = 0; b < B; ++b) {
    const typename V::F position =
        V::Add(V::Set1(static_cast<float>((first_block + b) * kKvTokens)), V::Iota());
    const typename V::F bias = V::Mul(position, V::Set1(a.slope));
    if (const float* scales = ScalesOf<Cache>(keys[b], a.head_dim)) dot[b] = V::Mul(dot[b], V::Load(scales));
    V::Store(scores + b * kKvTokens, V::Fma(dot[b], V::Set1(a.scale), bias));
  }
}

// scratch[16j, 16(j + J)) = itself · shrink + Σ over the chunk's keys of weight · value.
template <class V, class Cache, int J>
inline void AddValues(const AttentionRow& a, int64_t first_block, int64_t keys, const float* weights,
                      float shrink, int j) {
  typename V::F sum[J];
  BLOOMERY_UNROLL
  for (int i = 0; i < J; ++i) {
    sum[i] = V::Mul(V::Load(a.scratch + (j + i) * kPanelColumns), V::Set1(shrink));
  }
  for (int64_t begin = 0; begin < keys; begin += kKvTokens) {
    const typename Cache::Element* block = BlockAt<Cache>(a.value_base, a, first_block + begin / kKvTokens);
    const typename Cache::Element* value = block + j * kPanelColumns;
    const float* scales = ScalesOf<Cache>(block, a.head_dim);
    const int64_t end = keys - begin < kKvTokens ? keys : begin + kKvTokens;
    for (int64_t key = begin; key < end; ++key, value += a.head_dim) {
      const float scale = scales == nullptr ? 1.0F : scales[key - begin];
      const typename V::F weight = V::Set1(weights[key] * scale);
      BLOOMERY_UNROLL
      for (int i = 0; i < J; ++i) {
        // The last vector of a head_dim that is no multiple of 16 reads on into the next token (the cache has
        // slack at its end); those lanes are never stored.
        sum[i] = V::Fma(Cache::Load(value + i * kPanelColumns), weight, sum[i]);
      }
    }
  }
  BLOOMERY_UNROLL
  for (int i = 0; i < J; ++i) V::Store(a.scratch + (j + i) * kPanelColumns, sum[i]);
}

// Scores of one chunk, lanes past `keys` set to −∞ (their slots may hold anything); returns the largest.
template <class V, class Cache>
inline float ScoreChunk(const AttentionRow& a, int64_t first_block, int64_t keys, float* scores) {
  const int64_t blocks = (keys + kKvTokens - 1) / kKvTokens;
  int64_t b = 0;
  for (; b + 4 <= blocks; b += 4) ScoreBlocks<V, Cache, 4>(a, first_block + b, scores + b * kKvTokens);
  for (; b < blocks; ++b) ScoreBlocks<V, Cache, 1>(a, first_block + b, scores + b * kKvTokens);
  for (int64_t key = keys; key < blocks * kKvTokens; ++key) scores[key] = -__builtin_inff();
  typename V::F largest = V::Load(scores);
  for (b = 1; b < blocks; ++b) largest = V::Max(largest, V::Load(scores + b * kKvTokens));
  return MaxLanes<V>(largest);
}

template <class V, class Cache>
void Attention(const AttentionRow& a) {
  using F = typename V::F;
  const int vectors = (a.head_dim + kPanelColumns - 1) / kPanelColumns;
  for (int j = 0; j < vectors; ++j) V::Store(a.scratch + j * kPanelColumns, V::Zero());
  F sum = V::Zero();
  float running_max = -__builtin_inff();
  alignas(64) float scores[kChunkBlocks * kKvTokens];
  for (int64_t begin = 0; begin < a.keys; begin += kChunkBlocks * kKvTokens) {
    const int64_t left = a.keys - begin;
    const int64_t keys = left < kChunkBlocks * kKvTokens ? left : kChunkBlocks * kKvTokens;
    const float chunk_max = ScoreChunk<V, Cache>(a, begin / kKvTokens, keys, scores);
    const float new_max = chunk_max > running_max ? chunk_max : running_max;
    const F shrink = Exp<V>(V::Set1(running_max - new_max));  // 0 in the first chunk
    sum = V::Mul(sum, shrink);
    for (int64_t key = 0; key < keys; key += kKvTokens) {
      const F weight = Exp<V>(V::Sub(V::Load(scores + key), V::Set1(new_max)));
      V::Store(scores + key, weight);
      sum = V::Add(sum, weight);
    }
    float shrink_lanes[kPanelColumns];
    V::Store(shrink_lanes, shrink);
    int j = 0;
    for (; j + 4 <= vectors; j += 4) {
      AddValues<V, Cache, 4>(a, begin / kKvTokens, keys, scores, shrink_lanes[0], j);
    }
    for (; j < vectors; ++j) AddValues<V, Cache, 1>(a, begin / kKvTokens, keys, scores, shrink_lanes[0], j);
    running_max = new_max;
  }
  const F inverse = V::Set1(1.0F / SumLanes<V>(sum));
  for (int j = 0; j < vectors; ++j) {
    const int left = a.head_dim - j * kPanelColumns;
    V::StoreFirst(a.out + j * kPanelColumns, V::Mul(V::Load(a.scratch + j * kPanelColumns), inverse),
                  left < kPanelColumns ? left : kPanelColumns);
  }
}

}  // namespace bloomery::generic
