// The forward pass: one decoder-only transformer for every described architecture, over a paged KV cache.
// Left out: which sequences share a step and what is done with the logits (engine/).
//
//   Forward:  token ids ─▶ embed (+ positions) ─▶ layers ─▶ hidden states, kept until the next Forward
//   Logits:   chosen rows of them ─▶ final norm ─▶ head
//
// Where the weights are a part of a model, all its ranks make the same calls, and rank 0 gets the logits. A
// stage of a pipeline runs ahead of the next by as many calls as their messages have room for.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "base/result.h"
#include "collective/communicator.h"
#include "model/spec.h"
#include "model/weights.h"
#include "tensor/device.h"

namespace bloomery {

// The other ranks of a model that is cut over several.
struct Peers {
  Communicator* tensor = nullptr;    // of this stage, by tensor rank; null where there is one
  Communicator* pipeline = nullptr;  // of this tensor rank, the last stage first; null where there is one
};

// Used by one thread at a time.
class Transformer {
 public:
  struct Limits {
    std::int64_t max_rows = 512;       // tokens of one step
    std::int64_t max_logit_rows = 64;  // rows of one Logits call
  };

  // The device and the peers must outlive the transformer. Fails with kOutOfMemory only.
  static Result<std::unique_ptr<Transformer>> Create(ModelSpec spec, ModelWeights weights, Device& device,
                                                     Limits limits, Peers peers = {});

  const ModelSpec& spec() const { return spec_; }
  const ModelWeights& weights() const { return weights_; }
  const Limits& limits() const { return limits_; }
  Device& device() { return device_; }

  KvCacheShape kv_shape(DType dtype) const;  // of this part

  // Runs all layers over `tokens` ([rows], rows ≤ max_rows; ids below vocab_size), which `slices` divides
  // among sequences in row order, and stores their keys and values. Positions must stay below
  // spec().max_positions. Fails where a rank is lost (kUnavailable), or weights cannot be read that are not
  // in memory.
  Status Forward(std::span<const std::int32_t> tokens, std::span<const SequenceSlice> slices, KvCache& cache);

  // Logits of rows of the last Forward: [rows.size(), vocab_size] on rank 0, valid until the next call, and
  // nothing on other ranks. rows.size() ≤ max_logit_rows. The caller may overwrite them. Fails as Forward.
  Result<std::span<float>> Logits(std::span<const std::int32_t> rows);

  // Of each row the token with the largest logit, the first of equals, on rank 0; nothing on other ranks.
  // Ranks tell each other their best candidate, not their logits.
  Result<std::span<const std::int32_t>> Best(std::span<const std::int32_t> rows);

 private:
  Transformer(ModelSpec spec, ModelWeights weights, Device& device, Limits limits, Peers peers)
      : spec_(std::move(spec)),
        weights_(std::move(weights)),
        device_(device),
        limits_(limits),
        peers_(peers) {}

  const Part& part() const { return weights_.part; }
  // Whether tensor ranks have parts of these, and not all of them each.
  bool attention_cut() const { return part().heads.size < spec_.heads; }
  bool ffn_cut() const { return part().ffn.size < spec_.ffn_size; }
  bool vocabulary_cut() const { return part().vocab_share < spec_.vocab_size; }
  // Takes part in computing logits.
  bool has_head() const { return part().last_stage() && (vocabulary_cut() || part().leads_sums()); }
  bool gets_logits() const { return part().last_stage() && part().leads_sums(); }
  int pipeline_rank(int stage) const { return part().grid.stages - 1 - stage; }

  Status AllocateWorkspace();
  // Rows `slices` of the step, through this rank's stage.
  Status ForwardRows(std::span<const std::int32_t> tokens, std::span<const SequenceSlice> slices,
                     KvCache& cache);
  Status Embed(std::span<const std::int32_t> tokens, std::span<const SequenceSlice> slices, float* x);
  // Of the slices' rows, with `offset` added, into positions_.
  void FillPositions(std::span<const SequenceSlice> slices, std::int64_t offset);
  // Rows of the embedding table, of which this rank may hold a part: [rows, embed].
  Status LookUp(std::span<const std::int32_t> tokens, float* y);
  Status AttentionBlock(const LayerWeights& layer, const LayerLinears& linears, int index, float* x,
                        std::int64_t rows, std::span<const SequenceSlice> slices, KvCache& cache);
  Status FfnBlock(const LayerWeights& layer, const LayerLinears& linears, float* x, std::int64_t rows);
  // x = W·input + residual. cut: each tensor rank has a summand of W·input.
  Status Sum(const LinearWeights& weights, bool cut, const float* input, float* x, std::int64_t rows,
             const float* residual);
  // This rank's tokens' logits: [rows, vocab share] where tokens are cut, else [rows, vocab]. The last
  // stage's.
  std::span<float> Head(std::span<const std::int32_t> rows);
  // Every tensor rank's, put together on tensor rank 0.
  Status GatherLogits(std::int64_t rows);
  Status GatherBest(std::int64_t rows);
  void Norm(const NormWeights& norm, const float* x, std::int64_t rows, float* y);
  void Linear(const LinearWeights& weights, const float* x, float* y, std::int64_t rows,
              Activation activation = Activation::kNone, const float* residual = nullptr,
              std::int64_t y_stride = 0);  // 0: no gaps between rows of y

  // Constant after construction.
  const ModelSpec spec_;
  const ModelWeights weights_;
  Device& device_;
  const Limits limits_;
  const Peers peers_;
  AlignedBuffer alibi_slopes_;             // [heads], or empty
  std::vector<float> rotary_frequencies_;  // [pairs], or empty

  // Workspace, rows up to max_rows.
  AlignedBuffer x_;                      // [rows, hidden]: the residual stream
  AlignedBuffer normed_;                 // [rows, hidden]
  AlignedBuffer ffn_normed_;             // [rows, hidden], only where attention and FFN run in parallel
  AlignedBuffer angles_;                 // [rows, 2·pairs], only for rotary positions
  AlignedBuffer qkv_;                    // [rows, (heads + 2·kv_heads)·head_dim]
  AlignedBuffer context_;                // [rows, heads·head_dim]: attention's output
  AlignedBuffer ffn_;                    // [rows, ffn], or both halves of a gated FFN
  AlignedBuffer gated_;                  // [rows, ffn], only where the FFN is gated
  AlignedBuffer embed_;                  // [rows, embed], only where it is projected
  AlignedBuffer last_;                   // [logit rows, hidden]
  AlignedBuffer last_embed_;             // [logit rows, embed], only where it is projected
  AlignedBuffer share_;                  // [logit rows, vocab share], only where tokens are cut
  AlignedBuffer shares_;                 // [ranks, logit rows, vocab share], there on tensor rank 0
  AlignedBuffer logits_;                 // [logit rows, vocab]
  std::vector<float> candidates_;        // [ranks, rows, 2]: a token and its logit
  std::vector<std::int32_t> best_;       // [rows]
  std::vector<std::int32_t> positions_;  // [rows]; also ids of the part's tokens
};

}  // namespace bloomery
