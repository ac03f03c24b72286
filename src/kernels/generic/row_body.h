// plain header: the operations that go over one row of activations, over a vector trait V: a linear layer's
// epilogue, quantisation, norms, gates, rotary positions, f32 to and from f16.
#pragma once

#include "kernels/generic/math_body.h"
#include "kernels/kernel_table.h"

namespace bloomery::generic {

template <class V>
void Epilogue(const LinearEpilogue& e) {
  for (int64_t r = 0; r < e.rows; ++r) {
    for (int c = 0; c < e.columns; c += kPanelColumns) {
      const int columns = e.columns - c < kPanelColumns ? e.columns - c : kPanelColumns;
      typename V::F value = V::Load(e.acc + r * e.acc_stride + c);
      if (e.scales != nullptr) value = V::Mul(value, V::Load(e.scales + c));
      if (e.bias != nullptr) value = V::Add(value, V::Load(e.bias + c));
      value = Activate<V>(value, e.activation);
      if (e.residual != nullptr) {
        value = V::Add(value, V::LoadFirst(e.residual + r * e.residual_stride + c, columns));
      }
      V::StoreFirst(e.y + r * e.y_stride + c, value, columns);
    }
  }
}

// Lanes of x from index k on, zero past the end.
template <class V>
inline typename V::F LoadRow(const float* x, int64_t k, int64_t end) {
  return end - k >= kPanelColumns ? V::Load(x + k)
                                  : V::LoadFirst(x + k, end > k ? static_cast<int>(end - k) : 0);
}

// scale = max|x|/127 of the group, q = x/scale rounded to nearest even. A NaN or infinity makes the scale NaN
// (x·0 is NaN for those and 0 for the rest), so that it reaches the output instead of vanishing.
template <class V>
void Quantize(const QuantizeRow& q) {
  using F = typename V::F;
  for (int64_t begin = 0, group = 0; begin < q.k; begin += kQuantGroup, ++group) {
    const int64_t end = begin + kQuantGroup;
    F largest = V::Zero();
    F poison = V::Zero();
    for (int64_t k = begin; k < end; k += kPanelColumns) {
      const F x = LoadRow<V>(q.x, k, q.k);
      largest = V::Max(V::Abs(x), largest);
      poison = V::Fma(x, V::Zero(), poison);
    }
    const float absmax = V::MaxLanes(largest);
    const F inverse = V::Set1(absmax > kQuantFloor ? 127.0F / absmax : 0.0F);
    F sum = V::Zero();   // of integers below 2²⁴: exact in any order
    F part = V::Zero();  // of the values since the last of q.sums
    for (int64_t k = begin; k < end; k += kPanelColumns) {
      F v = V::Mul(LoadRow<V>(q.x, k, q.k), inverse);
      v = V::Round(V::Min(V::Max(v, V::Set1(-127.0F)), V::Set1(127.0F)));
      sum = V::Add(sum, v);
      part = V::Add(part, v);
      if (q.sums != nullptr && (k + kPanelColumns) % kNibbleGroup == 0) {
        q.sums[k / kNibbleGroup * q.rows + q.row] = V::SumLanes(part) * (-1.0F / kNibbleZeroSteps);
        part = V::Zero();
      }
      int8_t* out = q.out + (k / q.run * q.rows + q.row) * q.run + k % q.run;
      if (q.run >= kPanelColumns) {
        V::StoreInt8(out, v);
        continue;
      }
      int8_t bytes[kPanelColumns];
      V::StoreInt8(bytes, v);
      for (int64_t i = 0; i < kPanelColumns / 4; ++i) {
        __builtin_memcpy(out + i * q.rows * 4, bytes + i * 4, 4);
      }
    }
    q.scales[group * q.rows + q.row] = absmax / 127.0F + V::SumLanes(poison);
    if (q.offsets != nullptr) {
      q.offsets[group * q.rows + q.row] = -kWeightOffset * static_cast<int32_t>(V::SumLanes(sum));
    }
  }
}

// Two passes: the mean first, then the squared distances from it, so that a large mean costs no digits.
template <class V>
void LayerNorm(const LayerNormRow& n) {
  using F = typename V::F;
  const float count = static_cast<float>(n.columns);
  F sum = V::Zero();
  for (int64_t c = 0; c < n.columns; c += kPanelColumns) sum = V::Add(sum, LoadRow<V>(n.x, c, n.columns));
  const F mean = V::Set1(V::SumLanes(sum) / count);
  F squares = V::Zero();
  for (int64_t c = 0; c < n.columns; c += kPanelColumns) {
    // Lanes past the end are set to 0.
    const int left = n.columns - c < kPanelColumns ? static_cast<int>(n.columns - c) : kPanelColumns;
    const F distance = V::KeepFirst(V::Sub(LoadRow<V>(n.x, c, n.columns), mean), left);
    squares = V::Fma(distance, distance, squares);
  }
  const F inverse = V::Div(V::Set1(1.0F), V::Sqrt(V::Set1(V::SumLanes(squares) / count + n.eps)));
  for (int64_t c = 0; c < n.columns; c += kPanelColumns) {
    const int left = n.columns - c < kPanelColumns ? static_cast<int>(n.columns - c) : kPanelColumns;
    F value = V::Mul(V::Sub(V::LoadFirst(n.x + c, left), mean), inverse);
    if (n.gain != nullptr) value = V::Mul(value, V::LoadFirst(n.gain + c, left));
    if (n.bias != nullptr) value = V::Add(value, V::LoadFirst(n.bias + c, left));
    V::StoreFirst(n.y + c, value, left);
  }
}

template <class V>
void RmsNorm(const RmsNormRow& n) {
  using F = typename V::F;
  F squares = V::Zero();
  for (int64_t c = 0; c < n.columns; c += kPanelColumns) {
    const F x = LoadRow<V>(n.x, c, n.columns);
    squares = V::Fma(x, x, squares);
  }
  const float mean = V::SumLanes(squares) / static_cast<float>(n.columns);
  const F inverse = V::Div(V::Set1(1.0F), V::Sqrt(V::Set1(mean + n.eps)));
  for (int64_t c = 0; c < n.columns; c += kPanelColumns) {
    const int left = n.columns - c < kPanelColumns ? static_cast<int>(n.columns - c) : kPanelColumns;
    F value = V::Mul(V::LoadFirst(n.x + c, left), inverse);
    if (n.gain != nullptr) value = V::Mul(value, V::LoadFirst(n.gain + c, left));
    V::StoreFirst(n.y + c, value, left);
  }
}

template <class V>
void Gate(const GateRow& g) {
  for (int64_t c = 0; c < g.columns; c += kPanelColumns) {
    const int left = g.columns - c < kPanelColumns ? static_cast<int>(g.columns - c) : kPanelColumns;
    const typename V::F gate = Activate<V>(V::LoadFirst(g.gate + c, left), g.activation);
    V::StoreFirst(g.y + c, V::Mul(gate, V::LoadFirst(g.up + c, left)), left);
  }
}

template <class V>
void Rotate(const RotateRow& r) {
  using F = typename V::F;
  for (int64_t head = 0; head < r.heads; ++head) {
    float* first = r.x + head * r.head_dim;
    float* second = first + r.pairs;
    for (int64_t i = 0; i < r.pairs; i += kPanelColumns) {
      const int left = r.pairs - i < kPanelColumns ? static_cast<int>(r.pairs - i) : kPanelColumns;
      const F cosine = V::LoadFirst(r.cosines + i, left);
      const F sine = V::LoadFirst(r.sines + i, left);
      const F a = V::LoadFirst(first + i, left);
      const F b = V::LoadFirst(second + i, left);
      V::StoreFirst(first + i, V::Sub(V::Mul(a, cosine), V::Mul(b, sine)), left);
      V::StoreFirst(second + i, V::Add(V::Mul(b, cosine), V::Mul(a, sine)), left);
    }
  }
}

template <class V>
void F32ToF16Row(const float* from, int64_t count, uint16_t* to) {
  for (int64_t i = 0; i < count; i += kPanelColumns) {
    uint16_t bits[kPanelColumns];
    V::StoreF16(bits, LoadRow<V>(from, i, count));
    const int64_t left = count - i < kPanelColumns ? count - i : kPanelColumns;
    __builtin_memcpy(to + i, bits, static_cast<size_t>(left) * sizeof(uint16_t));
  }
}

template <class V>
void F16ToF32Row(const void* from, int64_t count, float* to) {
  const char* bytes = static_cast<const char*>(from);
  for (int64_t i = 0; i < count; i += kPanelColumns) {
    const int64_t left = count - i < kPanelColumns ? count - i : kPanelColumns;
    uint16_t bits[kPanelColumns] = {};
    __builtin_memcpy(bits, bytes + i * 2, static_cast<size_t>(left) * sizeof(uint16_t));
    V::StoreFirst(to + i, V::LoadF16(bits), static_cast<int>(left));
  }
}

}  // namespace bloomery::generic
