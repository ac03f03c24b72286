#include "model/transformer.h"

#include <cassert>
#include <cmath>
#include <cstring>

namespace bloomery {

Result<std::unique_ptr<Transformer>> Transformer::Create(ModelSpec spec, ModelWeights weights, Device& device,
                                                         Limits limits) {
  std::unique_ptr<Transformer> transformer(
      new Transformer(std::move(spec), std::move(weights), device, limits));
  RETURN_IF_ERROR(transformer->AllocateWorkspace());
  return transformer;
}

Status Transformer::AllocateWorkspace() {
  const auto floats = [this](std::int64_t rows, std::int64_t cols, AlignedBuffer& buffer) -> Status {
    ASSIGN_OR_RETURN(buffer, device_.Allocate(static_cast<std::size_t>(rows * cols) * sizeof(float)));
    return {};
  };
  const std::int64_t rows = limits_.max_rows;
  RETURN_IF_ERROR(floats(rows, spec_.hidden_size, x_));
  RETURN_IF_ERROR(floats(rows, spec_.hidden_size, normed_));
  RETURN_IF_ERROR(floats(rows, 3 * spec_.hidden_size, qkv_));
  RETURN_IF_ERROR(floats(rows, spec_.hidden_size, context_));
  RETURN_IF_ERROR(floats(rows, spec_.ffn_size, ffn_));
  RETURN_IF_ERROR(floats(limits_.max_logit_rows, spec_.hidden_size, last_));
  RETURN_IF_ERROR(floats(limits_.max_logit_rows, spec_.vocab_size, logits_));
  if (spec_.projected()) {
    RETURN_IF_ERROR(floats(rows, spec_.embed_size, embed_));
    RETURN_IF_ERROR(floats(limits_.max_logit_rows, spec_.embed_size, last_embed_));
  }
  if (spec_.positions == PositionKind::kAlibi) {
    const std::vector<float> slopes = AlibiSlopes(spec_.heads);
    RETURN_IF_ERROR(floats(1, spec_.heads, alibi_slopes_));
    std::memcpy(alibi_slopes_.data(), slopes.data(), slopes.size() * sizeof(float));
  }
  positions_.reserve(static_cast<std::size_t>(rows));
  return {};
}

KvCacheShape Transformer::kv_shape(DType dtype) const {
  return {static_cast<int>(spec_.layers), static_cast<int>(spec_.heads), static_cast<int>(spec_.head_dim()),
          dtype};
}

void Transformer::Forward(std::span<const std::int32_t> tokens, std::span<const SequenceSlice> slices,
                          KvCache& cache) {
  const auto rows = static_cast<std::int64_t>(tokens.size());
  assert(rows > 0 && rows <= limits_.max_rows);
  Embed(tokens, slices);
  for (std::size_t i = 0; i < weights_.layers.size(); ++i) {
    AttentionBlock(weights_.layers[i], static_cast<int>(i), rows, slices, cache);
    FfnBlock(weights_.layers[i], rows);
  }
}

void Transformer::Embed(std::span<const std::int32_t> tokens, std::span<const SequenceSlice> slices) {
  const auto rows = static_cast<std::int64_t>(tokens.size());
  float* x = x_.as<float>();
  if (weights_.project_in) {
    device_.Embed(*weights_.embed, tokens, embed_.as<float>(), spec_.embed_size);
    Linear(*weights_.project_in, embed_.as<float>(), x, rows);
  } else {
    device_.Embed(*weights_.embed, tokens, x, spec_.hidden_size);
  }
  if (spec_.positions == PositionKind::kLearned) {
    positions_.clear();
    for (const SequenceSlice& slice : slices) {
      for (std::int64_t r = 0; r < slice.rows; ++r) {
        positions_.push_back(static_cast<std::int32_t>(slice.first_position + r + spec_.position_offset));
      }
    }
    device_.AddRows(weights_.positions.as<float>(), positions_, spec_.hidden_size, x, spec_.hidden_size);
  }
  if (spec_.embed_norm) Norm(weights_.embed_norm, x, rows, x);
}

void Transformer::AttentionBlock(const LayerWeights& layer, int index, std::int64_t rows,
                                 std::span<const SequenceSlice> slices, KvCache& cache) {
  float* x = x_.as<float>();
  const float* input = x;
  if (spec_.norm_before) {
    Norm(layer.attention_norm, x, rows, normed_.as<float>());
    input = normed_.as<float>();
  }
  Linear(*layer.qkv, input, qkv_.as<float>(), rows);
  const float* q = qkv_.as<float>();
  const std::int64_t stride = 3 * spec_.hidden_size;
  device_.StoreKv(cache, index, q + spec_.hidden_size, q + 2 * spec_.hidden_size, stride, slices);
  device_.Attention(
      {.cache = &cache,
       .layer = index,
       .heads = static_cast<int>(spec_.heads),
       .q = q,
       .q_stride = stride,
       .out = context_.as<float>(),
       .out_stride = spec_.hidden_size,
       .scale = 1.0F / std::sqrt(static_cast<float>(spec_.head_dim())),
       .alibi_slopes = spec_.positions == PositionKind::kAlibi ? alibi_slopes_.as<float>() : nullptr,
       .slices = slices});
  Linear(*layer.attention_out, context_.as<float>(), x, rows, Activation::kNone,
         spec_.residual_from_norm ? input : x);
  if (!spec_.norm_before) Norm(layer.attention_norm, x, rows, x);
}

void Transformer::FfnBlock(const LayerWeights& layer, std::int64_t rows) {
  float* x = x_.as<float>();
  const float* input = x;
  if (spec_.norm_before) {
    Norm(layer.ffn_norm, x, rows, normed_.as<float>());
    input = normed_.as<float>();
  }
  Linear(*layer.ffn_up, input, ffn_.as<float>(), rows, spec_.activation);
  Linear(*layer.ffn_down, ffn_.as<float>(), x, rows, Activation::kNone, spec_.residual_from_norm ? input : x);
  if (!spec_.norm_before) Norm(layer.ffn_norm, x, rows, x);
}

std::span<float> Transformer::Logits(std::span<const std::int32_t> rows) {
  const auto count = static_cast<std::int64_t>(rows.size());
  assert(count <= limits_.max_logit_rows);
  float* last = last_.as<float>();
  device_.GatherRows(x_.as<float>(), spec_.hidden_size, rows, spec_.hidden_size, last, spec_.hidden_size);
  if (spec_.final_norm) Norm(weights_.final_norm, last, count, last);
  if (weights_.project_out) {
    Linear(*weights_.project_out, last, last_embed_.as<float>(), count);
    last = last_embed_.as<float>();
  }
  Linear(weights_.head_or_embed(), last, logits_.as<float>(), count);
  return {logits_.as<float>(), static_cast<std::size_t>(count * spec_.vocab_size)};
}

void Transformer::Norm(const NormWeights& norm, const float* x, std::int64_t rows, float* y) {
  device_.LayerNorm(x, spec_.hidden_size, rows, spec_.hidden_size, norm.gain.as<float>(),
                    norm.bias.as<float>(), spec_.norm_eps, y, spec_.hidden_size);
}

void Transformer::Linear(const LinearWeights& weights, const float* x, float* y, std::int64_t rows,
                         Activation activation, const float* residual) {
  device_.Linear({.weights = &weights,
                  .x = x,
                  .x_stride = weights.in_features(),
                  .y = y,
                  .y_stride = weights.out_features(),
                  .rows = rows,
                  .activation = activation,
                  .residual = residual,
                  .residual_stride = weights.out_features()});
}

}  // namespace bloomery
