// How a model is cut over ranks: which layers, heads, rows and columns each one holds.
//
// Tensor parallelism (Shoeybi et al. 2019, "Megatron-LM"): the ranks of one stage share its layers. q, k, v
// and the FFN's first matrix are cut by output features, a whole head never divided; what follows them is cut
// by input features, so that each rank has a summand of its output and one sum over the ranks completes it.
// The embedding and the head are cut by tokens. A description may leave attention, FFN or vocabulary whole on
// every rank. Pipeline parallelism: a stage holds consecutive layers, the first also the embedding, the last
// also the head.
//
//   rank = (stages − 1 − stage) · tensor_ranks + tensor_rank
//
// The last stage comes first, because rank 0 schedules: it says what a step computes and gets its logits, so
// that logits never travel, and what it says reaches the first stage while the last still works on the step
// before.
#pragma once

#include <cstdint>

#include "base/result.h"
#include "model/spec.h"

namespace bloomery {

struct Range {
  std::int64_t begin = 0;
  std::int64_t size = 0;

  std::int64_t end() const { return begin + size; }
};

// Numbers of ranks: tensor_ranks · stages of them hold a model together.
struct Grid {
  int tensor_ranks = 1;
  int stages = 1;

  int size() const { return tensor_ranks * stages; }
};

// What one rank holds.
struct Part {
  Grid grid;
  int tensor_rank = 0;
  int stage = 0;
  Range layers;
  Range heads;
  Range kv_heads;  // those that `heads` use
  Range ffn;       // features between the two matrices
  Range vocab;     // tokens of the embedding and the head
  // Tokens of a rank's share but the last one's, which may be smaller: a multiple of 16.
  std::int64_t vocab_share = 0;

  bool first_stage() const { return stage == 0; }
  bool last_stage() const { return stage == grid.stages - 1; }
  // Holds what only one of a stage's ranks may add to a sum: biases and residuals.
  bool leads_sums() const { return tensor_rank == 0; }
};

Part WholeModel(const ModelSpec& spec);

// kInvalidArgument, with what would do, where heads, features, tokens or layers do not divide. `pieces`: a
// multiple of the tensor ranks into which each layer is cut, several for a rank; 0: one each.
Result<Part> CutModel(const ModelSpec& spec, Grid grid, int rank, int pieces = 0);

}  // namespace bloomery
