// plain header: the linear kernels' inner loops, written once over a vector trait V (16 f32 lanes; see
// avx512/vec.h) and bound to each instruction set by its spine.
//
// R rows × P panels of accumulators stay in registers while k runs. Every output is acc = fma(w, x, acc) in
// rising k whatever R and P are: the promise of kernel_table.h.
#pragma once

#include "kernels/generic/unroll.h"
#include "kernels/kernel_table.h"

namespace bloomery::generic {

// Bytes ahead of the current load that weights are prefetched, per panel. One panel at a time is one stream
// through memory, from panel to panel; several are as many streams, that begin anew with every tile. Chosen
// by measurement, which is all there is to say for them.
template <int P>
constexpr int kPrefetchBytes = P == 1 ? 8192 : 1024;
template <int R, int P>
constexpr int kNibblePrefetchBytes = R == 1 && P == 1 ? 4096 : kPrefetchBytes<P>;

// How a type's panel is read: one step covers kStepK values of k and kStepBytes of a panel, giving kStepK
// vectors of 16 f32.
template <class V>
struct F32Weights {
  static constexpr int kStepK = 1;
  static constexpr int kStepBytes = 64;
  static void Load(const char* from, typename V::F (&w)[kStepK]) {
    w[0] = V::Load(reinterpret_cast<const float*>(from));
  }
};

template <class V>
struct F16Weights {
  static constexpr int kStepK = 1;
  static constexpr int kStepBytes = 32;
  static void Load(const char* from, typename V::F (&w)[kStepK]) {
    w[0] = V::LoadF16(reinterpret_cast<const uint16_t*>(from));
  }
};

template <class V>
struct BF16Weights {
  static constexpr int kStepK = 2;
  static constexpr int kStepBytes = 64;
  static void Load(const char* from, typename V::F (&w)[kStepK]) { V::LoadBF16Pairs(from, w[0], w[1]); }
};

template <class V, class Weights, int R, int P>
void FloatBlock(const LinearBlock& block) {
  typename V::F acc[R][P];
  BLOOMERY_UNROLL
  for (int r = 0; r < R; ++r) {
    BLOOMERY_UNROLL
    for (int p = 0; p < P; ++p) {
      acc[r][p] = block.resume ? V::Load(block.acc + r * block.acc_stride + p * kPanelColumns) : V::Zero();
    }
  }
  const char* weights = static_cast<const char*>(block.weights);
  const float* x = static_cast<const float*>(block.x);
  for (int64_t k = 0; k < block.k; k += Weights::kStepK) {
    typename V::F w[P][Weights::kStepK];
    BLOOMERY_UNROLL
    for (int p = 0; p < P; ++p) {
      Weights::Load(weights + p * block.panel_bytes, w[p]);
      V::Prefetch(weights + p * block.panel_bytes + kPrefetchBytes<P>);
    }
    BLOOMERY_UNROLL
    for (int s = 0; s < Weights::kStepK; ++s) {
      BLOOMERY_UNROLL
      for (int r = 0; r < R; ++r) {
        const typename V::F value = V::Set1(x[s * R + r]);
        BLOOMERY_UNROLL
        for (int p = 0; p < P; ++p) acc[r][p] = V::Fma(w[p][s], value, acc[r][p]);
      }
    }
    weights += Weights::kStepBytes;
    x += Weights::kStepK * R;
  }
  BLOOMERY_UNROLL
  for (int r = 0; r < R; ++r) {
    BLOOMERY_UNROLL
    for (int p = 0; p < P; ++p) V::Store(block.acc + r * block.acc_stride + p * kPanelColumns, acc[r][p]);
  }
}

// One group along K of an int8 block: exact integer sums of R rows × P panels.
template <class V, int R, int P>
inline void QuantGroupDot(const char* weights, int64_t panel_bytes, const int8_t* x, int64_t quads,
                          const int32_t* offsets, typename V::I (&dot)[R][P]) {
  BLOOMERY_UNROLL
  for (int r = 0; r < R; ++r) {
    BLOOMERY_UNROLL
    for (int p = 0; p < P; ++p) dot[r][p] = V::DotStart(offsets[r]);
  }
  for (int64_t quad = 0; quad < quads; ++quad) {
    typename V::W w[P];
    BLOOMERY_UNROLL
    for (int p = 0; p < P; ++p) {
      w[p] = V::LoadWeights(weights + p * panel_bytes);
      V::Prefetch(weights + p * panel_bytes + kPrefetchBytes<P>);
    }
    BLOOMERY_UNROLL
    for (int r = 0; r < R; ++r) {
      const typename V::X value = V::Broadcast4(x + 4 * r);
      BLOOMERY_UNROLL
      for (int p = 0; p < P; ++p) dot[r][p] = V::Dot(dot[r][p], w[p], value);
    }
    weights += 4 * kPanelColumns;
    x += 4 * R;
  }
}

// f32 accumulators live in block.acc between groups: in registers they would take the integer sums' place.
template <class V, int R, int P>
void Int8Block(const LinearBlock& block) {
  const char* weights = static_cast<const char*>(block.weights);
  const int8_t* x = static_cast<const int8_t*>(block.x);
  const float* scales = block.x_scales;
  const int32_t* offsets = block.x_offsets;
  bool resume = block.resume;
  for (int64_t k = 0; k < block.k; k += kQuantGroup) {
    const int64_t quads = (block.k - k < kQuantGroup ? block.k - k : kQuantGroup) / 4;
    typename V::I dot[R][P];
    QuantGroupDot<V, R, P>(weights, block.panel_bytes, x, quads, offsets, dot);
    BLOOMERY_UNROLL
    for (int r = 0; r < R; ++r) {
      const typename V::F scale = V::Set1(scales[r]);
      BLOOMERY_UNROLL
      for (int p = 0; p < P; ++p) {
        float* acc = block.acc + r * block.acc_stride + p * kPanelColumns;
        V::Store(acc, V::Fma(V::ToFloat(dot[r][p]), scale, resume ? V::Load(acc) : V::Zero()));
      }
    }
    weights += quads * 4 * kPanelColumns;
    x += quads * 4 * R;
    scales += R;
    offsets += R;
    resume = true;
  }
}

// 32 values along K of an int4 block: exact integer sums of R rows × P panels of the unsigned nibbles.
template <class V, int R, int P>
inline void NibbleGroupDot(const char* nibbles, int64_t panel_bytes, const int8_t* x,
                           typename V::N (&dot)[R][P]) {
  BLOOMERY_UNROLL
  for (int r = 0; r < R; ++r) {
    BLOOMERY_UNROLL
    for (int p = 0; p < P; ++p) dot[r][p] = V::NibbleZero();
  }
  BLOOMERY_UNROLL
  for (int step = 0; step < kNibbleGroup / 8; ++step) {
    typename V::W low[P];
    typename V::W high[P];
    BLOOMERY_UNROLL
    for (int p = 0; p < P; ++p) {
      V::LoadNibbles(nibbles + p * panel_bytes, low[p], high[p]);
      V::Prefetch(nibbles + p * panel_bytes + kNibblePrefetchBytes<R, P>);
    }
    BLOOMERY_UNROLL
    for (int r = 0; r < R; ++r) {
      const typename V::I first = V::Repeat4(x + 4 * r);
      const typename V::I second = V::Repeat4(x + 4 * (R + r));
      BLOOMERY_UNROLL
      for (int p = 0; p < P; ++p) {
        dot[r][p] = V::NibbleDot(V::NibbleDot(dot[r][p], low[p], first), high[p], second);
      }
    }
    nibbles += 4 * kPanelColumns;
    x += 8 * R;
  }
}

// Σ (q − z/16)·x = Σ q·x + z · (−Σx/16): the zero costs one multiply-add for 32 values.
template <class V, int R, int P>
void Int4Block(const LinearBlock& block) {
  using F = typename V::F;
  const char* weights = static_cast<const char*>(block.weights);
  const int8_t* x = static_cast<const int8_t*>(block.x);
  const float* scales = block.x_scales;
  const float* sums = block.x_sums;
  bool resume = block.resume;
  for (int64_t k = 0; k < block.k; k += kQuantGroup) {
    F total[R][P];
    BLOOMERY_UNROLL
    for (int r = 0; r < R; ++r) {
      BLOOMERY_UNROLL
      for (int p = 0; p < P; ++p) total[r][p] = V::Zero();
    }
    BLOOMERY_UNROLL
    for (int p = 0; p < P; ++p) {
      const char* header = weights + p * block.panel_bytes + kNibblePrefetchBytes<R, P>;
      V::Prefetch(header);
      V::Prefetch(header + kNibbleHeaderBytes / 2);
    }
    for (int group = 0; group < kNibbleGroups; ++group) {
      const char* nibbles = weights + kNibbleHeaderBytes + group * kNibbleGroup * kPanelColumns / 2;
      typename V::N dot[R][P];
      NibbleGroupDot<V, R, P>(nibbles, block.panel_bytes, x, dot);
      BLOOMERY_UNROLL
      for (int p = 0; p < P; ++p) {
        const char* header = weights + p * block.panel_bytes + group * kPanelColumns;
        const F scale = V::LoadBytes(header);
        const F zero = V::LoadBytes(header + kNibbleGroups * kPanelColumns);
        BLOOMERY_UNROLL
        for (int r = 0; r < R; ++r) {
          const F centred = V::Fma(zero, V::Set1(sums[r]), V::ToFloat(V::NibbleSum(dot[r][p])));
          total[r][p] = V::Fma(centred, scale, total[r][p]);
        }
      }
      x += kNibbleGroup * R;
      sums += R;
    }
    BLOOMERY_UNROLL
    for (int r = 0; r < R; ++r) {
      const F scale = V::Set1(scales[r]);
      BLOOMERY_UNROLL
      for (int p = 0; p < P; ++p) {
        float* acc = block.acc + r * block.acc_stride + p * kPanelColumns;
        V::Store(acc, V::Fma(total[r][p], scale, resume ? V::Load(acc) : V::Zero()));
      }
    }
    weights += kNibbleGroupBytes;
    scales += R;
    resume = true;
  }
}

}  // namespace bloomery::generic
