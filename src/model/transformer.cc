#include "model/transformer.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>

#include "model/layer_stream.h"

namespace bloomery {
namespace {

// Rows that a stage of a pipeline passes on at a time: enough that computing, not reading weights, is what
// takes the time, so that stages can work side by side on the pieces of one long step.
constexpr std::int64_t kPipelineRows = 64;

}  // namespace

Result<std::unique_ptr<Transformer>> Transformer::Create(ModelSpec spec, ModelWeights weights, Device& device,
                                                         Limits limits, Peers peers) {
  std::unique_ptr<Transformer> transformer(
      new Transformer(std::move(spec), std::move(weights), device, limits, peers));
  RETURN_IF_ERROR(transformer->AllocateWorkspace());
  return transformer;
}

Status Transformer::AllocateWorkspace() {
  const auto floats = [this](std::int64_t rows, std::int64_t cols, AlignedBuffer& buffer) -> Status {
    ASSIGN_OR_RETURN(buffer, device_.Allocate(static_cast<std::size_t>(rows * cols) * sizeof(float)));
    return {};
  };
  const std::int64_t rows = limits_.max_rows;
  const std::int64_t logit_rows = limits_.max_logit_rows;
  const std::int64_t context = part().heads.size * spec_.head_dim;
  const std::int64_t kv = part().kv_heads.size * spec_.head_dim;
  RETURN_IF_ERROR(floats(rows, spec_.hidden_size, x_));
  RETURN_IF_ERROR(floats(rows, spec_.hidden_size, normed_));
  if (spec_.parallel_residual) RETURN_IF_ERROR(floats(rows, spec_.hidden_size, ffn_normed_));
  RETURN_IF_ERROR(floats(rows, context + 2 * kv, qkv_));
  RETURN_IF_ERROR(floats(rows, context, context_));
  RETURN_IF_ERROR(floats(rows, (spec_.gated_ffn ? 2 : 1) * part().ffn.size, ffn_));
  if (spec_.gated_ffn) RETURN_IF_ERROR(floats(rows, part().ffn.size, gated_));
  if (part().last_stage()) RETURN_IF_ERROR(floats(logit_rows, spec_.hidden_size, last_));
  if (gets_logits()) RETURN_IF_ERROR(floats(logit_rows, spec_.vocab_size, logits_));
  if (vocabulary_cut() && part().last_stage()) {
    RETURN_IF_ERROR(floats(logit_rows, part().vocab_share, share_));
    if (part().leads_sums())
      RETURN_IF_ERROR(floats(part().grid.tensor_ranks * logit_rows, part().vocab_share, shares_));
  }
  if (spec_.projected()) {
    RETURN_IF_ERROR(floats(rows, spec_.embed_size, embed_));
    RETURN_IF_ERROR(floats(logit_rows, spec_.embed_size, last_embed_));
  }
  if (spec_.positions == PositionKind::kAlibi) {
    const std::vector<float> slopes = AlibiSlopes(spec_.heads);
    const auto heads = static_cast<std::size_t>(part().heads.size);
    RETURN_IF_ERROR(floats(1, part().heads.size, alibi_slopes_));
    std::memcpy(alibi_slopes_.data(), slopes.data() + part().heads.begin, heads * sizeof(float));
  }
  if (spec_.positions == PositionKind::kRotary) {
    rotary_frequencies_ = RotaryFrequencies(spec_.rotary);
    RETURN_IF_ERROR(floats(rows, spec_.rotary.dims, angles_));
  }
  positions_.reserve(static_cast<std::size_t>(rows));
  return {};
}

KvCacheShape Transformer::kv_shape(DType dtype) const {
  return {static_cast<int>(part().layers.size), static_cast<int>(part().kv_heads.size),
          static_cast<int>(spec_.head_dim), dtype};
}

Status Transformer::Forward(std::span<const std::int32_t> tokens, std::span<const SequenceSlice> slices,
                            KvCache& cache) {
  assert(!tokens.empty() && static_cast<std::int64_t>(tokens.size()) <= limits_.max_rows);
  if (peers_.pipeline == nullptr) return ForwardRows(tokens, slices, cache);
  // Pieces of kPipelineRows rows: while one stage works on a piece, the one before works on the next.
  std::vector<SequenceSlice> piece;
  std::int64_t rows = 0;
  for (const SequenceSlice& slice : slices) {
    for (std::int64_t done = 0; done < slice.rows;) {
      const std::int64_t take = std::min(slice.rows - done, kPipelineRows - rows);
      piece.push_back({slice.blocks, slice.first_row + done, take, slice.first_position + done});
      done += take;
      rows += take;
      if (rows < kPipelineRows) continue;
      RETURN_IF_ERROR(ForwardRows(tokens, piece, cache));
      piece.clear();
      rows = 0;
    }
  }
  return piece.empty() ? Status() : ForwardRows(tokens, piece, cache);
}

// The slices' rows follow each other; operations get their first row's address and count rows from there.
Status Transformer::ForwardRows(std::span<const std::int32_t> tokens, std::span<const SequenceSlice> slices,
                                KvCache& cache) {
  const std::int64_t first = slices.front().first_row;
  const std::int64_t rows = slices.back().first_row + slices.back().rows - first;
  float* x = x_.as<float>() + first * spec_.hidden_size;
  std::vector<SequenceSlice> local(slices.begin(), slices.end());
  for (SequenceSlice& slice : local) slice.first_row -= first;
  const std::span activations(x, static_cast<std::size_t>(rows * spec_.hidden_size));
  if (part().first_stage()) {
    RETURN_IF_ERROR(
        Embed(tokens.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(rows)), local, x));
  } else {
    RETURN_IF_ERROR(peers_.pipeline->Receive(activations, pipeline_rank(part().stage - 1)));
  }
  if (spec_.positions == PositionKind::kRotary) {
    FillPositions(local, 0);
    device_.RotaryAngles(rotary_frequencies_, positions_, angles_.as<float>());
  }
  for (std::size_t i = 0; i < weights_.layers.size(); ++i) {
    const LayerWeights& layer = weights_.layers[i];
    const bool streams = weights_.stream && weights_.stream->Streams(i);
    const LayerLinears* linears = &layer.linears;
    if (streams) {
      ASSIGN_OR_RETURN(linears, weights_.stream->Acquire());
    }
    if (spec_.parallel_residual) Norm(layer.ffn_norm, x, rows, ffn_normed_.as<float>());
    RETURN_IF_ERROR(AttentionBlock(layer, *linears, static_cast<int>(i), x, rows, local, cache));
    RETURN_IF_ERROR(FfnBlock(layer, *linears, x, rows));
    if (streams) weights_.stream->Release();
  }
  return part().last_stage() ? Status() : peers_.pipeline->Send(activations, pipeline_rank(part().stage + 1));
}

