#include "worker/protocol.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "base/json.h"
#include "worker/codec.h"

namespace bloomery {
namespace {

// A request with no field at its default, so that one that is not carried shows.
GenerationRequest FullRequest() {
  GenerationRequest request;
  request.id = 0xFFFFFFFFFFFFFFFF;
  request.prompt = std::string("caf\xC3\xA9 \xFF\x00 end", 12);
  request.add_special_tokens = false;
  request.truncate_prompt_tokens = 17;
  request.deadline_ms = 123456789012;
  request.cache_salt = 0xFEDCBA9876543210;
  request.resume_tokens = {1, 2, 250879};
  SamplingParams& p = request.sampling;
  p.do_sample = true;
  p.temperature = 0.1F;
  p.top_k = 3;
  p.top_p = 0.30000001F;
  p.typical_p = 0.7F;
  p.repetition_penalty = 1.1F;
  p.frequency_penalty = -0.5F;
  p.presence_penalty = 0.25F;
  p.no_repeat_ngram_size = 2;
  p.seed = std::numeric_limits<std::uint64_t>::max();
  p.min_length = 4;
  p.min_new_tokens = 5;
  p.max_length = 6;
  p.max_new_tokens = 7;
  p.eos_token_ids = std::vector<std::int32_t>{9, 8};
  p.stop = {"a", "\xF0\x9F"};
  p.stop_token_ids = {11};
  p.ignore_eos = true;
  p.num_beams = 2;
  p.length_penalty = 0.5F;
  p.early_stopping = EarlyStopping::kNever;
  p.num_return_sequences = 2;
  p.best_of = 3;
  p.priority = -4;
  p.logprobs = 1;
  p.prompt_logprobs = true;
  return request;
}

std::vector<GenerationEvent> FullEvents() {
  const TokenLogprob token{7, std::string("\xE2\x82", 2), -std::numeric_limits<float>::infinity(), true};
  const TokenLogprob other{8, "x", -0.1F, false};
  return {PromptEvent{{1, 2}, {token, other}, {{}, {other, token}}, 42},
          TokenEvent{3, token, {other}, "x\xC3\xA9"},
          SequenceEvent{
              1, FinishReason::kStopSequence, "text", "tail", {1, 2, 3}, {token}, {{token, other}}, -1.25F},
          DoneEvent{1, 2, 3, 0.1, 1e300, 3.5}, FailedEvent{{ErrorCode::kOverloaded, "full \xFF"}}};
}

GenerationRequest TokenPromptRequest() {
  GenerationRequest request;
  request.id = 1;
  request.prompt = std::vector<std::int32_t>{4, 5};
  return request;
}

std::vector<WorkerMessage> AllMessages() {
  std::vector<WorkerMessage> messages = {
      SubmitMessage{FullRequest()},
      SubmitMessage{TokenPromptRequest()},
      CancelMessage{7},
      ProgressMessage{0.5, "layer 3/24"},
      ReadyMessage{{"m", "opt", "int8", 1, 2, 3, 4, 5, 6, "template", "<s>", "</s>"}, 1.5},
      LoadFailedMessage{{ErrorCode::kNotFound, "no such file"}},
      StatsMessage{{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}}};
  for (const GenerationEvent& event : FullEvents()) messages.push_back(EventMessage{9, event});
  return messages;
}

std::vector<WorkerMessage> ReadAll(FrameReader& reader) {
  std::vector<WorkerMessage> messages;
  for (;;) {
    auto next = reader.Next();
    if (!next) {
      ADD_FAILURE() << next.error().ToString();
      return messages;
    }
    if (!*next) return messages;
    messages.push_back(std::move(**next));
  }
}

// Equality by encoding once more: every field that was read is written again.
TEST(Protocol, EveryMessageComesBackWhole) {
  FrameReader reader;
  for (const WorkerMessage& message : AllMessages()) {
    const std::string frame = EncodeFrame(message);
    reader.Append(frame);
    const auto read = ReadAll(reader);
    ASSERT_EQ(read.size(), 1U);
    EXPECT_EQ(EncodeFrame(read.front()), frame);
  }
}

TEST(Protocol, ValuesAreExact) {
  FrameReader reader;
  reader.Append(EncodeFrame(SubmitMessage{FullRequest()}));
  const GenerationRequest request = std::get<SubmitMessage>(ReadAll(reader).at(0)).request;
  const GenerationRequest expected = FullRequest();
  EXPECT_EQ(request.prompt, expected.prompt) << "bytes that are no UTF-8, and a NUL";
  EXPECT_EQ(request.sampling.seed, expected.sampling.seed);
  EXPECT_EQ(request.sampling.temperature, 0.1F);
  EXPECT_EQ(request.sampling.top_p, 0.30000001F);
  EXPECT_EQ(request.sampling.stop, expected.sampling.stop);
  EXPECT_EQ(request.sampling.early_stopping, EarlyStopping::kNever);
  EXPECT_EQ(request.id, expected.id);
  reader.Append(EncodeFrame(EventMessage{1, FullEvents()[1]}));
  const auto event = std::get<TokenEvent>(std::get<EventMessage>(ReadAll(reader).at(0)).event);
  EXPECT_EQ(event.token.logprob, -std::numeric_limits<float>::infinity());
  EXPECT_EQ(event.token.text, "\xE2\x82");
}

TEST(Protocol, FramesMayBeCutAnywhere) {
  std::string stream;
  for (const WorkerMessage& message : AllMessages()) stream += EncodeFrame(message);
  for (const std::size_t step : {1U, 2U, 7U, 1000U}) {
    FrameReader reader;
    std::string again;
    for (std::size_t at = 0; at < stream.size(); at += step) {
      reader.Append(std::string_view(stream).substr(at, step));
      for (const WorkerMessage& message : ReadAll(reader)) again += EncodeFrame(message);
    }
    EXPECT_EQ(again, stream);
  }
}

TEST(Protocol, EveryChangedByteIsSurvived) {
  const std::string frame = EncodeFrame(EventMessage{9, FullEvents()[2]});
  int refused = 0;
  for (std::size_t i = 0; i < frame.size(); ++i) {
    std::string changed = frame;
    changed[i] = static_cast<char>(changed[i] ^ 0x15);
    FrameReader reader;
    reader.Append(changed);
    refused += reader.Next() ? 0 : 1;
  }
  EXPECT_GT(refused, 50);
}

TEST(Protocol, RefusesStrangersAndGiants) {
  FrameReader http;
  http.Append("GET / HTTP/1.1\r\n\r\n");
  EXPECT_FALSE(http.Next());
  std::string giant = EncodeFrame(CancelMessage{1});
  giant[3] = '\x7F';  // two gigabytes
  FrameReader reader;
  reader.Append(giant);
  EXPECT_THAT(reader.Next().error().message, testing::HasSubstr("a frame of"));
  EXPECT_FALSE(DecodeEvent(ParseJson(R"({"token":{"sequence":"x"}})", "t")->as_object()));
  EXPECT_FALSE(DecodeEvent(ParseJson(R"({"unheard":{}})", "t")->as_object()));
  EXPECT_FALSE(DecodeRequest(ParseJson(R"({"id":1,"prompt":"x"})", "t")->as_object()));
  EXPECT_FALSE(DecodeRequest(ParseJson(R"({"id":-1,"prompt":"x","sampling":{}})", "t")->as_object()));
  EXPECT_FALSE(
      DecodeRequest(ParseJson(R"({"id":1,"prompt":"x","sampling":{"early_stopping":9}})", "t")->as_object()));
}

}  // namespace
}  // namespace bloomery
