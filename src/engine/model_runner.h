// A model as the engine drives it, be it whole or cut over ranks: rank 0 says what a step computes, and every
// rank does it.
//
//   rank 0:  CopyBlock … Forward ▸ Logits ▸ Best …   each told to the others, then done here
//   others:  Follow: does what rank 0 says until rank 0's runner ends
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "base/result.h"
#include "collective/communicator.h"
#include "model/transformer.h"
#include "tensor/device.h"

namespace bloomery {

// Used by one thread at a time.
class ModelRunner {
 public:
  // All must outlive the runner. `world`: null for a model on one rank.
  ModelRunner(Transformer& transformer, KvCache& cache, Communicator* world)
      : transformer_(transformer), cache_(cache), world_(world) {}
  // Rank 0's ends the others' Follow.
  ~ModelRunner();
  ModelRunner(const ModelRunner&) = delete;
  ModelRunner& operator=(const ModelRunner&) = delete;

  // --- rank 0

  // Takes place before the next Forward, in the order of the calls.
  void CopyBlock(std::int32_t from, std::int32_t to) { copies_.emplace_back(from, to); }
  // As Transformer's. kUnavailable: a rank is lost, and nothing more can be computed.
  Status Forward(std::span<const std::int32_t> tokens, std::span<const SequenceSlice> slices);
  Result<std::span<float>> Logits(std::span<const std::int32_t> rows);
  Result<std::span<const std::int32_t>> Best(std::span<const std::int32_t> rows);
  // Logits come from other ranks: who wants the largest alone asks for Best.
  bool cut() const { return world_ != nullptr && world_->size() > 1; }

  // --- other ranks

  Status Follow();

 private:
  bool tells() const { return world_ != nullptr && world_->rank() == 0; }
  Status Tell(std::span<const std::int32_t> message);
  Status FollowForward(std::span<const std::int32_t> message);

  Transformer& transformer_;
  KvCache& cache_;
  Communicator* const world_;
  std::vector<std::pair<std::int32_t, std::int32_t>> copies_;  // since the last Forward
};

}  // namespace bloomery
