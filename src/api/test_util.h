// What the dialects' tests share: requests from bodies, the events an engine would send, answers taken apart.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "api/dialects.h"

namespace bloomery {

inline ApiRequest JsonRequest(std::string_view body) {
  return {.path = "/",
          .content_type = "application/json",
          .accept = {},
          .body = body,
          .id = "7",
          .created_s = 1700000000};
}

inline ModelInfo TestModel() {
  ModelInfo model;
  model.name = "m";
  model.max_context_tokens = 2048;
  return model;
}

// A piece of JSON that must be valid.
inline json::value Json(std::string_view text) {
  auto parsed = ParseJson(text, "test");
  if (!parsed) {
    ADD_FAILURE() << parsed.error().message << ": " << text;
    return nullptr;
  }
  return *std::move(parsed);
}

// −0.5 is a binary fraction, so that it prints the same as float and as double.
inline TokenLogprob Lp(std::int32_t id, std::string text, float logprob = -0.5F, bool special = false) {
  return {id, std::move(text), logprob, special};
}

// A token whose text is certain at once.
inline TokenEvent NewToken(std::int32_t id, const std::string& text, int sequence = 0) {
  return {sequence, Lp(id, text), {}, text};
}

inline SequenceEvent Sequence(std::string text, std::vector<std::int32_t> ids,
                              FinishReason reason = FinishReason::kLength, int sequence = 0) {
  SequenceEvent event;
  event.sequence = sequence;
  event.reason = reason;
  event.text = std::move(text);
  event.token_ids = std::move(ids);
  return event;
}

// Two tokens of `prompt_tokens`, two new ones: what most of the tests generate.
inline PromptEvent Prompt(std::vector<std::int32_t> ids = {1, 2}, std::uint64_t seed = 42) {
  return {std::move(ids), {}, {}, seed};
}
inline DoneEvent Done(std::int64_t prompt_tokens = 2, std::int64_t generated_tokens = 2) {
  return {prompt_tokens, generated_tokens, /*cached_tokens=*/0, 1, 2, 3};
}

// Feeds one request's events; what was streamed meanwhile, piece by piece.
inline std::vector<std::string> Feed(Exchange& exchange, const std::vector<GenerationEvent>& events,
                                     std::size_t index = 0) {
  std::vector<std::string> pieces;
  for (const GenerationEvent& event : events) pieces.push_back(exchange.Feed(index, event));
  return pieces;
}

// The JSON of "data: …\n\n" pieces, each of which may hold several or none; [DONE] is the string "[DONE]".
inline std::vector<json::value> SseValues(std::string_view stream) {
  std::vector<json::value> values;
  while (!stream.empty()) {
    const std::size_t end = stream.find("\n\n");
    if (!stream.starts_with("data: ") || end == std::string_view::npos) {
      ADD_FAILURE() << "not server-sent events: " << stream;
      break;
    }
    const std::string_view data = stream.substr(6, end - 6);
    values.push_back(data == "[DONE]" ? json::value("[DONE]") : Json(data));
    stream.remove_prefix(end + 2);
  }
  return values;
}

// The exchange that must come of `made`.
inline Exchange& Made(Result<std::unique_ptr<Exchange>>& made) {
  if (!made) {
    ADD_FAILURE() << made.error().ToString();
    std::abort();
  }
  return **made;
}

}  // namespace bloomery