Status Transformer::Embed(std::span<const std::int32_t> tokens, std::span<const SequenceSlice> slices,
                          float* x) {
  const auto rows = static_cast<std::int64_t>(tokens.size());
  if (weights_.project_in) {
    RETURN_IF_ERROR(LookUp(tokens, embed_.as<float>()));
    Linear(*weights_.project_in, embed_.as<float>(), x, rows);
  } else {
    RETURN_IF_ERROR(LookUp(tokens, x));
  }
  if (spec_.positions == PositionKind::kLearned) {
    FillPositions(slices, spec_.position_offset);
    device_.AddRows(weights_.positions.as<float>(), positions_, spec_.hidden_size, x, spec_.hidden_size);
  }
  if (spec_.embed_norm) Norm(weights_.embed_norm, x, rows, x);
  return {};
}

void Transformer::FillPositions(std::span<const SequenceSlice> slices, std::int64_t offset) {
  positions_.clear();
  for (const SequenceSlice& slice : slices) {
    for (std::int64_t r = 0; r < slice.rows; ++r)
      positions_.push_back(static_cast<std::int32_t>(slice.first_position + r + offset));
  }
}

Status Transformer::LookUp(std::span<const std::int32_t> tokens, float* y) {
  if (!vocabulary_cut()) {
    device_.Embed(*weights_.embed, tokens, y, spec_.embed_size);
    return {};
  }
  // A token's row comes from the rank that holds it; the others add zeros.
  const Range& vocab = part().vocab;
  positions_.clear();
  for (const std::int32_t token : tokens) {
    const bool here = token >= vocab.begin && token < vocab.end();
    positions_.push_back(here ? token - static_cast<std::int32_t>(vocab.begin) : -1);
  }
  device_.Embed(*weights_.embed, positions_, y, spec_.embed_size);
  return peers_.tensor->AllReduceSum({y, tokens.size() * static_cast<std::size_t>(spec_.embed_size)});
}

