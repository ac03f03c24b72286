// A layer's norms and the factors between its linear layers.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <span>

#include "model/balance.h"
#include "model/weight_source.h"

namespace bloomery {
namespace {

class Balancer {
 public:
  Balancer(const ModelSpec& spec, WeightSource& source) : spec_(spec), source_(source) {}

  // Balances norm ▸ first, and where what lies between is linear in each feature (attention in its values,
  // ReLU for factors above 0) first ▸ second. The second's inputs are the last of the first's outputs: of q |
  // k | v, the values, each head of which `sharers` heads of inputs use.
  Status BalancePair(const LinearRole& first, const LinearRole& second, NormWeights& norm,
                     bool linear_between, std::int64_t sharers, LinearScales& first_scales,
                     LinearScales& second_scales) {
    ASSIGN_OR_RETURN(const auto peaks, source_.Peaks(first));
    if (!peaks) return {};
    // A norm whose output is also the residual must keep its size.
    if (spec_.norm_before && !spec_.residual_from_norm && spec_.norm_affine)
      first_scales.in = BalanceNorm(norm, peaks->in);
    if (!linear_between) return {};
    ASSIGN_OR_RETURN(const auto second_peaks, source_.Peaks(second));
    if (!second_peaks) return {};
    const std::vector<float>& inputs = second_peaks->in;
    std::vector<float> largest(inputs.size() / static_cast<std::size_t>(sharers));  // of those that share
    for (std::size_t k = 0; k < inputs.size(); ++k) {
      float& peak = largest[OutputOf(k, sharers)];
      peak = std::max(peak, inputs[k]);
    }
    const std::size_t begin = peaks->out.size() - largest.size();
    const std::vector<float> scales = BalanceScales(std::span(peaks->out).subspan(begin), largest);
    for (std::size_t k = 0; k < inputs.size(); ++k) second_scales.in.push_back(scales[OutputOf(k, sharers)]);
    first_scales.out.assign(peaks->out.size(), 1.0F);
    for (std::size_t k = 0; k < scales.size(); ++k) first_scales.out[begin + k] = 1.0F / scales[k];
    return {};
  }

 private:
  // Which of the values input k of the attention's output layer is made of.
  std::size_t OutputOf(std::size_t k, std::int64_t sharers) const {
    if (sharers == 1) return k;
    const auto dim = static_cast<std::size_t>(spec_.head_dim);
    return k / dim / static_cast<std::size_t>(sharers) * dim + k % dim;
  }

  // Divides the norm's gain, and its bias, by the factors it returns for the inputs of what follows. A
  // normalised feature reaches about three times its gain, around its bias.
  static std::vector<float> BalanceNorm(NormWeights& norm, std::span<const float> weight_peaks) {
    std::vector<float> features(weight_peaks.size());
    float* gain = norm.gain.as<float>();
    float* bias = norm.bias.as<float>();  // null for an RMS norm
    for (std::size_t k = 0; k < features.size(); ++k)
      features[k] = 3 * std::fabs(gain[k]) + (bias != nullptr ? std::fabs(bias[k]) : 0.0F);
    std::vector<float> scales = BalanceScales(features, weight_peaks);
    for (std::size_t k = 0; k < features.size(); ++k) {
      gain[k] /= scales[k];
      if (bias != nullptr) bias[k] /= scales[k];
    }
    return scales;
  }

  const ModelSpec& spec_;
  WeightSource& source_;
};

}  // namespace

TableRole PositionsTable(const ModelSpec& spec) {
  return {spec.names.positions, "positions", spec.max_positions + spec.position_offset, spec.hidden_size, 0};
}

std::vector<TableRole> NormTables(const ModelSpec& spec, const std::string& tensor,
                                  const std::string& shard) {
  if (!spec.norm_affine) return {};
  const TableRole gain{tensor + ".weight", shard + ".gain", 1, spec.hidden_size, 1};
  if (spec.norm == NormKind::kRms) return {gain};
  return {gain, {tensor + ".bias", shard + ".bias", 1, spec.hidden_size, 0}};
}

Result<NormWeights> ReadNorm(const ModelSpec& spec, WeightSource& source, const std::string& tensor,
                             const std::string& shard) {
  NormWeights norm;
  const std::vector<TableRole> tables = NormTables(spec, tensor, shard);
  if (tables.empty()) return norm;
  ASSIGN_OR_RETURN(norm.gain, source.Table(tables[0]));
  if (tables.size() > 1) {
    ASSIGN_OR_RETURN(norm.bias, source.Table(tables[1]));
  }
  return norm;
}

Result<LayerBalance> BalanceLayer(const ModelSpec& spec, WeightSource& source, std::int64_t layer) {
  const std::string prefix = LayerPrefix(spec, layer);
  const std::string shard = fmt::format("layers.{}.", layer);
  LayerBalance balance;
  ASSIGN_OR_RETURN(balance.attention_norm,
                   ReadNorm(spec, source, prefix + spec.names.attention_norm, shard + "attention_norm"));
  ASSIGN_OR_RETURN(balance.ffn_norm,
                   ReadNorm(spec, source, prefix + spec.names.ffn_norm, shard + "ffn_norm"));
  Balancer balancer(spec, source);
  RETURN_IF_ERROR(balancer.BalancePair({LinearKind::kQkv, layer}, {LinearKind::kAttentionOut, layer},
                                       balance.attention_norm, /*linear_between=*/true,
                                       spec.heads / spec.kv_heads, balance.qkv, balance.attention_out));
  // Of a gated FFN's two halves the second alone would be linear, and of the first nothing is known.
  RETURN_IF_ERROR(balancer.BalancePair({LinearKind::kFfnUp, layer}, {LinearKind::kFfnDown, layer},
                                       balance.ffn_norm,
                                       spec.activation == Activation::kRelu && !spec.gated_ffn, /*sharers=*/1,
                                       balance.ffn_up, balance.ffn_down));
  return balance;
}

}  // namespace bloomery
