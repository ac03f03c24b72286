// Which rows the next step computes: continuous batching with chunked prefill under a token budget, and
// preemption by recompute when the KV cache runs out.
//
// A step, filled in this order, while rows, sequences and KV blocks last:
//   1. one row for every sequence that is decoding, oldest request first;
//   2. chunks of prompts already begun;
//   3. waiting requests, by priority and then first come first served, each admitted only when its whole
//   prompt fits in the free blocks; what earlier requests have computed of it is taken over;
//   4. where the step is small enough to be bound by reading the weights: guesses of the tokens to come.
// Decoding never waits for a prompt: beside running sequences a step reads no more of the prompts than it has
// rows that decode, or 16 where fewer do: twice the rows where 16 or more decode.
//
// Over a pipeline a step begins before others are computed: it holds what they do not. Sequences that decode
// are then dealt out to as many steps as there are stages, 16 at least to each: fewer rows would read the
// weights once more for hardly anything.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <vector>

#include "engine/group.h"
#include "engine/kv_blocks.h"

namespace bloomery {

// Rows of a step up to which drafts are added; all of them need logits. An estimate for machines on which
// reading the weights bounds 8 rows; not measured. With AVX2 a step of 4 rows took 1.3 times one of 1.
inline constexpr int kDraftedStepRows = 8;

// Rows of one sequence in a step.
struct WorkItem {
  Group* group = nullptr;
  Sequence* sequence = nullptr;
  std::int64_t rows = 0;  // tokens [sequence->computed, computed + rows); its drafts follow them
};

// Used by the engine's thread only.
class Scheduler {
 public:
  struct Limits {
    std::int64_t max_batch_tokens = 512;  // rows of one step
    std::int64_t max_prefill_tokens = 0;  // of which prompts take, beside decoding ones; 0: chosen
    int max_batch_size = 64;     // sequences running at once, counting what admitted requests will grow to
    int speculative_tokens = 0;  // guesses a sequence and step, at most; 0: none
    int stages = 1;              // of a pipeline
  };

  Scheduler(Limits limits, KvBlockPool& pool) : limits_(limits), pool_(pool) {}

  void Add(std::unique_ptr<Group> group);

  // Rows for the next step, their KV blocks reserved. Empty when there is nothing to do, or not before steps
  // under way are computed. The caller counts the rows as computed, and what they will yield in
  // Group::results_due, before the next call.
  std::vector<WorkItem> Plan();

  // Removes groups for which `drop` holds, waiting or running; their blocks are free at once.
  void Remove(const std::function<bool(Group&)>& drop);

  bool idle() const { return waiting_.empty() && running_.empty(); }
  std::int64_t waiting() const { return static_cast<std::int64_t>(waiting_.size()); }
  std::int64_t waiting_prompt_tokens() const;
  std::int64_t running_sequences() const;
  std::int64_t preemptions() const { return preemptions_; }

 private:
  std::vector<WorkItem> PlanOnce();
  // Prompt rows that a step takes beside `decoding` rows, where there is room for `room`.
  std::int64_t PrefillRows(std::int64_t decoding, std::int64_t room) const;
  // Sequences whose next tokens are being computed.
  std::int64_t rows_under_way() const;
  // Rows that decode in a step, of all that could.
  std::int64_t DecodeRows(std::int64_t under_way) const;
  void PlanDecodes(std::vector<WorkItem>& items, std::int64_t& budget, std::int64_t limit);
  void PlanPrefill(Group& group, std::vector<WorkItem>& items, std::int64_t& budget);
  void Admit(std::vector<WorkItem>& items, std::int64_t& budget);
  bool ReserveDecode(Group& group);
  void PlanDrafts(std::vector<WorkItem>& items) const;
  // Takes over what the prefix index knows of the group's sequences; the blocks still needed to admit it.
  std::int64_t AdoptPrefixes(Group& group);
  // Sends the last running group (least urgent, youngest) back to wait; false when that is `keep`, or one of
  // whom results are due.
  bool PreemptYoungest(const Group& keep);

  const Limits limits_;
  KvBlockPool& pool_;
  std::list<std::unique_ptr<Group>> waiting_;  // by priority, then in order of arrival
  std::list<std::unique_ptr<Group>> running_;  // by priority, then in order of admission
  std::int64_t preemptions_ = 0;
};

}  // namespace bloomery
