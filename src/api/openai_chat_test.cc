#include "api/parameters.h"
#include "api/test_util.h"

namespace bloomery {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

Result<std::unique_ptr<Exchange>> Chat(std::string_view more,
                                       std::string_view messages = R"([{"role": "user", "content": "Hi"}])") {
  const std::string body = fmt::format(R"({{"messages": {}{}}})", messages, more);
  return MakeChatCompletion(JsonRequest(body), TestModel());
}

TEST(Chat, MessagesBecomeAPrompt) {
  auto made = Chat("", R"([
      {"role": "system", "content": "Be brief."},
      {"role": "user", "content": [{"type": "text", "text": "Hello, "}, {"type": "text", "text": "you"}]},
      {"role": "assistant", "content": "Hi."},
      {"role": "developer", "content": "Briefer."},
      {"role": "user", "content": "Bye"}])");
  const GenerationRequest& request = Made(made).requests().at(0);
  EXPECT_EQ(std::get<std::string>(request.prompt),
            "Be brief.\n\nUser: Hello, you\nAssistant: Hi.\nBriefer.\n\nUser: Bye\nAssistant:");
  EXPECT_THAT(request.sampling.stop, ElementsAre("\nUser:"));
  EXPECT_TRUE(request.sampling.do_sample);
  EXPECT_FALSE(request.sampling.max_new_tokens) << "as long as there is room";
}

TEST(Chat, ParametersAndTheTemplatesOwnStop) {
  auto made = Chat(R"(, "stop": ["END"], "temperature": 0, "n": 1, "max_completion_tokens": 9, "user": "u",
                      "logprobs": true, "top_logprobs": 2, "model": "m")");
  const SamplingParams& sampling = Made(made).requests().at(0).sampling;
  EXPECT_THAT(sampling.stop, ElementsAre("END", "\nUser:"));
  EXPECT_FALSE(sampling.do_sample);
  EXPECT_EQ(sampling.max_new_tokens, 9);
  EXPECT_EQ(sampling.logprobs, 2);
  auto without = Chat(R"(, "logprobs": false, "top_logprobs": 2)");
  EXPECT_EQ(Made(without).requests().at(0).sampling.logprobs, -1);
}

TEST(Chat, BadBodiesSayWhatIsWrong) {
  const std::vector<std::tuple<const char*, const char*, const char*>> cases = {
      {"", "null", "\"messages\" must be a list"},
      {"", "[]", "at least one message"},
      {"", "\"hi\"", "\"messages\" must be a list"},
      {"", "[1]", "must hold objects"},
      {"", R"([{"role": "user"}])", "\"content\" must be"},
      {"", R"([{"role": "user", "content": null}])", "\"content\" must be"},
      {"", R"([{"content": "x"}])", "message role \"\""},
      {"", R"([{"role": "pirate", "content": "x"}])", "message role \"pirate\""},
      {"", R"([{"role": 1, "content": "x"}])", "\"role\" must be a string"},
      {R"(, "prompt": "x")", R"([{"role": "user", "content": "x"}])", "\"prompt\""},
      {R"(, "tools": [])", R"([{"role": "user", "content": "x"}])", "\"tools\""},
      {R"(, "top_logprobs": 21)", R"([{"role": "user", "content": "x"}])", "between 0 and 20"},
      {R"(, "logprobs": 1)", R"([{"role": "user", "content": "x"}])", "\"logprobs\" must be true or false"},
      {R"(, "n": -1)", R"([{"role": "user", "content": "x"}])", "\"n\" must be between 1"},
  };
  for (const auto& [more, messages, message] : cases) {
    const auto made = Chat(more, messages);
    ASSERT_FALSE(made) << messages << more;
    EXPECT_EQ(made.error().code, ErrorCode::kInvalidArgument) << messages;
    EXPECT_THAT(made.error().message, HasSubstr(message)) << messages << more;
  }
  const auto image = Chat("", R"([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}])");
  ASSERT_FALSE(image);
  EXPECT_EQ(image.error().code, ErrorCode::kUnsupported);
}

TEST(Chat, WholeAnswer) {
  auto made = Chat(R"(, "n": 2)");
  Exchange& exchange = Made(made);
  Feed(exchange, {Prompt(), Sequence(" Hello", {5, 6}, FinishReason::kStopSequence, 1),
                  Sequence("\xFFwell", {7}, FinishReason::kLength, 0), Done(2, 3)});
  EXPECT_EQ(Json(exchange.Answer().body),
            Json(R"({"id": "chatcmpl-7", "object": "chat.completion", "created": 1700000000, "model": "m",
                     "choices": [{"index": 0, "message": {"role": "assistant", "content": "\ufffdwell"},
                                  "logprobs": null, "finish_reason": "length"},
                                 {"index": 1, "message": {"role": "assistant", "content": "Hello"},
                                  "logprobs": null, "finish_reason": "stop"}],
                     "usage": {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}})"));
}