Status Transformer::AttentionBlock(const LayerWeights& layer, const LayerLinears& linears, int index,
                                   float* x, std::int64_t rows, std::span<const SequenceSlice> slices,
                                   KvCache& cache) {
  const float* input = x;
  if (spec_.norm_before) {
    Norm(layer.attention_norm, x, rows, normed_.as<float>());
    input = normed_.as<float>();
  }
  Linear(*linears.qkv, input, qkv_.as<float>(), rows);
  float* q = qkv_.as<float>();
  const std::int64_t context = part().heads.size * spec_.head_dim;
  const std::int64_t kv = part().kv_heads.size * spec_.head_dim;
  const std::int64_t stride = context + 2 * kv;
  if (spec_.positions == PositionKind::kRotary) {
    // k follows q, so that one call turns the heads of both.
    device_.Rotate({.angles = angles_.as<float>(),
                    .pairs = spec_.rotary.dims / 2,
                    .x = q,
                    .x_stride = stride,
                    .rows = rows,
                    .heads = part().heads.size + part().kv_heads.size,
                    .head_dim = spec_.head_dim});
  }
  device_.StoreKv(cache, index, q + context, q + context + kv, stride, slices);
  device_.Attention(
      {.cache = &cache,
       .layer = index,
       .heads = static_cast<int>(part().heads.size),
       .q = q,
       .q_stride = stride,
       .out = context_.as<float>(),
       .out_stride = context,
       .scale = 1.0F / std::sqrt(static_cast<float>(spec_.head_dim)),
       .alibi_slopes = spec_.positions == PositionKind::kAlibi ? alibi_slopes_.as<float>() : nullptr,
       .slices = slices});
  RETURN_IF_ERROR(Sum(*linears.attention_out, attention_cut(), context_.as<float>(), x, rows,
                      spec_.residual_from_norm ? input : x));
  if (!spec_.norm_before) Norm(layer.attention_norm, x, rows, x);
  return {};
}

Status Transformer::FfnBlock(const LayerWeights& layer, const LayerLinears& linears, float* x,
                             std::int64_t rows) {
  const float* input = x;
  if (spec_.parallel_residual) {
    input = ffn_normed_.as<float>();
  } else if (spec_.norm_before) {
    Norm(layer.ffn_norm, x, rows, normed_.as<float>());
    input = normed_.as<float>();
  }
  const float* inside = ffn_.as<float>();
  if (spec_.gated_ffn) {
    const std::int64_t ffn = part().ffn.size;
    Linear(*linears.ffn_up, input, ffn_.as<float>(), rows);
    device_.Gate(ffn_.as<float>(), 2 * ffn, rows, ffn, spec_.activation, gated_.as<float>(), ffn);
    inside = gated_.as<float>();
  } else {
    Linear(*linears.ffn_up, input, ffn_.as<float>(), rows, spec_.activation);
  }
  RETURN_IF_ERROR(Sum(*linears.ffn_down, ffn_cut(), inside, x, rows, spec_.residual_from_norm ? input : x));
  if (!spec_.norm_before) Norm(layer.ffn_norm, x, rows, x);
  return {};
}

Status Transformer::Sum(const LinearWeights& weights, bool cut, const float* input, float* x,
                        std::int64_t rows, const float* residual) {
  Linear(weights, input, x, rows, Activation::kNone, !cut || part().leads_sums() ? residual : nullptr);
  if (!cut) return {};
  return peers_.tensor->AllReduceSum({x, static_cast<std::size_t>(rows * spec_.hidden_size)});
}

Result<std::span<float>> Transformer::Logits(std::span<const std::int32_t> rows) {
  assert(static_cast<std::int64_t>(rows.size()) <= limits_.max_logit_rows);
  if (!has_head()) return std::span<float>();
  Head(rows);
  if (vocabulary_cut()) RETURN_IF_ERROR(GatherLogits(std::ssize(rows)));
  if (!gets_logits()) return std::span<float>();
  return std::span(logits_.as<float>(), rows.size() * static_cast<std::size_t>(spec_.vocab_size));
}

Result<std::span<const std::int32_t>> Transformer::Best(std::span<const std::int32_t> rows) {
  assert(static_cast<std::int64_t>(rows.size()) <= limits_.max_logit_rows);
  if (!has_head()) return std::span<const std::int32_t>();
  const std::span<const float> logits = Head(rows);
  const std::int64_t stride = std::ssize(logits) / std::ssize(rows);
  best_.resize(rows.size());
  device_.ArgmaxRows(logits.data(), stride, vocabulary_cut() ? part().vocab.size : spec_.vocab_size, best_);
  if (vocabulary_cut()) RETURN_IF_ERROR(GatherBest(std::ssize(rows)));
  return gets_logits() ? std::span<const std::int32_t>(best_) : std::span<const std::int32_t>();
}

