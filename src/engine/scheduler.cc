#include "engine/scheduler.h"

#include <algorithm>

namespace bloomery {
namespace {

std::int64_t Length(const Sequence& sequence) { return static_cast<std::int64_t>(sequence.tokens.size()); }

}  // namespace

std::vector<WorkItem> Scheduler::Plan() {
  std::vector<WorkItem> items = PlanOnce();
  // Prompts that together hold all blocks and can none of them go on: the oldest gets the others' blocks.
  while (items.empty() && !running_.empty() && PreemptYoungest(*running_.front())) items = PlanOnce();
  return items;
}

std::vector<WorkItem> Scheduler::PlanOnce() {
  std::vector<WorkItem> items;
  std::int64_t budget = limits_.max_batch_tokens;
  PlanDecodes(items, budget);
  for (const auto& group : running_) {
    if (!group->decoding()) PlanPrefill(*group, items, budget);
  }
  Admit(items, budget);
  return items;
}

void Scheduler::PlanDecodes(std::vector<WorkItem>& items, std::int64_t& budget) {
  // By index of admission: preemption only ever removes groups behind the one being planned.
  for (auto it = running_.begin(); it != running_.end(); ++it) {
    Group& group = **it;
    const std::int64_t rows = group.live_sequences();
    if (!group.decoding() || rows > budget) continue;
    bool reserved = ReserveDecode(group);
    while (!reserved && PreemptYoungest(group)) reserved = ReserveDecode(group);
    if (!reserved) continue;  // alone and still too large: the engine refused such requests on submission
    for (Sequence& sequence : group.sequences) {
      if (!sequence.finish) items.push_back({&group, &sequence, 1});
    }
    budget -= rows;
  }
}

// All sequences of a group step together (beams need each other's scores), so they reserve together.
bool Scheduler::ReserveDecode(Group& group) {
  std::int64_t needed = 0;
  for (const Sequence& sequence : group.sequences) {
    if (!sequence.finish) needed += sequence.blocks.BlocksNeeded(sequence.computed, Length(sequence));
  }
  if (needed > pool_.free_blocks()) return false;
  for (Sequence& sequence : group.sequences) {
    if (!sequence.finish) sequence.blocks.Reserve(sequence.computed, Length(sequence));
  }
  return true;
}

bool Scheduler::PreemptYoungest(const Group& keep) {
  if (running_.empty() || running_.back().get() == &keep) return false;
  running_.back()->DropKv();
  waiting_.push_front(std::move(running_.back()));
  running_.pop_back();
  ++preemptions_;
  return true;
}

void Scheduler::PlanPrefill(Group& group, std::vector<WorkItem>& items, std::int64_t& budget) {
  // Several sequences (a preempted group coming back) keep their last token for a common decoding step.
  const std::int64_t held_back = group.sequences.size() > 1 ? 1 : 0;
  for (Sequence& sequence : group.sequences) {
    if (sequence.finish) continue;
    const std::int64_t rows = std::min(sequence.pending() - held_back, budget);
    if (rows <= 0 || !sequence.blocks.Reserve(sequence.computed, sequence.computed + rows)) continue;
    items.push_back({&group, &sequence, rows});
    budget -= rows;
  }
}

void Scheduler::Admit(std::vector<WorkItem>& items, std::int64_t& budget) {
  std::int64_t sequences = running_sequences();
  while (!waiting_.empty() && budget > 0) {
    Group& group = *waiting_.front();
    if (sequences > 0 && sequences + group.width() > limits_.max_batch_size) return;
    std::int64_t needed = 0;
    for (const Sequence& sequence : group.sequences) {
      if (!sequence.finish) needed += sequence.blocks.BlocksNeeded(0, Length(sequence));
    }
    // One block more for each sequence, so that it can decode at all before others must give way.
    if (needed + group.width() > pool_.free_blocks() && !running_.empty()) return;
    sequences += group.width();
    running_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
    PlanPrefill(*running_.back(), items, budget);
  }
}

void Scheduler::Remove(const std::function<bool(Group&)>& drop) {
  std::erase_if(waiting_, [&](const auto& group) { return drop(*group); });
  std::erase_if(running_, [&](const auto& group) { return drop(*group); });
}

std::int64_t Scheduler::running_sequences() const {
  std::int64_t total = 0;
  for (const auto& group : running_) total += std::max<std::int64_t>(group->width(), group->live_sequences());
  return total;
}

}  // namespace bloomery
