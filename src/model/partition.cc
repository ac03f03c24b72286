#include "model/partition.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <vector>

namespace bloomery {
namespace {

std::int64_t VocabShare(const ModelSpec& spec, std::int64_t ranks) {
  if (ranks == 1) return spec.vocab_size;
  const std::int64_t even = (spec.vocab_size + ranks - 1) / ranks;
  // Rows that lie together are not divided.
  return (even + Device::kRowStep - 1) / Device::kRowStep * Device::kRowStep;
}

Status CheckTensorRanks(const ModelSpec& spec, int ranks) {
  const auto fits = [&spec](std::int64_t n) {
    return (!spec.splits.cuts_attention() || spec.kv_heads % n == 0) &&
           (!spec.splits.cuts_ffn() || spec.ffn_size % n == 0) &&
           (!spec.splits.cuts_vocabulary() || VocabShare(spec, n) * (n - 1) < spec.vocab_size);
  };
  if (fits(ranks)) return {};
  std::vector<std::int64_t> possible;
  for (std::int64_t n = 1; n <= spec.heads; ++n) {
    if (fits(n)) possible.push_back(n);
  }
  return Fail(ErrorCode::kInvalidArgument,
              "--tp {}: {} {} and an FFN of {} features cannot be cut into {} equal parts; possible: {}",
              ranks, spec.kv_heads, spec.kv_heads == spec.heads ? "heads" : "key and value heads",
              spec.ffn_size, ranks, fmt::join(possible, ", "));
}

// Of stages that read about the same number of weights: the head counts, and makes the last stage's layers
// fewer. Every stage has a layer at least.
Range LayersOfStage(const ModelSpec& spec, int stage, int stages) {
  const double layer =
      static_cast<double>(spec.hidden_size) *
      static_cast<double>(2 * spec.q_size() + 2 * spec.kv_size() + (spec.gated_ffn ? 3 : 2) * spec.ffn_size);
  const double head = static_cast<double>(spec.vocab_size) * static_cast<double>(spec.embed_size);
  const double per_stage = (static_cast<double>(spec.layers) + head / layer) / stages;
  const auto begin_of = [&](int s) -> std::int64_t {
    if (s == stages) return spec.layers;
    const auto even = static_cast<std::int64_t>(per_stage * s + 0.5);
    return std::clamp<std::int64_t>(even, s, spec.layers - (stages - s));
  };
  return {begin_of(stage), begin_of(stage + 1) - begin_of(stage)};
}

}  // namespace

Part WholeModel(const ModelSpec& spec) { return *CutModel(spec, {}, 0); }

Result<Part> CutModel(const ModelSpec& spec, Grid grid, int rank, int pieces) {
  if (grid.tensor_ranks < 1 || grid.stages < 1 || rank < 0 || rank >= grid.size()) {
    return Fail(ErrorCode::kInvalidArgument, "rank {} of {} x {} ranks does not exist", rank,
                grid.tensor_ranks, grid.stages);
  }
  if (pieces == 0) pieces = grid.tensor_ranks;
  RETURN_IF_ERROR(CheckTensorRanks(spec, pieces));
  if (grid.stages > spec.layers) {
    return Fail(ErrorCode::kInvalidArgument, "--pp {}: the model has {} layers, and a stage needs one",
                grid.stages, spec.layers);
  }
  Part part;
  part.grid = grid;
  part.tensor_rank = rank % grid.tensor_ranks;
  part.stage = grid.stages - 1 - rank / grid.tensor_ranks;
  part.layers = LayersOfStage(spec, part.stage, grid.stages);
  const auto share = [&part](std::int64_t total, bool cut) {
    const std::int64_t size = cut ? total / part.grid.tensor_ranks : total;
    return Range{cut ? size * part.tensor_rank : 0, size};
  };
  part.heads = share(spec.heads, spec.splits.cuts_attention());
  part.kv_heads = share(spec.kv_heads, spec.splits.cuts_attention());
  part.ffn = share(spec.ffn_size, spec.splits.cuts_ffn());
  if (!spec.splits.cuts_vocabulary()) {
    part.vocab = {0, spec.vocab_size};
    part.vocab_share = spec.vocab_size;
    return part;
  }
  part.vocab_share = VocabShare(spec, pieces) * (pieces / grid.tensor_ranks);
  part.vocab.begin = part.vocab_share * part.tensor_rank;
  part.vocab.size = std::min(part.vocab_share, spec.vocab_size - part.vocab.begin);
  return part;
}

}  // namespace bloomery
