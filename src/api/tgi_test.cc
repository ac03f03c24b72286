#include "api/test_util.h"

namespace bloomery {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

Result<std::unique_ptr<Exchange>> Tgi(std::string_view body, TgiMode mode = TgiMode::kGenerate) {
  return MakeTgi(JsonRequest(body), mode);
}

TEST(Tgi, RequestAndItsDefaults) {
  auto made = Tgi(R"({"inputs": "once"})");
  const GenerationRequest& plain = Made(made).requests().at(0);
  EXPECT_EQ(std::get<std::string>(plain.prompt), "once");
  EXPECT_FALSE(plain.sampling.do_sample);
  EXPECT_EQ(plain.sampling.logprobs, -1);
  auto rich = Tgi(R"({"inputs": "once", "parameters": {"temperature": 0.5, "truncate": 9, "stop": ["x"],
                      "best_of": 2, "max_new_tokens": 3}})");
  const GenerationRequest& request = Made(rich).requests().at(0);
  EXPECT_TRUE(request.sampling.do_sample) << "a temperature is enough here";
  EXPECT_EQ(request.sampling.temperature, 0.5F);
  EXPECT_EQ(request.truncate_prompt_tokens, 9);
  EXPECT_EQ(request.sampling.best_of, 2);
  EXPECT_THAT(request.sampling.stop, ElementsAre("x"));
}

TEST(Tgi, ModesDecideAboutStreaming) {
  auto plain = Tgi(R"({"inputs": "x"})");
  EXPECT_FALSE(Made(plain).streaming());
  auto stream = Tgi(R"({"inputs": "x"})", TgiMode::kStream);
  EXPECT_TRUE(Made(stream).streaming());
  EXPECT_EQ(Made(stream).requests()[0].sampling.logprobs, 0) << "each token comes with its own";
  auto by_field = Tgi(R"({"inputs": "x", "stream": true})", TgiMode::kByField);
  EXPECT_TRUE(Made(by_field).streaming());
  auto whole = Tgi(R"({"inputs": "x", "stream": false})", TgiMode::kByField);
  EXPECT_FALSE(Made(whole).streaming());
}

TEST(Tgi, BadBodiesSayWhatIsWrong) {
  const std::vector<std::pair<const char*, const char*>> cases = {
      {"", "not valid JSON"},
      {"\"x\"", "must be a JSON object"},
      {"{}", "\"inputs\" is missing"},
      {R"({"inputs": ""})", "\"inputs\" cannot be empty"},
      {R"({"inputs": ["x"]})", "\"inputs\" must be a string"},
      {R"({"inputs": "x", "parameters": 5})", "\"parameters\" must be an object"},
      {R"({"inputs": "x", "parameters": {"max_new_tokens": -1}})", "\"max_new_tokens\" must be between 1"},
      {R"({"inputs": "x", "parameters": {"max_tokens": 1}})", "unknown parameter \"max_tokens\""},
      {R"({"inputs": "x", "parameters": {"num_return_sequences": 2}})", "\"num_return_sequences\""},
      {R"({"inputs": "x", "stream": true})", "unknown field \"stream\""},
      {R"({"inputs": "x", "prompt": "x"})", "unknown field \"prompt\""},
  };
  for (const auto& [body, message] : cases) {
    const auto made = Tgi(body);
    ASSERT_FALSE(made) << body;
    EXPECT_EQ(made.error().code, ErrorCode::kInvalidArgument) << body;
    EXPECT_THAT(made.error().message, HasSubstr(message)) << body;
  }
  const char* best_of = R"({"inputs": "x", "parameters": {"best_of": 2, "do_sample": true}})";
  EXPECT_TRUE(Tgi(best_of));
  EXPECT_THAT(Tgi(best_of, TgiMode::kStream).error().message, HasSubstr("cannot be streamed"));
  EXPECT_THAT(Tgi(R"({"inputs": "x", "stream": 1})", TgiMode::kByField).error().message,
              HasSubstr("\"stream\""));
}

TEST(Tgi, WholeAnswer) {
  auto made = Tgi(R"({"inputs": "once"})");
  Exchange& exchange = Made(made);
  EXPECT_THAT(Feed(exchange, {Prompt(), NewToken(5, " upon"), Sequence(" upon\xFF", {5}), Done(2, 1)}),
              testing::Each(IsEmpty()));
  ASSERT_TRUE(exchange.finished());
  EXPECT_EQ(exchange.Answer().status, 200);
  EXPECT_EQ(Json(exchange.Answer().body), Json(R"({"generated_text": " upon\ufffd"})"));
  auto full = Tgi(R"({"inputs": "once", "parameters": {"return_full_text": true}})");
  Feed(Made(full), {Prompt(), Sequence(" upon", {5}), Done(2, 1)});
  EXPECT_EQ(Made(full).Answer().body, R"({"generated_text":"once upon"})");
}

