// The scalar truth: every entry of the kernel table in plain C++ for the x86-64 baseline, one row and one
// panel at a time, written for reading. The vector kernels are tested against the same definitions.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include "kernels/kernel_table.h"
#include "tensor/dtype.h"

namespace bloomery {
namespace {

struct F32Element {
  using Type = float;
  static float Read(float value) { return value; }
};
struct F16Element {
  using Type = std::uint16_t;
  static float Read(std::uint16_t bits) { return F16ToF32(bits); }
};
struct BF16Element {
  using Type = std::uint16_t;
  static float Read(std::uint16_t bits) { return BF16ToF32(bits); }
};

// Of the KV cache alone: int8 weights have kernels of their own.
struct Int8Element {
  using Type = std::int8_t;
  static float Read(std::int8_t value) { return value; }
};

// kGroup values along k lie side by side in a lane: 2 for bf16, 1 otherwise.
template <typename Element, int kGroup>
void FloatBlock(const LinearBlock& block) {
  const auto* weights = static_cast<const typename Element::Type*>(block.weights);
  const auto* x = static_cast<const float*>(block.x);
  if (!block.resume) std::fill_n(block.acc, kPanelColumns, 0.0F);
  for (std::int64_t k = 0; k < block.k; ++k) {
    const auto* step = weights + k / kGroup * kGroup * kPanelColumns + k % kGroup;
    for (int lane = 0; lane < kPanelColumns; ++lane)
      block.acc[lane] += Element::Read(step[lane * kGroup]) * x[k];
  }
}

void Int8Block(const LinearBlock& block) {
  const auto* weights = static_cast<const std::uint8_t*>(block.weights);
  const auto* x = static_cast<const std::int8_t*>(block.x);
  if (!block.resume) std::fill_n(block.acc, kPanelColumns, 0.0F);
  for (std::int64_t begin = 0, group = 0; begin < block.k; begin += kQuantGroup, ++group) {
    const std::int64_t end = std::min(block.k, begin + kQuantGroup);
    for (int lane = 0; lane < kPanelColumns; ++lane) {
      std::int32_t dot = 0;
      for (std::int64_t k = begin; k < end; ++k) {
        dot += (weights[(k / 4 * kPanelColumns + lane) * 4 + k % 4] - kWeightOffset) * x[k];
      }
      block.acc[lane] += static_cast<float>(dot) * block.x_scales[group];
    }
  }
}

void Int4Block(const LinearBlock& block) {
  const auto* weights = static_cast<const std::uint8_t*>(block.weights);
  const auto* x = static_cast<const std::int8_t*>(block.x);
  if (!block.resume) std::fill_n(block.acc, kPanelColumns, 0.0F);
  for (std::int64_t begin = 0; begin < block.k; begin += kQuantGroup, weights += kNibbleGroupBytes) {
    for (int lane = 0; lane < kPanelColumns; ++lane) {
      float total = 0;
      for (int group = 0; group < kNibbleGroups; ++group) {
        std::int32_t dot = 0;
        for (int k = group * kNibbleGroup; k < (group + 1) * kNibbleGroup; ++k) {
          const std::uint8_t pair = weights[kNibbleHeaderBytes + (k / 8 * kPanelColumns + lane) * 4 + k % 4];
          dot += (k % 8 < 4 ? pair & 15 : pair >> 4) * x[begin + k];
        }
        const auto scale = static_cast<float>(weights[group * kPanelColumns + lane]);
        const auto zero = static_cast<float>(weights[(kNibbleGroups + group) * kPanelColumns + lane]);
        const float sum = block.x_sums[(begin / kNibbleGroup) + group];
        total += scale * (static_cast<float>(dot) + zero * sum);
      }
      block.acc[lane] += total * block.x_scales[begin / kQuantGroup];
    }
  }
}

float Activate(float x, int activation) {
  switch (activation) {
    case kActRelu:
      return x < 0.0F ? 0.0F : x;
    case kActGeluTanh:
      return 0.5F * x * (1.0F + std::tanh(0.79788456F * (x + 0.044715F * x * x * x)));
    case kActGeluErf:
      return 0.5F * x * (1.0F + std::erf(x * 0.70710678F));
    case kActSilu:
      return x / (1.0F + std::exp(-x));
    default:
      return x;
  }
}

void Epilogue(const LinearEpilogue& e) {
  for (std::int64_t r = 0; r < e.rows; ++r) {
    for (int c = 0; c < e.columns; ++c) {
      float value = e.acc[r * e.acc_stride + c];
      if (e.scales != nullptr) value *= e.scales[c];
      if (e.bias != nullptr) value += e.bias[c];
      value = Activate(value, e.activation);
      if (e.residual != nullptr) value += e.residual[r * e.residual_stride + c];
      e.y[r * e.y_stride + c] = value;
    }
  }
}

void Quantize(const QuantizeRow& q) {
  for (std::int64_t begin = 0, group = 0; begin < q.k; begin += kQuantGroup, ++group) {
    const std::int64_t end = begin + kQuantGroup;
    float absmax = 0.0F;
    float poison = 0.0F;  // becomes NaN where the group holds a NaN or an infinity
    for (std::int64_t k = begin; k < std::min(end, q.k); ++k) {
      const float magnitude = std::fabs(q.x[k]);
      absmax = magnitude > absmax ? magnitude : absmax;
      poison += q.x[k] * 0.0F;
    }
    const float inverse = absmax > kQuantFloor ? 127.0F / absmax : 0.0F;
    std::int32_t sum = 0;
    for (std::int64_t k = begin; k < end; ++k) {
      float v = k < q.k ? q.x[k] * inverse : 0.0F;
      v = v > -127.0F ? v : -127.0F;  // NaN too
      v = v < 127.0F ? v : 127.0F;
      const auto rounded = static_cast<std::int8_t>(std::nearbyint(v));
      q.out[(k / q.run * q.rows + q.row) * q.run + k % q.run] = rounded;
      sum += rounded;
      if (q.sums != nullptr) {
        float& part = q.sums[k / kNibbleGroup * q.rows + q.row];
        part = (k % kNibbleGroup == 0 ? 0.0F : part) - static_cast<float>(rounded) / kNibbleZeroSteps;
      }
    }
    q.scales[group * q.rows + q.row] = absmax / 127.0F + poison;
    if (q.offsets != nullptr) q.offsets[group * q.rows + q.row] = -kWeightOffset * sum;
  }
}

void LayerNorm(const LayerNormRow& n) {
  const auto count = static_cast<double>(n.columns);
  double sum = 0;
  for (std::int64_t c = 0; c < n.columns; ++c) sum += static_cast<double>(n.x[c]);
  const double mean = sum / count;
  double squares = 0;
  for (std::int64_t c = 0; c < n.columns; ++c) {
    const double distance = static_cast<double>(n.x[c]) - mean;
    squares += distance * distance;
  }
  const double inverse = 1.0 / std::sqrt(squares / count + static_cast<double>(n.eps));
  for (std::int64_t c = 0; c < n.columns; ++c) {
    auto value = static_cast<float>((static_cast<double>(n.x[c]) - mean) * inverse);
    if (n.gain != nullptr) value *= n.gain[c];
    if (n.bias != nullptr) value += n.bias[c];
    n.y[c] = value;
  }
}

void RmsNorm(const RmsNormRow& n) {
  double squares = 0;
  for (std::int64_t c = 0; c < n.columns; ++c)
    squares += static_cast<double>(n.x[c]) * static_cast<double>(n.x[c]);
  const double mean = squares / static_cast<double>(n.columns);
  const double inverse = 1.0 / std::sqrt(mean + static_cast<double>(n.eps));
  for (std::int64_t c = 0; c < n.columns; ++c) {
    const auto value = static_cast<float>(static_cast<double>(n.x[c]) * inverse);
    n.y[c] = n.gain != nullptr ? value * n.gain[c] : value;
  }
}

void Gate(const GateRow& g) {
  for (std::int64_t c = 0; c < g.columns; ++c) g.y[c] = Activate(g.gate[c], g.activation) * g.up[c];
}

void Rotate(const RotateRow& r) {
  for (std::int64_t head = 0; head < r.heads; ++head) {
    float* x = r.x + head * r.head_dim;
    for (std::int64_t i = 0; i < r.pairs; ++i) {
      const float a = x[i];
      const float b = x[i + r.pairs];
      x[i] = a * r.cosines[i] - b * r.sines[i];
      x[i + r.pairs] = b * r.cosines[i] + a * r.sines[i];
    }
  }
}

template <typename Element>
const typename Element::Type* BlockAt(const void* base, const AttentionRows& a, std::int64_t key) {
  return reinterpret_cast<const typename Element::Type*>(static_cast<const std::byte*>(base) +
                                                         a.blocks[key / kKvTokens] * a.block_bytes);
}

// Of a token in a block of keys or values; 1 for the types that need none.
template <typename Element>
float ScaleOf(const typename Element::Type* block, const AttentionRows& a, std::int64_t key) {
  if constexpr (sizeof(typename Element::Type) > 1) return 1.0F;
  float scale = 0;
  const auto* scales = reinterpret_cast<const std::byte*>(block + std::ptrdiff_t{a.head_dim} * kKvTokens);
  std::memcpy(&scale, scales + key % kKvTokens * sizeof(scale), sizeof(scale));
  return scale;
}

template <typename Element>
float Score(const AttentionRows& a, const float* q, std::int64_t key) {
  const auto* block = BlockAt<Element>(a.key_base, a, key);
  const auto* keys = block + key % kKvTokens;
  float dot = 0;
  for (int d = 0; d < a.head_dim; ++d) dot += q[d] * Element::Read(keys[d * kKvTokens]);
  return dot * ScaleOf<Element>(block, a, key) * a.scale + static_cast<float>(key) * a.slope;
}

// Two passes and scores computed twice: no scratch that grows with the context, and nothing to get wrong.
template <typename Element>
void AttendRow(const AttentionRows& a, int row) {
  const std::int64_t keys = a.keys + row;
  const float* q = a.q + row * a.q_stride;
  float largest = -std::numeric_limits<float>::infinity();
  for (std::int64_t key = 0; key < keys; ++key) largest = std::max(largest, Score<Element>(a, q, key));
  std::fill_n(a.scratch, a.head_dim, 0.0F);
  float sum = 0;
  for (std::int64_t key = 0; key < keys; ++key) {
    const float weight = std::exp(Score<Element>(a, q, key) - largest);
    const auto* block = BlockAt<Element>(a.value_base, a, key);
    const auto* value = block + key % kKvTokens * a.head_dim;
    const float scaled = weight * ScaleOf<Element>(block, a, key);
    for (int d = 0; d < a.head_dim; ++d) a.scratch[d] += scaled * Element::Read(value[d]);
    sum += weight;
  }
  for (int d = 0; d < a.head_dim; ++d) a.out[row * a.out_stride + d] = a.scratch[d] / sum;
}

template <typename Element>
void Attention(const AttentionRows& a) {
  for (int row = 0; row < a.rows; ++row) AttendRow<Element>(a, row);
}

void F32ToF16Row(const float* from, std::int64_t count, std::uint16_t* to) {
  std::transform(from, from + count, to, F32ToF16);
}

void F16ToF32Row(const void* from, std::int64_t count, float* to) {
  const auto* bytes = static_cast<const std::byte*>(from);
  for (std::int64_t i = 0; i < count; ++i) {
    std::uint16_t bits = 0;
    std::memcpy(&bits, bytes + 2 * i, sizeof(bits));
    to[i] = F16ToF32(bits);
  }
}

std::uint64_t ReadBytes(const void* from, std::size_t size_bytes) {
  const auto* bytes = static_cast<const std::byte*>(from);
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i + sizeof(sum) <= size_bytes; i += sizeof(sum)) {
    std::uint64_t value = 0;
    std::memcpy(&value, bytes + i, sizeof(value));
    sum += value;
  }
  return sum;
}

constexpr LinearKernels OneByOne(int run, void (*block)(const LinearBlock&)) {
  return {.few = {{1, 1, run, block, block}}, .many = {1, 1, run, block, block}};
}

}  // namespace

const KernelTable kRefKernels = {
    .linear = {OneByOne(0, FloatBlock<F32Element, 1>), OneByOne(0, FloatBlock<F16Element, 1>),
               OneByOne(0, FloatBlock<BF16Element, 2>), OneByOne(4, Int8Block), OneByOne(4, Int4Block)},
    .epilogue = Epilogue,
    .quantize_row = Quantize,
    .round_row = nullptr,
    .layer_norm_row = LayerNorm,
    .rms_norm_row = RmsNorm,
    .gate_row = Gate,
    .rotate_row = Rotate,
    .attention = {Attention<F32Element>, Attention<F16Element>, Attention<BF16Element>,
                  Attention<Int8Element>},
    .f32_to_f16 = F32ToF16Row,
    .f16_to_f32 = F16ToF32Row,
    .read_bytes = ReadBytes,
};

}  // namespace bloomery