TEST(Chat, Logprobs) {
  auto made = Chat(R"(, "logprobs": true, "top_logprobs": 1)");
  Exchange& exchange = Made(made);
  SequenceEvent sequence = Sequence("\xC3\xA9", {5, 6});
  sequence.logprobs = {Lp(5, "\xC3"), Lp(6, "\xA9")};
  sequence.top_logprobs = {{Lp(8, "x", -0.25F)}};  // a worker that leaves the last out
  Feed(exchange, {Prompt(), sequence, Done()});
  EXPECT_EQ(Json(exchange.Answer().body).at("choices").at(0).at("logprobs"), Json(R"({"content": [
                {"token": "bytes:\\xc3", "logprob": -0.5, "bytes": [195],
                 "top_logprobs": [{"token": "x", "logprob": -0.25, "bytes": [120]}]},
                {"token": "bytes:\\xa9", "logprob": -0.5, "bytes": [169], "top_logprobs": []}]})"));
}

TEST(Chat, Stream) {
  auto made = Chat(R"(, "stream": true, "stream_options": {"include_usage": true})");
  Exchange& exchange = Made(made);
  SequenceEvent sequence = Sequence("  Hi you!", {5, 6, 7, 8}, FinishReason::kEosToken);
  sequence.text_tail = "!";
  const auto pieces = Feed(
      exchange, {Prompt(), NewToken(5, " "), NewToken(6, " Hi"), NewToken(7, " you"), sequence, Done(2, 4)});
  const auto choices = [&](std::size_t piece) {
    json::array all;
    for (const json::value& value : SseValues(pieces[piece])) {
      EXPECT_EQ(value.at("object"), "chat.completion.chunk");
      EXPECT_EQ(value.at("id"), "chatcmpl-7");
      all.push_back(value.at("choices").at(0));
    }
    return json::value(all);
  };
  EXPECT_EQ(choices(1), Json(R"([{"index": 0, "delta": {"role": "assistant", "content": ""},
                                  "logprobs": null, "finish_reason": null}])"))
      << "the role comes first; the template's own space is no part of the text";
  EXPECT_EQ(choices(2).at(0).at("delta"), Json(R"({"content": " Hi"})")) << "further spaces are";
  EXPECT_EQ(choices(3).at(0).at("delta"), Json(R"({"content": " you"})"));
  EXPECT_EQ(choices(4), Json(R"([
      {"index": 0, "delta": {"content": "!"}, "logprobs": null, "finish_reason": null},
      {"index": 0, "delta": {}, "logprobs": null, "finish_reason": "stop"}])"));
  const auto end = SseValues(pieces[5]);
  ASSERT_EQ(end.size(), 2U);
  EXPECT_EQ(end[0].at("usage").at("completion_tokens"), 4);
  EXPECT_EQ(end[0].at("choices"), json::array());
  EXPECT_EQ(end[1], "[DONE]");
}

TEST(Chat, EachStreamedSequenceHasItsOwnOpening) {
  auto made = Chat(R"(, "stream": true, "n": 2, "logprobs": true)");
  Exchange& exchange = Made(made);
  const auto pieces = Feed(exchange, {Prompt(), NewToken(5, " a", 1), NewToken(6, " b", 0),
                                      Sequence(" a", {5}, FinishReason::kLength, 1)});
  const auto opened = SseValues(pieces[1]);
  ASSERT_EQ(opened.size(), 2U);
  EXPECT_EQ(opened[0].at("choices").at(0).at("index"), 1);
  EXPECT_EQ(opened[0].at("choices").at(0).at("delta").at("role"), "assistant");
  EXPECT_EQ(opened[1].at("choices").at(0).at("delta"), Json(R"({"content": "a"})"));
  EXPECT_EQ(
      opened[1].at("choices").at(0).at("logprobs"),
      Json(R"({"content": [{"token": " a", "logprob": -0.5, "bytes": [32, 97], "top_logprobs": []}]})"));
  EXPECT_EQ(SseValues(pieces[2]).size(), 2U) << "the other sequence has not been opened before";
  EXPECT_EQ(SseValues(pieces[3]).size(), 1U);
}

TEST(Chat, ASequenceWithoutTokensIsOpenedAndClosed) {
  auto made = Chat(R"(, "stream": true)");
  Exchange& exchange = Made(made);
  const auto pieces = Feed(exchange, {Prompt(), Sequence("", {1}, FinishReason::kEosToken), Done(2, 1)});
  const auto values = SseValues(pieces[1]);
  ASSERT_EQ(values.size(), 2U);
  EXPECT_EQ(values[0].at("choices").at(0).at("delta").at("role"), "assistant");
  EXPECT_EQ(values[1].at("choices").at(0).at("finish_reason"), "stop");
  EXPECT_EQ(pieces[2], "data: [DONE]\n\n");
}

TEST(Chat, Errors) {
  auto made = Chat(R"(, "stream": true)");
  Exchange& exchange = Made(made);
  const auto pieces = Feed(exchange, {FailedEvent{{ErrorCode::kInvalidArgument, "too long"}}});
  EXPECT_EQ(exchange.Answer().status, 400);
  EXPECT_EQ(SseValues(pieces[0]).at(0).at("error").at("message"), "too long");
  const auto other = MakeChatCompletion(JsonRequest(R"({"model": "x", "messages": []})"), TestModel());
  ASSERT_FALSE(other);
  EXPECT_EQ(other.error().code, ErrorCode::kNotFound);
}

}  // namespace
}  // namespace bloomery
