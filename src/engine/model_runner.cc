#include "engine/model_runner.h"

#include <cstring>

namespace bloomery {
namespace {

// What rank 0 says is a list of 32-bit words, of which the first is one of these:
//
//   end
//   logits   row …
//   best     row …
//   forward  count of copies, from, to …; count of tokens, token …; then for each slice its first row, rows,
//            first position and blocks
constexpr std::int32_t kEnd = 0;
constexpr std::int32_t kForward = 1;
constexpr std::int32_t kLogits = 2;
constexpr std::int32_t kBest = 3;

std::int32_t Word(std::int64_t value) { return static_cast<std::int32_t>(value); }

std::int64_t BlocksOf(const SequenceSlice& slice) {
  return (slice.first_position + slice.rows + kKvBlockTokens - 1) / kKvBlockTokens;
}

}  // namespace

ModelRunner::~ModelRunner() {
  // A rank that is lost needs no end.
  if (tells()) (void)Tell({&kEnd, 1});
}

Status ModelRunner::Tell(std::span<const std::int32_t> message) {
  std::vector<std::byte> bytes(message.size_bytes());
  std::memcpy(bytes.data(), message.data(), bytes.size());
  return world_->Broadcast(bytes, 0);
}

Status ModelRunner::Forward(std::span<const std::int32_t> tokens, std::span<const SequenceSlice> slices) {
  const auto copies = std::exchange(copies_, {});
  if (tells()) {
    std::vector<std::int32_t> message{kForward, Word(std::ssize(copies))};
    for (const auto& [from, to] : copies) message.insert(message.end(), {from, to});
    message.push_back(Word(std::ssize(tokens)));
    message.insert(message.end(), tokens.begin(), tokens.end());
    for (const SequenceSlice& slice : slices) {
      message.insert(message.end(), {Word(slice.first_row), Word(slice.rows), Word(slice.first_position)});
      message.insert(message.end(), slice.blocks, slice.blocks + BlocksOf(slice));
    }
    RETURN_IF_ERROR(Tell(message));
  }
  for (const auto& [from, to] : copies) transformer_.device().CopyKvBlock(cache_, from, to);
  return transformer_.Forward(tokens, slices, cache_);
}

Result<std::span<float>> ModelRunner::Logits(std::span<const std::int32_t> rows) {
  if (tells()) {
    std::vector<std::int32_t> message{kLogits};
    message.insert(message.end(), rows.begin(), rows.end());
    RETURN_IF_ERROR(Tell(message));
  }
  return transformer_.Logits(rows);
}

Result<std::span<const std::int32_t>> ModelRunner::Best(std::span<const std::int32_t> rows) {
  if (tells()) {
    std::vector<std::int32_t> message{kBest};
    message.insert(message.end(), rows.begin(), rows.end());
    RETURN_IF_ERROR(Tell(message));
  }
  return transformer_.Best(rows);
}

Status ModelRunner::Follow() {
  for (;;) {
    std::vector<std::byte> bytes;
    RETURN_IF_ERROR(world_->Broadcast(bytes, 0));
    std::vector<std::int32_t> message(bytes.size() / sizeof(std::int32_t));
    std::memcpy(message.data(), bytes.data(), bytes.size());
    const std::span rest = std::span<const std::int32_t>(message).subspan(1);
    switch (message.front()) {
      case kForward:
        RETURN_IF_ERROR(FollowForward(rest));
        break;
      case kLogits:
        RETURN_IF_ERROR(transformer_.Logits(rest));
        break;
      case kBest:
        RETURN_IF_ERROR(transformer_.Best(rest));
        break;
      default:
        return {};
    }
  }
}

Status ModelRunner::FollowForward(std::span<const std::int32_t> message) {
  const auto take = [&message](std::int64_t count) {
    const auto taken = message.first(static_cast<std::size_t>(count));
    message = message.subspan(static_cast<std::size_t>(count));
    return taken;
  };
  const std::int32_t copies = take(1).front();
  for (std::int32_t i = 0; i < copies; ++i) {
    const auto copy = take(2);
    transformer_.device().CopyKvBlock(cache_, copy[0], copy[1]);
  }
  const auto tokens = take(take(1).front());
  std::vector<SequenceSlice> slices;
  while (!message.empty()) {
    const auto head = take(3);
    SequenceSlice slice{
        .blocks = message.data(), .first_row = head[0], .rows = head[1], .first_position = head[2]};
    take(BlocksOf(slice));
    slices.push_back(slice);
  }
  return transformer_.Forward(tokens, slices, cache_);
}

}  // namespace bloomery
