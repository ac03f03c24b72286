// What the forward pass asks of a processor: hold packed weights and a KV cache, and run the handful of
// operations that a decoder-only transformer is made of. kernels/ implements it for the CPU; a GPU would be a
// second folder beside it.
//
// Nothing above this interface knows an intrinsic or a packed layout. Left out: which operations run in which
// order (model/), which sequences share a step (engine/).
//
// Repeatability: every operation computes each output row from that row's inputs alone, with its sums in one
// fixed order that depends neither on the other rows nor on the number of threads. Engines build "a request's
// tokens depend on the request alone" on this.
//
// Threads: one thread drives a Device; operations use the device's own pool inside and have finished when
// they return. Pointers are device memory from Allocate (host memory on the CPU). Shapes are row-major;
// `_stride` counts elements. Shapes are the caller's contract (asserted); only calls that return Result can
// fail.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "tensor/aligned_buffer.h"
#include "tensor/tensor_view.h"

namespace bloomery {

enum class Activation : std::uint8_t {
  kNone,
  kRelu,
  kGeluTanh,  // 0.5x(1 + tanh(√(2/π)(x + 0.044715x³))): BLOOM, "gelu_new"
  kGeluErf,   // 0.5x(1 + erf(x/√2)): "gelu"
  kSilu,      // x / (1 + e^(−x))
};

// Where the rows of a linear layer's weight matrix come from: row ranges of checkpoint tensors, put one below
// the other. OPT's separate q, k and v become one [3·hidden, hidden] this way, and BLOOM's per-head
// interleaving is undone by it.
//
//   parts[0]: tensor rows [first_row, first_row + rows)  ──▶ output features [0, rows)
//   parts[1]: …                                          ──▶ the next ones
struct RowRange {
  const TensorView* tensor = nullptr;  // [*, in_features] f32, f16 or bf16 (for biases: [*])
  std::int64_t first_row = 0;
  std::int64_t rows = 0;
};

struct LinearSource {
  std::int64_t out_features = 0;
  std::int64_t in_features = 0;
  std::vector<RowRange> weight;   // rows add up to out_features
  std::int64_t first_column = 0;  // of the weights' tensors, from which in_features are taken
  std::int64_t columns = 0;       // that they have; 0: in_features
  bool transposed = false;        // the weights' tensors are [in, out]: "rows" are their columns and reverse
  std::vector<RowRange> bias;     // rows add up to out_features, or empty for no bias
  // Factors applied while packing: weight[o, i] · out_scale[o] · in_scale[i] and bias[o] · out_scale[o].
  // Empty for none; must live until PackLinear returns.
  std::span<const float> in_scale = {};   // [in_features]
  std::span<const float> out_scale = {};  // [out_features]
};

// Largest magnitudes of a weight matrix, factors aside.
struct LinearPeaks {
  std::vector<float> in;   // [in_features]: of each column
  std::vector<float> out;  // [out_features]: of each row
};

// A linear layer in the device's packed layout. Immutable.
class LinearWeights {
 public:
  virtual ~LinearWeights() = default;
  virtual std::int64_t out_features() const = 0;
  virtual std::int64_t in_features() const = 0;
  virtual DType dtype() const = 0;
  // Bytes that one pass over the layer reads: packed weights, scales and bias.
  virtual std::uint64_t size_bytes() const = 0;
  // Of a layer that was joined from pieces; empty for others.
  virtual std::span<const std::unique_ptr<LinearWeights>> pieces() const { return {}; }
};

// Packed bytes of a linear layer that somebody else keeps (a mapped file), of which some rows are wanted.
struct MappedLinear {
  std::int64_t out_features = 0;  // of the whole
  std::int64_t in_features = 0;
  bool has_bias = false;
  DType dtype = DType::kF32;
  std::span<const std::byte> bytes;   // as Device::Packed gave them, perhaps with more after them
  std::int64_t first_row = 0;         // a multiple of Device::kRowStep
  std::int64_t rows = 0;              // also, or up to the last
  std::shared_ptr<const void> owner;  // keeps the bytes
};

enum class JoinedBy : std::uint8_t {
  kOutputs,  // the pieces' outputs, one after the other
  kInputs,   // each piece takes its inputs, one after the other; outputs are added in the pieces' order
};

// Keys and values of all layers, in blocks of kKvBlockTokens tokens. Layout is the device's own.
inline constexpr int kKvBlockTokens = 16;

struct KvCacheShape {
  int layers = 0;
  int heads = 0;  // KV heads
  int head_dim = 0;
  DType dtype = DType::kF32;  // f32, f16, bf16 or int8 (one scale for each token, head, key and value)