std::span<float> Transformer::Head(std::span<const std::int32_t> rows) {
  const auto count = static_cast<std::int64_t>(rows.size());
  float* last = last_.as<float>();
  device_.GatherRows(x_.as<float>(), spec_.hidden_size, rows, spec_.hidden_size, last, spec_.hidden_size);
  if (spec_.final_norm) Norm(weights_.final_norm, last, count, last);
  if (weights_.project_out) {
    Linear(*weights_.project_out, last, last_embed_.as<float>(), count);
    last = last_embed_.as<float>();
  }
  float* logits = vocabulary_cut() ? share_.as<float>() : logits_.as<float>();
  const std::int64_t stride = vocabulary_cut() ? part().vocab_share : spec_.vocab_size;
  Linear(weights_.head_or_embed(), last, logits, count, Activation::kNone, nullptr, stride);
  return {logits, static_cast<std::size_t>(count * stride)};
}

Status Transformer::GatherLogits(std::int64_t rows) {
  const std::int64_t share = part().vocab_share;
  const auto floats = static_cast<std::size_t>(rows * share);
  const auto ranks = static_cast<std::size_t>(part().grid.tensor_ranks);
  RETURN_IF_ERROR(
      peers_.tensor->Gather({share_.as<float>(), floats}, {shares_.as<float>(), ranks * floats}, 0));
  if (!part().leads_sums()) return {};
  for (std::int64_t rank = 0; rank < part().grid.tensor_ranks; ++rank) {
    const std::int64_t begin = rank * share;
    const std::int64_t size = std::min(share, spec_.vocab_size - begin);
    for (std::int64_t r = 0; r < rows; ++r) {
      std::copy_n(shares_.as<float>() + (rank * rows + r) * share, size,
                  logits_.as<float>() + r * spec_.vocab_size + begin);
    }
  }
  return {};
}

// Ranks hold tokens in their own order, so that the first of equals is the first rank's.
Status Transformer::GatherBest(std::int64_t rows) {
  const auto count = static_cast<std::size_t>(rows);
  const auto ranks = static_cast<std::size_t>(part().grid.tensor_ranks);
  std::vector<float> mine(2 * count);
  for (std::size_t r = 0; r < count; ++r) {
    mine[2 * r] = static_cast<float>(part().vocab.begin + best_[r]);
    mine[2 * r + 1] = share_.as<float>()[static_cast<std::int64_t>(r) * part().vocab_share + best_[r]];
  }
  candidates_.resize(ranks * mine.size());
  RETURN_IF_ERROR(peers_.tensor->Gather(mine, candidates_, 0));
  if (!part().leads_sums()) return {};
  for (std::size_t r = 0; r < count; ++r) {
    const float* best = &candidates_[2 * r];
    for (std::size_t rank = 1; rank < ranks; ++rank) {
      const float* other = &candidates_[rank * mine.size() + 2 * r];
      if (other[1] > best[1]) best = other;
    }
    best_[r] = static_cast<std::int32_t>(best[0]);
  }
  return {};
}

void Transformer::Norm(const NormWeights& norm, const float* x, std::int64_t rows, float* y) {
  if (spec_.norm == NormKind::kRms) {
    device_.RmsNorm(x, spec_.hidden_size, rows, spec_.hidden_size, norm.gain.as<float>(), spec_.norm_eps, y,
                    spec_.hidden_size);
    return;
  }
  device_.LayerNorm(x, spec_.hidden_size, rows, spec_.hidden_size, norm.gain.as<float>(),
                    norm.bias.as<float>(), spec_.norm_eps, y, spec_.hidden_size);
}

void Transformer::Linear(const LinearWeights& weights, const float* x, float* y, std::int64_t rows,
                         Activation activation, const float* residual, std::int64_t y_stride) {
  device_.Linear({.weights = &weights,
                  .x = x,
                  .x_stride = weights.in_features(),
                  .y = y,
                  .y_stride = y_stride > 0 ? y_stride : weights.out_features(),
                  .rows = rows,
                  .activation = activation,
                  .residual = residual,
                  .residual_stride = weights.out_features()});
}

}  // namespace bloomery
