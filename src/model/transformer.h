// The forward pass: one decoder-only transformer for every described architecture, over a paged KV cache.
// Left out: which sequences share a step and what is done with the logits (engine/).
//
//   Forward:  token ids ─▶ embed (+ positions) ─▶ layers ─▶ hidden states, kept until the next Forward
//   Logits:   chosen rows of them ─▶ final norm ─▶ head
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "base/result.h"
#include "model/spec.h"
#include "model/weights.h"
#include "tensor/device.h"

namespace bloomery {

// Used by one thread at a time.
class Transformer {
 public:
  struct Limits {
    std::int64_t max_rows = 512;       // tokens of one step
    std::int64_t max_logit_rows = 64;  // rows of one Logits call
  };

  // The device must outlive the transformer. Fails with kOutOfMemory only.
  static Result<std::unique_ptr<Transformer>> Create(ModelSpec spec, ModelWeights weights, Device& device,
                                                     Limits limits);

  const ModelSpec& spec() const { return spec_; }
  const ModelWeights& weights() const { return weights_; }
  const Limits& limits() const { return limits_; }
  Device& device() { return device_; }

  KvCacheShape kv_shape(DType dtype) const;

  // Runs all layers over `tokens` ([rows], rows ≤ max_rows; ids below vocab_size), which `slices` divides
  // among sequences in row order, and stores their keys and values. Positions must stay below
  // spec().max_positions.
  void Forward(std::span<const std::int32_t> tokens, std::span<const SequenceSlice> slices, KvCache& cache);

  // Logits of rows of the last Forward: [rows.size(), vocab_size], valid until the next call. rows.size() ≤
  // max_logit_rows. The caller may overwrite them.
  std::span<float> Logits(std::span<const std::int32_t> rows);

 private:
  Transformer(ModelSpec spec, ModelWeights weights, Device& device, Limits limits)
      : spec_(std::move(spec)), weights_(std::move(weights)), device_(device), limits_(limits) {}

  Status AllocateWorkspace();
  void Embed(std::span<const std::int32_t> tokens, std::span<const SequenceSlice> slices);
  void AttentionBlock(const LayerWeights& layer, int index, std::int64_t rows,
                      std::span<const SequenceSlice> slices, KvCache& cache);
  void FfnBlock(const LayerWeights& layer, std::int64_t rows);
  void Norm(const NormWeights& norm, const float* x, std::int64_t rows, float* y);
  void Linear(const LinearWeights& weights, const float* x, float* y, std::int64_t rows,
              Activation activation = Activation::kNone, const float* residual = nullptr);

  // Constant after construction.
  const ModelSpec spec_;
  const ModelWeights weights_;
  Device& device_;
  const Limits limits_;
  AlignedBuffer alibi_slopes_;  // [heads], or empty

  // Workspace, rows up to max_rows.
  AlignedBuffer x_;                      // [rows, hidden]: the residual stream
  AlignedBuffer normed_;                 // [rows, hidden]
  AlignedBuffer qkv_;                    // [rows, 3·hidden]
  AlignedBuffer context_;                // [rows, hidden]: attention's output
  AlignedBuffer ffn_;                    // [rows, ffn]
  AlignedBuffer embed_;                  // [rows, embed], only where it is projected
  AlignedBuffer last_;                   // [logit rows, hidden]
  AlignedBuffer last_embed_;             // [logit rows, embed], only where it is projected
  AlignedBuffer logits_;                 // [logit rows, vocab]
  std::vector<std::int32_t> positions_;  // [rows]
};

}  // namespace bloomery
