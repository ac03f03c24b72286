#include "engine/model_runner.h"

#include <algorithm>
#include <cstring>

namespace bloomery {
namespace {

// What rank 0 says is a list of 32-bit words, empty at the end, else a step:
//
//   count of copies, from, to …; count of tokens, token …;
//   count of slices, for each its first row, rows, first position and blocks;
//   for each query whether it wants the best alone, its count of rows, row …
std::int32_t Word(std::int64_t value) { return static_cast<std::int32_t>(value); }

std::int64_t BlocksOf(const SequenceSlice& slice) {
  return (slice.first_position + slice.rows + kKvBlockTokens - 1) / kKvBlockTokens;
}

void AppendCounted(std::vector<std::int32_t>& message, std::span<const std::int32_t> words) {
  message.push_back(Word(std::ssize(words)));
  message.insert(message.end(), words.begin(), words.end());
}

// Reads such a list from its beginning.
class WordReader {
 public:
  explicit WordReader(std::span<const std::int32_t> words) : rest_(words) {}

  bool empty() const { return rest_.empty(); }
  std::int32_t Next() { return Take(1).front(); }
  std::span<const std::int32_t> Take(std::int64_t count) {
    const auto taken = rest_.first(static_cast<std::size_t>(count));
    rest_ = rest_.subspan(taken.size());
    return taken;
  }
  std::span<const std::int32_t> TakeCounted() { return Take(Next()); }

 private:
  std::span<const std::int32_t> rest_;
};

}  // namespace

ModelRunner::~ModelRunner() {
  // The others compute what has begun, and this rank is a part of that. A rank that is lost needs no end.
  while (!begun_.empty() && Compute()) {
    while (!queries_.empty() && (queries_.front().best ? Best().has_value() : Logits().has_value())) {
    }
  }
  if (tells()) (void)Tell({});
}

int ModelRunner::depth() const {
  return std::min(transformer_.weights().part.grid.stages, Communicator::kBroadcastsAhead);
}

Status ModelRunner::Tell(const Message& message) {
  std::vector<std::byte> bytes(message.size() * sizeof(std::int32_t));
  if (!message.empty()) std::memcpy(bytes.data(), message.data(), bytes.size());
  return world_->Broadcast(bytes, 0);
}

Status ModelRunner::Begin(std::span<const std::int32_t> tokens, std::span<const SequenceSlice> slices,
                          std::span<const LogitsQuery> queries) {
  Message& message = begun_.emplace_back();
  message.push_back(Word(std::ssize(copies_)));
  for (const auto& [from, to] : std::exchange(copies_, {})) message.insert(message.end(), {from, to});
  AppendCounted(message, tokens);
  message.push_back(Word(std::ssize(slices)));
  for (const SequenceSlice& slice : slices) {
    message.insert(message.end(), {Word(slice.first_row), Word(slice.rows), Word(slice.first_position)});
    message.insert(message.end(), slice.blocks, slice.blocks + BlocksOf(slice));
  }
  for (const LogitsQuery& query : queries) {
    message.push_back(query.best ? 1 : 0);
    AppendCounted(message, query.rows);
  }
  return TellBegun();
}

// All ranks have received what rank 0 has computed: what they may not have received is in begun_. A broadcast
// that waited for them would never end where they wait for rank 0 to take their activations.
Status ModelRunner::TellBegun() {
  if (!tells()) return {};
  std::size_t words = 0;
  for (std::size_t i = 0; i < begun_.size(); ++i) {
    words += begun_[i].size();
    if (i < told_) continue;
    if (i > 0 && words * sizeof(std::int32_t) > world_->broadcast_ahead_bytes()) break;
    RETURN_IF_ERROR(Tell(begun_[i]));
    ++told_;
  }
  return {};
}

Status ModelRunner::Compute() {
  const Status computed = Run(begun_.front());
  if (!computed) {
    begun_.clear();
    return computed;
  }
  begun_.pop_front();
  if (told_ > 0) --told_;
  return TellBegun();
}

Status ModelRunner::Run(const Message& message) {
  WordReader words(message);
  const std::int32_t copies = words.Next();
  for (std::int32_t i = 0; i < copies; ++i) {
    const auto copy = words.Take(2);
    transformer_.device().CopyKvBlock(cache_, copy[0], copy[1]);
  }
  const auto tokens = words.TakeCounted();
  std::vector<SequenceSlice> slices(static_cast<std::size_t>(words.Next()));
  for (SequenceSlice& slice : slices) {
    const auto head = words.Take(3);
    slice = {.blocks = nullptr, .first_row = head[0], .rows = head[1], .first_position = head[2]};
    slice.blocks = words.Take(BlocksOf(slice)).data();
  }
  while (!words.empty()) {
    LogitsQuery& query = queries_.emplace_back();
    query.best = words.Next() != 0;
    const auto rows = words.TakeCounted();
    query.rows.assign(rows.begin(), rows.end());
  }
  return transformer_.Forward(tokens, slices, cache_);
}

LogitsQuery ModelRunner::NextQuery() {
  LogitsQuery query = std::move(queries_.front());
  queries_.pop_front();
  return query;
}

Result<std::span<float>> ModelRunner::Logits() { return transformer_.Logits(NextQuery().rows); }

Result<std::span<const std::int32_t>> ModelRunner::Best() { return transformer_.Best(NextQuery().rows); }

Status ModelRunner::Follow() {
  for (;;) {
    std::vector<std::byte> bytes;
    RETURN_IF_ERROR(world_->Broadcast(bytes, 0));
    if (bytes.empty()) return {};
    Message message(bytes.size() / sizeof(std::int32_t));
    std::memcpy(message.data(), bytes.data(), bytes.size());
    RETURN_IF_ERROR(Run(message));
    while (!queries_.empty()) {
      if (queries_.front().best) {
        RETURN_IF_ERROR(Best());
      } else {
        RETURN_IF_ERROR(Logits());
      }
    }
  }
}

}  // namespace bloomery
