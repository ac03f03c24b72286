#include "api/exchange.h"

#include <algorithm>

namespace bloomery {

std::string Exchange::Feed(std::size_t index, const GenerationEvent& event) {
  Collected& one = collected_[index];
  std::string out;
  if (const auto* prompt = std::get_if<PromptEvent>(&event)) {
    one.prompt = *prompt;
  } else if (const auto* token = std::get_if<TokenEvent>(&event)) {
    if (streaming_) out = StreamToken(index, *token);
  } else if (const auto* sequence = std::get_if<SequenceEvent>(&event)) {
    one.sequences.push_back(*sequence);
    if (streaming_) out = StreamSequence(index, *sequence);
  } else if (const auto* done = std::get_if<DoneEvent>(&event)) {
    one.done = *done;
    std::sort(one.sequences.begin(), one.sequences.end(),
              [](const SequenceEvent& a, const SequenceEvent& b) { return a.sequence < b.sequence; });
    if (streaming_ && finished()) out = StreamEnd();
  } else if (const auto* failed = std::get_if<FailedEvent>(&event)) {
    one.error = failed->error;
    if (streaming_) out = StreamError(failed->error);
  }
  return out;
}

bool Exchange::finished() const {
  return error() != nullptr || std::all_of(collected_.begin(), collected_.end(),
                                           [](const Collected& one) { return one.done.has_value(); });
}

const Error* Exchange::error() const {
  for (const Collected& one : collected_) {
    if (one.error) return &*one.error;
  }
  return nullptr;
}

HttpAnswer Exchange::Answer() {
  if (const Error* failed = error()) return ErrorAnswer(*failed);
  HttpAnswer answer;
  answer.content_type = body_content_type();
  answer.body = Body();
  return answer;
}

std::string Exchange::StreamToken(std::size_t /*index*/, const TokenEvent& /*event*/) { return {}; }
std::string Exchange::StreamSequence(std::size_t /*index*/, const SequenceEvent& /*event*/) { return {}; }

std::string Exchange::StreamError(const Error& error) {
  const json::value parsed = json::parse(ErrorAnswer(error).body);
  return ServerSentEvent(parsed);
}

std::string ServerSentEvent(const json::value& value) { return "data: " + json::serialize(value) + "\n\n"; }

}  // namespace bloomery
