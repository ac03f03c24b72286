#include "engine/scheduler.h"

#include <algorithm>

namespace bloomery {
namespace {

// Prompt rows that a step takes at least: fewer would read the weights once for hardly anything.
constexpr std::int64_t kLeastPrefillRows = 16;

// Rows that decode in each of several steps at once, at least, for the same reason.
constexpr std::int64_t kLeastStageRows = 16;

// Requests waiting for each sequence running from which on they come as a burst: at the start of a batch, not
// where streams arrive one by one.
constexpr std::int64_t kBurst = 6;

std::int64_t Length(const Sequence& sequence) { return static_cast<std::int64_t>(sequence.tokens.size()); }

using Groups = std::list<std::unique_ptr<Group>>;

// Behind all that are at least as urgent.
Groups::iterator PlaceBehindEquals(Groups& groups, int priority) {
  return std::find_if(groups.begin(), groups.end(),
                      [&](const auto& group) { return group->request.sampling.priority > priority; });
}

Groups::iterator PlaceBeforeEquals(Groups& groups, int priority) {
  return std::find_if(groups.begin(), groups.end(),
                      [&](const auto& group) { return group->request.sampling.priority >= priority; });
}

}  // namespace

void Scheduler::Add(std::unique_ptr<Group> group) {
  const auto place = PlaceBehindEquals(waiting_, group->request.sampling.priority);
  waiting_.insert(place, std::move(group));
}

std::vector<WorkItem> Scheduler::Plan() {
  std::vector<WorkItem> items = PlanOnce();
  // Prompts that together hold all blocks and can none of them go on: the oldest gets the others' blocks.
  while (items.empty() && !running_.empty() && rows_under_way() == 0 && PreemptYoungest(*running_.front()))
    items = PlanOnce();
  return items;
}

std::vector<WorkItem> Scheduler::PlanOnce() {
  std::vector<WorkItem> items;
  std::int64_t budget = limits_.max_batch_tokens;
  const std::int64_t under_way = rows_under_way();
  PlanDecodes(items, budget, DecodeRows(under_way));
  if (const std::int64_t decoding = limits_.max_batch_tokens - budget + under_way; decoding > 0)
    budget = std::min(budget, PrefillRows(decoding, budget));
  for (const auto& group : running_) {
    if (!group->decoding()) PlanPrefill(*group, items, budget);
  }
  Admit(items, budget);
  PlanDrafts(items);
  return items;
}

// What waits for its first token is weighed against what waits for its next: prompts that all fit into one
// step and are many times the sequences they hold up are taken at once, others in pieces that cost about as
// much as decoding does.
std::int64_t Scheduler::PrefillRows(std::int64_t decoding, std::int64_t room) const {
  if (limits_.max_prefill_tokens > 0) return limits_.max_prefill_tokens;
  std::int64_t sequences = 0;
  std::int64_t rows = 0;
  for (const auto& group : running_) {
    std::int64_t pending = 0;
    for (const Sequence& sequence : group->sequences) pending += sequence.pending();
    if (group->decoding() || pending == 0) continue;
    ++sequences;
    rows += pending;
  }
  for (const auto& group : waiting_) {
    ++sequences;
    rows += static_cast<std::int64_t>(group->prompt_tokens);
  }
  if (sequences >= kBurst * decoding && rows <= room) return rows;
  return std::max(decoding, kLeastPrefillRows);
}

std::int64_t Scheduler::rows_under_way() const {
  std::int64_t rows = 0;
  for (const auto& group : running_) rows += group->results_due > 0 ? group->live_sequences() : 0;
  return rows;
}

std::int64_t Scheduler::DecodeRows(std::int64_t under_way) const {
  std::int64_t ready = 0;
  for (const auto& group : running_) ready += group->decoding() ? group->live_sequences() : 0;
  // Those under way will be there in a moment, and go together with these.
  if (under_way > 0 && ready < kLeastStageRows) return 0;
  const std::int64_t total = ready + under_way;
  const std::int64_t steps = std::clamp<std::int64_t>(total / kLeastStageRows, 1, limits_.stages);
  return (total + steps - 1) / steps;
}

void Scheduler::PlanDecodes(std::vector<WorkItem>& items, std::int64_t& budget, std::int64_t limit) {
  // In order of running_: preemption only ever removes groups behind the one being planned.
  for (auto it = running_.begin(); it != running_.end(); ++it) {
    Group& group = **it;
    const std::int64_t rows = group.live_sequences();
    if (!group.decoding() || rows > budget) continue;
    // What is wider than that goes alone.
    if (limit == 0 || (!items.empty() && std::ssize(items) + rows > limit)) continue;
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
  if (running_.empty() || running_.back().get() == &keep || running_.back()->results_due > 0) return false;
  running_.back()->DropKv();
  const auto place = PlaceBeforeEquals(waiting_, running_.back()->request.sampling.priority);
  waiting_.splice(place, running_, std::prev(running_.end()));
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
    const std::int64_t needed = AdoptPrefixes(group);
    // One block more for each sequence, so that it can decode at all before others must give way.
    if (needed + group.width() > pool_.free_blocks() && !running_.empty()) {
      group.DropKv();
      return;
    }
    if (!group.started) group.cached_tokens = group.sequences.front().computed;
    sequences += group.width();
    const auto place = PlaceBehindEquals(running_, group.request.sampling.priority);
    running_.splice(place, waiting_, waiting_.begin());
    PlanPrefill(group, items, budget);
  }
}

std::int64_t Scheduler::AdoptPrefixes(Group& group) {
  std::int64_t needed = 0;
  for (Sequence& sequence : group.sequences) {
    if (sequence.finish) continue;
    if (!group.wants_prompt_logits())
      sequence.computed = sequence.blocks.Adopt(group.request.cache_salt, sequence.tokens);
    needed += sequence.blocks.BlocksNeeded(sequence.computed, Length(sequence));
  }
  return needed;
}

// Beams choose among all their successors at once, so a guess of one is worth nothing to them.
void Scheduler::PlanDrafts(std::vector<WorkItem>& items) const {
  std::int64_t room = std::min<std::int64_t>(kDraftedStepRows, limits_.max_batch_tokens);
  for (const WorkItem& item : items) room -= item.rows;
  if (limits_.speculative_tokens == 0 || room <= 0) return;
  for (const WorkItem& item : items) {
    Sequence& sequence = *item.sequence;
    const Group& group = *item.group;
    const bool widened = static_cast<int>(group.sequences.size()) == group.width();
    if (group.beams || sequence.pending() != 1 || !widened || group.wants_prompt_logits()) continue;
    // The last token of a text needs no guess behind it.
    const std::int64_t left =
        static_cast<std::int64_t>(group.prompt_tokens) + group.max_new_tokens - Length(sequence) - 1;
    const std::int64_t limit = std::min({room, left, std::int64_t{limits_.speculative_tokens}});
    if (limit <= 0) continue;
    sequence.drafts = LookUpDraft(sequence.tokens, sequence.draft_pace.Next(static_cast<std::size_t>(limit)));
    const auto drafts = static_cast<std::int64_t>(sequence.drafts.size());
    if (!sequence.blocks.Reserve(sequence.computed, Length(sequence) + drafts)) sequence.drafts.clear();
    room -= static_cast<std::int64_t>(sequence.drafts.size());
  }
}

void Scheduler::Remove(const std::function<bool(Group&)>& drop) {
  std::erase_if(waiting_, [&](const auto& group) { return drop(*group); });
  std::erase_if(running_, [&](const auto& group) { return drop(*group); });
}

std::int64_t Scheduler::waiting_prompt_tokens() const {
  std::int64_t total = 0;
  for (const auto& group : waiting_) total += static_cast<std::int64_t>(group->prompt_tokens);
  return total;
}

std::int64_t Scheduler::running_sequences() const {
  std::int64_t total = 0;
  for (const auto& group : running_) total += std::max<std::int64_t>(group->width(), group->live_sequences());
  return total;
}

}  // namespace bloomery
