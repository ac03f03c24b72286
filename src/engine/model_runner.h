// A model as the engine drives it, be it whole or cut over ranks: rank 0 says what a step computes, and every
// rank does it. The stages of a pipeline may be at several steps at once:
//
//   rank 0:  Begin step 1 ▸ Begin step 2 ▸ Compute 1 ▸ its Logits and Best ▸ Begin 3 ▸ Compute 2 ▸ …
//   others:  Follow: each step as soon as it has begun, until rank 0's runner ends
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <utility>
#include <vector>

#include "base/result.h"
#include "collective/communicator.h"
#include "model/transformer.h"
#include "tensor/device.h"

namespace bloomery {

// Rows of a step from which its caller wants logits, at most the transformer's max_logit_rows.
struct LogitsQuery {
  bool best = false;  // of each row the token with the largest logit alone
  std::vector<std::int32_t> rows;
};

// Used by one thread at a time. After an error nothing can be computed any more.
class ModelRunner {
 public:
  // All must outlive the runner. `world`: null for a model on one rank.
  ModelRunner(Transformer& transformer, KvCache& cache, Communicator* world)
      : transformer_(transformer), cache_(cache), world_(world) {}
  // Rank 0's computes what it has begun, and ends the others' Follow.
  ~ModelRunner();
  ModelRunner(const ModelRunner&) = delete;
  ModelRunner& operator=(const ModelRunner&) = delete;

  // --- rank 0

  // Takes place before the step that begins next, in the order of the calls.
  void CopyBlock(std::int32_t from, std::int32_t to) { copies_.emplace_back(from, to); }

  // A step as of Transformer::Forward, to be computed after those begun before. Nothing of the arguments is
  // needed any more when it returns. kUnavailable: a rank is lost.
  Status Begin(std::span<const std::int32_t> tokens, std::span<const SequenceSlice> slices,
               std::span<const LogitsQuery> queries);
  // Computes the oldest step that has begun; its queries must be answered, in their order, before the next.
  Status Compute();
  // The answer to the next query, valid until the next call: as Transformer's.
  Result<std::span<float>> Logits();
  Result<std::span<const std::int32_t>> Best();

  // Steps that may have begun and not been computed, with any use.
  int depth() const;
  // Logits come from other ranks: who wants the largest alone asks for Best.
  bool cut() const { return world_ != nullptr && world_->size() > 1; }

  // --- other ranks

  Status Follow();

 private:
  using Message = std::vector<std::int32_t>;

  bool tells() const { return world_ != nullptr && world_->rank() == 0; }
  Status Tell(const Message& message);
  // Tells the others of the steps that have begun, as far as that makes nobody wait.
  Status TellBegun();
  // What `message` says up to its queries, which go to queries_.
  Status Run(const Message& message);
  LogitsQuery NextQuery();

  Transformer& transformer_;
  KvCache& cache_;
  Communicator* const world_;
  std::vector<std::pair<std::int32_t, std::int32_t>> copies_;  // since the last Begin
  std::deque<Message> begun_;                                  // and not computed
  std::size_t told_ = 0;                                       // of begun_, from its front
  std::deque<LogitsQuery> queries_;                            // of the step that was computed, unanswered
};

}  // namespace bloomery