TEST(Tgi, Details) {
  auto made = Tgi(R"({"inputs": "once", "parameters": {"decoder_input_details": true, "do_sample": true}})");
  Exchange& exchange = Made(made);
  EXPECT_TRUE(exchange.requests()[0].sampling.prompt_logprobs);
  PromptEvent prompt = Prompt({1}, 99);
  prompt.logprobs = {Lp(1, "once", 0)};
  SequenceEvent sequence = Sequence("y", {5, 6}, FinishReason::kEosToken);
  sequence.logprobs = {Lp(5, "y"), Lp(6, "</s>", -1.5F, true)};
  Feed(exchange, {prompt, sequence, Done(1, 2)});
  EXPECT_EQ(Json(exchange.Answer().body), Json(R"({"generated_text": "y",
                     "details": {"finish_reason": "eos_token", "generated_tokens": 2, "seed": 99,
                                 "input_length": 1,
                                 "prefill": [{"id": 1, "text": "once", "logprob": 0.0, "special": false}],
                                 "tokens": [{"id": 5, "text": "y", "logprob": -0.5, "special": false},
                                            {"id": 6, "text": "</s>", "logprob": -1.5, "special": true}]}})"));
}

TEST(Tgi, Stream) {
  auto made = Tgi(R"({"inputs": "once"})", TgiMode::kStream);
  Exchange& exchange = Made(made);
  EXPECT_EQ(exchange.stream_content_type(), "text/event-stream");
  const auto pieces = Feed(exchange, {Prompt({1, 2, 3}), NewToken(5, " a"), NewToken(6, " b"),
                                      Sequence(" a b", {5, 6}, FinishReason::kStopSequence), Done()});
  EXPECT_THAT(pieces[1], IsEmpty()) << "the last token carries the text, so each waits for the next";
  EXPECT_EQ(SseValues(pieces[2]), std::vector{Json(R"({"index": 1,
                "token": {"id": 5, "text": " a", "logprob": -0.5, "special": false},
                "generated_text": null, "details": null})")});
  EXPECT_EQ(SseValues(pieces[3]), std::vector{Json(R"({"index": 2,
                "token": {"id": 6, "text": " b", "logprob": -0.5, "special": false},
                "generated_text": " a b",
                "details": {"finish_reason": "stop_sequence", "generated_tokens": 2, "seed": null,
                            "input_length": 3}})")});
  EXPECT_THAT(pieces[4], IsEmpty());
}

TEST(Tgi, StreamWithTopTokens) {
  auto made =
      Tgi(R"({"inputs": "once", "parameters": {"top_n_tokens": 1, "do_sample": true}})", TgiMode::kStream);
  TokenEvent token = NewToken(5, " a");
  token.top_logprobs = {Lp(9, " z", -0.25F)};
  const auto pieces = Feed(Made(made), {Prompt({1}, 77), token, Sequence(" a", {5}), Done(1, 1)});
  const auto values = SseValues(pieces[2]);
  ASSERT_EQ(values.size(), 1U);
  EXPECT_EQ(values[0].at("top_tokens"),
            Json(R"([{"id": 9, "text": " z", "logprob": -0.25, "special": false}])"));
  EXPECT_EQ(values[0].at("details").at("seed"), 77) << "that it can be sent again";
}

TEST(Tgi, BeamsStreamTheirTextAtTheEnd) {
  auto made = Tgi(R"({"inputs": "once", "parameters": {"num_beams": 2}})", TgiMode::kStream);
  const auto pieces = Feed(Made(made), {Prompt(), Sequence("y", {5}), Done()});
  const auto values = SseValues(pieces[1]);
  ASSERT_EQ(values.size(), 1U);
  EXPECT_EQ(values[0].at("generated_text"), "y");
  EXPECT_EQ(values[0].at("token"), nullptr);
}

TEST(Tgi, Errors) {
  const std::vector<std::pair<ErrorCode, int>> cases = {{ErrorCode::kInvalidArgument, 422},
                                                        {ErrorCode::kDeadlineExceeded, 424},
                                                        {ErrorCode::kOverloaded, 429},
                                                        {ErrorCode::kUnavailable, 503}};
  for (const auto& [code, status] : cases) {
    for (const TgiMode mode : {TgiMode::kGenerate, TgiMode::kStream}) {
      auto made = Tgi(R"({"inputs": "x"})", mode);
      Feed(Made(made), {FailedEvent{{code, "why"}}});
      ASSERT_TRUE(Made(made).finished());
      EXPECT_EQ(Made(made).Answer().status, status);
      EXPECT_EQ(Json(Made(made).Answer().body).at("error"), "why");
    }
  }
}

TEST(Tgi, AnErrorInAStreamIsAnEvent) {
  auto made = Tgi(R"({"inputs": "x"})", TgiMode::kStream);
  const auto pieces = Feed(Made(made), {Prompt(), NewToken(5, "a"), NewToken(6, "b"),
                                        FailedEvent{{ErrorCode::kUnavailable, "the engine died"}}});
  EXPECT_EQ(SseValues(pieces[3]),
            std::vector{Json(R"({"error": "the engine died", "error_type": "unhealthy"})")});
}

}  // namespace
}  // namespace bloomery
