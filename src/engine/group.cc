#include "engine/group.h"

#include <algorithm>

namespace bloomery {

Sequence Sequence::Fork(int new_index) const {
  Sequence copy(blocks.Fork(), decoder, {});
  copy.index = new_index;
  copy.tokens = tokens;
  copy.computed = computed;
  copy.draft_pace = draft_pace;
  copy.stop_matcher = stop_matcher;
  copy.text = text;
  copy.logprobs = logprobs;
  copy.top_logprobs = top_logprobs;
  copy.logprob_sum = logprob_sum;
  return copy;
}

int Group::width() const {
  if (beams) return beams->num_beams();
  return std::max(request.sampling.num_return_sequences, request.sampling.best_of);
}

bool Group::silent() const {
  return beams.has_value() || request.sampling.best_of > request.sampling.num_return_sequences;
}

bool Group::finished() const {
  return std::all_of(sequences.begin(), sequences.end(),
                     [](const Sequence& s) { return s.finish.has_value(); });
}

bool Group::decoding() const {
  return std::all_of(sequences.begin(), sequences.end(),
                     [](const Sequence& s) { return s.finish || s.pending() == 1; });
}

std::int64_t Group::live_sequences() const {
  return std::count_if(sequences.begin(), sequences.end(), [](const Sequence& s) { return !s.finish; });
}

std::int64_t Group::logit_rows() const {
  std::int64_t rows = 0;
  for (const Sequence& sequence : sequences) {
    if (!sequence.finish) rows += 1 + static_cast<std::int64_t>(sequence.drafts.size());
  }
  return rows;
}

void Group::DropKv() {
  for (Sequence& sequence : sequences) {
    sequence.blocks.Clear();
    sequence.computed = 0;
    sequence.drafts.clear();
  }
}

}  // namespace bloomery