  // Of one key or one value of one head.
  std::uint64_t HeadBytes() const {
    return static_cast<std::uint64_t>(head_dim) * SizeOf(dtype) + (dtype == DType::kI8 ? sizeof(float) : 0);
  }
  std::uint64_t BytesPerToken() const {
    return 2ULL * static_cast<std::uint64_t>(layers) * static_cast<std::uint64_t>(heads) * HeadBytes();
  }
};

class KvCache {
 public:
  virtual ~KvCache() = default;
  virtual const KvCacheShape& shape() const = 0;
  virtual std::int64_t blocks() const = 0;
};

// Consecutive tokens of one sequence inside a step.
struct SequenceSlice {
  const std::int32_t* blocks = nullptr;  // block table: token t lives in block blocks[t / kKvBlockTokens]
  std::int64_t first_row = 0;            // rows [first_row, first_row + rows) of the step's activations
  std::int64_t rows = 0;
  std::int64_t first_position =
      0;  // tokens of the sequence already in the cache; row r has position first_position + r
};

class Device {
 public:
  virtual ~Device() = default;

  // "cpu avx512-vnni, 2 threads": for people.
  virtual std::string Describe() const = 0;
  virtual int threads() const = 0;

  // Zero-filled, aligned for any kernel.
  virtual Result<AlignedBuffer> Allocate(std::size_t size_bytes) = 0;

  // --- weights
  // ---------------------------------------------------------------------------------------------------------

  // Converts and packs, in parallel. `dtype`: f32, f16, bf16, int8 (symmetric, one scale per output
  // feature) or int4 (a scale and a zero for 32 values along K).
  virtual Result<std::unique_ptr<LinearWeights>> PackLinear(const LinearSource& source, DType dtype) = 0;

  // For choosing factors; errors as PackLinear's.
  virtual Result<LinearPeaks> MeasurePeaks(const LinearSource& source) = 0;

  // Random weights made in place, for measuring shapes without a checkpoint: uniform with the given standard
  // deviation, the same for the same seed whatever the number of threads. Bias zeros if has_bias.
  virtual Result<std::unique_ptr<LinearWeights>> RandomLinear(std::int64_t out_features,
                                                              std::int64_t in_features, bool has_bias,
                                                              DType dtype, float stddev,
                                                              std::uint64_t seed) = 0;

  // Rows of a linear layer that lie together in the packed layout.
  static constexpr std::int64_t kRowStep = 16;

  // What the layout of packed bytes is called; layers mapped from other bytes would be nonsense.
  virtual std::string PackedLayout() const = 0;

  // The bytes of a layer that PackLinear or RandomLinear made, as MapLinear takes them: PackedBytes many.
  virtual std::span<const std::byte> Packed(const LinearWeights& weights) const = 0;

  // Without a copy. `bytes` must be aligned to 64. kInvalidArgument for rows that are not there or cannot be
  // cut out, kCorrupt for too few bytes.
  virtual Result<std::unique_ptr<LinearWeights>> MapLinear(const MappedLinear& mapped) = 0;

  // One layer of several, of matching sizes. Only the first may have a bias where inputs are joined.
  virtual std::unique_ptr<LinearWeights> JoinLinear(std::vector<std::unique_ptr<LinearWeights>> pieces,
                                                    JoinedBy by) = 0;

  // Bytes PackLinear would allocate, without doing it.
  virtual std::uint64_t PackedBytes(std::int64_t out_features, std::int64_t in_features, bool has_bias,
                                    DType dtype) const = 0;

  // --- operations
  // ------------------------------------------------------------------------------------------------------

  // y[r, :] = activation(W·x[r, :] + bias) (+ residual[r, :]). x: [rows, in], y and residual: [rows, out].
  // residual may be y itself or null. x must not overlap y. Strides are in elements and at least the row
  // length.
  struct LinearArgs {
    const LinearWeights* weights = nullptr;
    const float* x = nullptr;
    std::int64_t x_stride = 0;
    float* y = nullptr;
    std::int64_t y_stride = 0;
    std::int64_t rows = 0;
    Activation activation = Activation::kNone;
    const float* residual = nullptr;
    std::int64_t residual_stride = 0;
  };
  virtual void Linear(const LinearArgs& args) = 0;

  // y[r, :] = row ids[r] of an embedding table that is held as linear weights [vocab, cols] (tied with the
  // head). ids are in [0, vocab), or -1 for a row of zeros.
  virtual void Embed(const LinearWeights& table, std::span<const std::int32_t> ids, float* y,
                     std::int64_t y_stride) = 0;

  // y[r, :] += table[index[r], :]; table: [*, cols] f32.
  virtual void AddRows(const float* table, std::span<const std::int32_t> index, std::int64_t cols, float* y,
                       std::int64_t y_stride) = 0;

  // y[r, :] = (x[r, :] − mean) / √(variance + eps) · gain + bias; gain and bias [cols], either may be null. y
  // may be x.
  virtual void LayerNorm(const float* x, std::int64_t x_stride, std::int64_t rows, std::int64_t cols,
                         const float* gain, const float* bias, float eps, float* y,
                         std::int64_t y_stride) = 0;

  // y[r, :] = x[r, :] / √(mean of the squares of x[r, :] + eps) · gain; gain [cols] or null. y may be x.
  virtual void RmsNorm(const float* x, std::int64_t x_stride, std::int64_t rows, std::int64_t cols,
                       const float* gain, float eps, float* y, std::int64_t y_stride) = 0;

  // y[r, c] = activation(x[r, c]) · x[r, cols + c], the inside of a gated FFN. x: [rows, 2 · cols], y: [rows,
  // cols]; y may be x.
  virtual void Gate(const float* x, std::int64_t x_stride, std::int64_t rows, std::int64_t cols,
                    Activation activation, float* y, std::int64_t y_stride) = 0;

  // For Rotate: angles[r, :] = cos(a[0]) … cos(a[pairs − 1]), sin(a[0]) … sin(a[pairs − 1]) with a[i] =
  // positions[r] · frequencies[i] in f32. frequencies: [pairs], angles: [rows, 2 · pairs].
  virtual void RotaryAngles(std::span<const float> frequencies, std::span<const std::int32_t> positions,
                            float* angles) = 0;

  // Turns features i and i + pairs, i < pairs, of each head in x[r, :] by the angles of row r, in place:
  // (a, b) becomes (a·cos − b·sin, b·cos + a·sin). A head's features from 2 · pairs on stay.
  struct RotateArgs {
    const float* angles = nullptr;  // [rows, 2 · pairs]
    std::int64_t pairs = 0;
    float* x = nullptr;  // [rows, heads · head_dim]
    std::int64_t x_stride = 0;
    std::int64_t rows = 0;
    std::int64_t heads = 0;
    std::int64_t head_dim = 0;
  };
  virtual void Rotate(const RotateArgs& args) = 0;

  // out[i, :] = x[rows[i], :].
  virtual void GatherRows(const float* x, std::int64_t x_stride, std::span<const std::int32_t> rows,
                          std::int64_t cols, float* out, std::int64_t out_stride) = 0;

  // best[i]: the column of the largest value of x[i, :], the first of equals.
  virtual void ArgmaxRows(const float* x, std::int64_t x_stride, std::int64_t cols,
                          std::span<std::int32_t> best) = 0;

  // --- attention
  // -------------------------------------------------------------------------------------------------------

  // kOutOfMemory where it would not fit in what the machine has left.
  virtual Result<std::unique_ptr<KvCache>> AllocateKvCache(const KvCacheShape& shape,
                                                           std::int64_t blocks) = 0;

  // Appends k and v of the slices' rows at their positions in `layer`. k, v: [rows, heads · head_dim] with
  // stride `stride`.
  virtual void StoreKv(KvCache& cache, int layer, const float* k, const float* v, std::int64_t stride,
                       std::span<const SequenceSlice> slices) = 0;

  // Causal softmax attention of each row over its own sequence's cache, positions 0 … its own (already
  // stored): score(key) = scale · q·k + slope[head] · key_position, f32 softmax. q, out: [rows, heads ·
  // head_dim]. alibi_slopes: [heads] or null. Query heads may be a multiple of KV heads.
  struct AttentionArgs {
    const KvCache* cache = nullptr;
    int layer = 0;
    int heads = 0;
    const float* q = nullptr;
    std::int64_t q_stride = 0;
    float* out = nullptr;
    std::int64_t out_stride = 0;
    float scale = 1.0F;
    const float* alibi_slopes = nullptr;
    std::span<const SequenceSlice> slices;
  };
  virtual void Attention(const AttentionArgs& args) = 0;

  // Copies one block of every layer: what a forked sequence (beams, several samples) does with its last,
  // unfilled block.
  virtual void CopyKvBlock(KvCache& cache, std::int32_t from, std::int32_t to) = 0;

  // --- limits
  // ----------------------------------------------------------------------------------------------------------

  // Bytes per second that all threads together read these weights with and do nothing else: the limit of a
  // decode step that goes through them. The very bytes, because memory is not equally fast everywhere (a
  // machine's own and another node's, to begin with). Takes at least one pass and about `budget_ms`; the best
  // of its passes.
  virtual double MeasureReadBandwidth(std::span<const LinearWeights* const> weights, int budget_ms) = 0;
};

}  // namespace bloomery
