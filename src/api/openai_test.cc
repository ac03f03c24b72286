#include <limits>

#include "api/parameters.h"
#include "api/test_util.h"

namespace bloomery {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

Result<std::unique_ptr<Exchange>> Complete(std::string_view body) {
  return MakeCompletion(JsonRequest(body), TestModel());
}

const std::vector<GenerationEvent> kTwoTokens = {Prompt(), NewToken(10, " a"), NewToken(11, " b"),
                                                 Sequence(" a b", {10, 11}), Done()};

TEST(Completion, RequestHasOpenAisDefaults) {
  auto made = Complete(R"({"model": "m", "prompt": "once"})");
  Exchange& exchange = Made(made);
  EXPECT_FALSE(exchange.streaming());
  ASSERT_EQ(exchange.requests().size(), 1U);
  const GenerationRequest& request = exchange.requests().front();
  EXPECT_EQ(std::get<std::string>(request.prompt), "once");
  EXPECT_TRUE(request.sampling.do_sample);
  EXPECT_EQ(request.sampling.max_new_tokens, 16);
  EXPECT_EQ(request.sampling.logprobs, -1);
  EXPECT_FALSE(request.sampling.prompt_logprobs);
}

TEST(Completion, EveryFormOfPrompt) {
  using Ids = std::vector<std::int32_t>;
  auto texts = Complete(R"({"prompt": ["a", "b"], "n": 2, "seed": 3})");
  ASSERT_EQ(Made(texts).requests().size(), 2U);
  EXPECT_EQ(std::get<std::string>(Made(texts).requests()[1].prompt), "b");
  EXPECT_EQ(Made(texts).requests()[1].sampling.num_return_sequences, 2);
  EXPECT_EQ(Made(texts).requests()[1].sampling.seed, 3U);
  auto ids = Complete(R"({"prompt": [5, 6]})");
  ASSERT_EQ(Made(ids).requests().size(), 1U);
  EXPECT_EQ(std::get<Ids>(Made(ids).requests()[0].prompt), (Ids{5, 6}));
  auto lists = Complete(R"({"prompt": [[5, 6], [7]]})");
  ASSERT_EQ(Made(lists).requests().size(), 2U);
  EXPECT_EQ(std::get<Ids>(Made(lists).requests()[1].prompt), (Ids{7}));
}

TEST(Completion, BadBodiesSayWhatIsWrong) {
  const std::vector<std::pair<const char*, const char*>> cases = {
      {"", "not valid JSON"},
      {"[1]", "must be a JSON object"},
      {"{}", "\"prompt\" is missing"},
      {R"({"prompt": null})", "\"prompt\" is missing"},
      {R"({"prompt": 1})", "\"prompt\" must be a text"},
      {R"({"prompt": []})", "between 1 and 256"},
      {R"({"prompt": [1, "a"]})", "\"prompt\" must be an integer"},
      {R"({"prompt": [-1]})", "\"prompt\" must be between 0"},
      {R"({"prompt": [[1], [2147483648]]})", "\"prompt\" must be between 0"},
      {R"({"prompt": ["a", {}]})", "\"prompt\" must be a text"},
      {R"({"prompt": "x", "logprobs": 21})", "\"logprobs\" must be between 0 and 20"},
      {R"({"prompt": "x", "logprobs": -1})", "\"logprobs\" must be between 0 and 20"},
      {R"({"prompt": "x", "logprobs": true})", "\"logprobs\" must be an integer"},
      {R"({"prompt": "x", "echo": 1})", "\"echo\" must be true or false"},
      {R"({"prompt": "x", "stream": "yes"})", "\"stream\" must be true or false"},
      {R"({"prompt": "x", "stream_options": true})", "\"stream_options\" must be an object"},
      {R"({"prompt": "x", "stream_options": {"include_usage": 1}})", "include_usage"},
      {R"({"prompt": "x", "max_tokens": 0})", "needs \"echo\""},
      {R"({"prompt": "x", "max_tokens": -1})", "\"max_tokens\" must be between 0"},
      {R"({"prompt": "x", "logit_bias": {"5": 1}})", "logit_bias"},
      {R"({"prompt": "x", "suffix": "end"})", "suffix"},
      {R"({"prompt": "x", "max_new_tokens": 5})", "unknown or unsupported parameter \"max_new_tokens\""},
  };
  for (const auto& [body, message] : cases) {
    const auto made = Complete(body);
    ASSERT_FALSE(made) << body;
    EXPECT_EQ(made.error().code, ErrorCode::kInvalidArgument) << body;
    EXPECT_THAT(made.error().message, HasSubstr(message)) << body;
  }
  EXPECT_TRUE(Complete(R"({"prompt": "x", "user": "u", "logit_bias": {}, "suffix": "", "stop": null})"));
}

TEST(Completion, AnotherModelIsNotFound) {
  const auto made = Complete(R"({"model": "gpt-4", "prompt": "x"})");
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().code, ErrorCode::kNotFound);
  EXPECT_THAT(made.error().message, HasSubstr("\"m\""));
}

TEST(Completion, PromptsAreLimited) {
  json::array prompts(kMaxPrompts, json::value("x"));
  EXPECT_TRUE(Complete(json::serialize(json::object{{"prompt", prompts}})));
  prompts.emplace_back("one too many");
  EXPECT_FALSE(Complete(json::serialize(json::object{{"prompt", prompts}})));
}

TEST(Completion, WholeAnswer) {
  auto made = Complete(R"({"prompt": "once", "max_tokens": 2})");
  Exchange& exchange = Made(made);
  EXPECT_FALSE(exchange.finished());
  EXPECT_THAT(Feed(exchange, kTwoTokens), testing::Each(IsEmpty())) << "nothing is sent before the end";
  ASSERT_TRUE(exchange.finished());
  const HttpAnswer answer = exchange.Answer();
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.content_type, "application/json");
  EXPECT_EQ(Json(answer.body),
            Json(R"({"id": "cmpl-7", "object": "text_completion", "created": 1700000000, "model": "m",
                     "choices": [{"index": 0, "text": " a b", "logprobs": null, "finish_reason": "length"}],
                     "usage": {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4}})"));
}

TEST(Completion, SeveralPromptsAndSequencesAreNumberedThrough) {
  auto made = Complete(R"({"prompt": ["p", "q"], "n": 2})");
  Exchange& exchange = Made(made);
  // The second prompt first, and its sequences in the order in which they ended.
  Feed(exchange,
       {Prompt({3}), Sequence("q1", {5, 6}, FinishReason::kEosToken, 1),
        Sequence("q0", {7}, FinishReason::kStopSequence, 0), Done(1, 3)},
       1);
  EXPECT_FALSE(exchange.finished()) << "the first prompt is still being answered";
  Feed(exchange,
       {Prompt({1, 2}), Sequence("p0", {5}, FinishReason::kLength, 0),
        Sequence("p1", {6}, FinishReason::kLength, 1), Done(2, 2)},
       0);
  ASSERT_TRUE(exchange.finished());
  const json::value body = Json(exchange.Answer().body);
  EXPECT_EQ(body.at("choices"),
            Json(R"([{"index": 0, "text": "p0", "logprobs": null, "finish_reason": "length"},
                     {"index": 1, "text": "p1", "logprobs": null, "finish_reason": "length"},
                     {"index": 2, "text": "q0", "logprobs": null, "finish_reason": "stop"},
                     {"index": 3, "text": "q1", "logprobs": null, "finish_reason": "stop"}])"));
  EXPECT_EQ(body.at("usage"), Json(R"({"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8})"));
}

// As lm-evaluation-harness asks: the prompt scored, nothing generated, or a token that it ignores.
TEST(Completion, EchoWithLogprobs) {
  auto made = Complete(R"({"prompt": "h\u00e9 x", "echo": true, "logprobs": 1, "max_tokens": 1})");
  Exchange& exchange = Made(made);
  EXPECT_TRUE(exchange.requests().front().sampling.prompt_logprobs);
  EXPECT_EQ(exchange.requests().front().sampling.logprobs, 1);
  PromptEvent prompt = Prompt();
  prompt.logprobs = {Lp(1, "h\xC3\xA9", 0), Lp(2, " x", -1.5F)};
  prompt.top_logprobs = {{}, {Lp(9, " y", -0.25F)}};
  SequenceEvent sequence = Sequence("!", {3});
  sequence.logprobs = {Lp(3, "!", -0.75F)};
  sequence.top_logprobs = {{Lp(3, "!", -0.75F)}};
  Feed(exchange, {prompt, sequence, Done(2, 1)});
  const json::value body = Json(exchange.Answer().body);
  EXPECT_EQ(body.at("choices").at(0).at("text"), "h\xC3\xA9 x!");
  EXPECT_EQ(body.at("choices").at(0).at("logprobs"), Json(R"({"tokens": ["h\u00e9", " x", "!"],
                     "token_logprobs": [null, -1.5, -0.75],
                     "top_logprobs": [null, {" y": -0.25, " x": -1.5}, {"!": -0.75}],
                     "text_offset": [0, 2, 4]})"))
      << "the first token has no probability; the chosen one is always among the likely; offsets count "
         "characters";
}

TEST(Completion, ScoringAloneGeneratesNothing) {
  auto made = Complete(R"({"prompt": [1, 2], "echo": true, "logprobs": 0, "max_tokens": 0})");
  Exchange& exchange = Made(made);
  EXPECT_EQ(exchange.requests().front().sampling.max_new_tokens, 0);
  PromptEvent prompt = Prompt();
  prompt.logprobs = {Lp(1, "<s>", 0, true), Lp(2, "x", -1.5F)};
  Feed(exchange, {prompt, Sequence("", {}), Done(2, 0)});
  const json::value body = Json(exchange.Answer().body);
  EXPECT_EQ(body.at("choices").at(0).at("text"), "x") << "specials are no part of the text";
  EXPECT_EQ(body.at("choices").at(0).at("logprobs").at("tokens"), Json(R"(["<s>", "x"])"));
  EXPECT_EQ(body.at("choices").at(0).at("logprobs").at("text_offset"), Json("[0, 0]"));
  EXPECT_EQ(body.at("usage"), Json(R"({"prompt_tokens": 2, "completion_tokens": 0, "total_tokens": 2})"));
}

// The engine alone knows what ids spell, and says so with the prompt's logprobs.
TEST(Completion, EchoOfTokenIdsAsksForTheirText) {
  auto made = Complete(R"({"prompt": [1, 2], "echo": true})");
  Exchange& exchange = Made(made);
  EXPECT_TRUE(exchange.requests().front().sampling.prompt_logprobs);
  PromptEvent prompt = Prompt();
  prompt.logprobs = {Lp(1, "on", 0), Lp(2, "ce")};
  Feed(exchange, {prompt, Sequence("!", {3}), Done(2, 1)});
  const json::value body = Json(exchange.Answer().body);
  EXPECT_EQ(body.at("choices").at(0).at("text"), "once!");
  EXPECT_EQ(body.at("choices").at(0).at("logprobs"), nullptr) << "not asked for";
  auto text = Complete(R"({"prompt": "once", "echo": true})");
  EXPECT_FALSE(Made(text).requests().front().sampling.prompt_logprobs) << "text needs no scoring";
}

TEST(Completion, ImpossibleAndBrokenTokensAreStillJson) {
  auto made = Complete(R"({"prompt": "x", "logprobs": 0})");
  Exchange& exchange = Made(made);
  SequenceEvent sequence = Sequence("\xFF z", {1, 2});
  sequence.logprobs = {Lp(1, "\xE2\x82", -std::numeric_limits<float>::infinity()), Lp(2, " z")};
  sequence.top_logprobs = {{}, {}};
  Feed(exchange, {Prompt(), sequence, Done()});
  const json::value choice = Json(exchange.Answer().body).at("choices").at(0);
  EXPECT_EQ(choice.at("text"), "\xEF\xBF\xBD z");
  EXPECT_EQ(choice.at("logprobs").at("tokens"), Json(R"(["bytes:\\xe2\\x82", " z"])"));
  EXPECT_EQ(choice.at("logprobs").at("token_logprobs"), Json("[-9999.0, -0.5]"));
}

TEST(Completion, Stream) {
  auto made = Complete(R"({"prompt": "x", "stream": true, "stream_options": {"include_usage": true}})");
  Exchange& exchange = Made(made);
  EXPECT_TRUE(exchange.streaming());
  EXPECT_EQ(exchange.stream_content_type(), "text/event-stream");
  EXPECT_EQ(exchange.requests().front().sampling.logprobs, -1);
  SequenceEvent sequence = Sequence(" a\xC3", {10, 11, 12}, FinishReason::kEosToken);
  sequence.text_tail = "\xC3";
  const auto pieces = Feed(exchange, {Prompt(), NewToken(10, " a"), NewToken(11, ""), sequence, Done(2, 3)});
  EXPECT_THAT(pieces[0], IsEmpty());
  EXPECT_EQ(SseValues(pieces[1]),
            std::vector{Json(R"({"id": "cmpl-7", "object": "text_completion", "created": 1700000000,
                "model": "m",
                "choices": [{"index": 0, "text": " a", "logprobs": null, "finish_reason": null}]})")});
  EXPECT_THAT(pieces[2], IsEmpty()) << "a token that made no text yet";
  ASSERT_EQ(SseValues(pieces[3]).size(), 1U);
  EXPECT_EQ(SseValues(pieces[3])[0].at("choices"),
            Json(R"([{"index": 0, "text": "\ufffd", "logprobs": null, "finish_reason": "stop"}])"));
  const auto end = SseValues(pieces[4]);
  ASSERT_EQ(end.size(), 2U);
  EXPECT_EQ(end[0].at("choices"), json::array());
  EXPECT_EQ(end[0].at("usage"), Json(R"({"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5})"));
  EXPECT_EQ(end[1], "[DONE]");
}

TEST(Completion, StreamEndsWhenEveryPromptHas) {
  auto made = Complete(R"({"prompt": ["p", "q"], "n": 2, "stream": true, "echo": true})");
  Exchange& exchange = Made(made);
  const auto second = Feed(
      exchange,
      {Prompt(), NewToken(1, "a", 1), NewToken(2, "b", 1), Sequence("ab", {1, 2}, FinishReason::kLength, 1),
       Sequence("", {}, FinishReason::kEosToken, 0), Done()},
      1);
  const auto text_and_index = [](const std::string& piece) {
    const json::value choice = SseValues(piece).at(0).at("choices").at(0);
    return std::pair(std::string(choice.at("text").as_string()), choice.at("index").as_int64());
  };
  EXPECT_EQ(text_and_index(second[1]), std::pair(std::string("qa"), std::int64_t{3}));
  EXPECT_EQ(text_and_index(second[2]), std::pair(std::string("b"), std::int64_t{3})) << "echoed once";
  EXPECT_EQ(text_and_index(second[4]), std::pair(std::string("q"), std::int64_t{2})) << "without any token";
  EXPECT_THAT(second[5], IsEmpty());
  const auto first = Feed(exchange,
                          {Prompt(), Sequence("", {}, FinishReason::kLength, 0),
                           Sequence("", {}, FinishReason::kLength, 1), Done(1, 0)},
                          0);
  EXPECT_EQ(first[3], "data: [DONE]\n\n");
}

TEST(Completion, StreamedLogprobsGoOnWhereTheLastOnesEnded) {
  auto made = Complete(R"({"prompt": "h\u00e9", "stream": true, "echo": true, "logprobs": 1})");
  Exchange& exchange = Made(made);
  PromptEvent prompt = Prompt({1});
  prompt.logprobs = {Lp(1, "h\xC3\xA9", 0)};
  prompt.top_logprobs = {{}};
  TokenEvent token = NewToken(2, "");  // its text waits, its logprob does not
  token.token.text = " x";
  token.top_logprobs = {Lp(3, " y", -0.25F)};
  SequenceEvent sequence = Sequence(" xz", {2, 4});
  const auto pieces = Feed(exchange, {prompt, token, NewToken(4, " xz"), sequence, Done(1, 2)});
  const auto choice = [&](std::size_t piece) { return SseValues(pieces[piece]).at(0).at("choices").at(0); };
  EXPECT_EQ(choice(1).at("text"), "h\xC3\xA9");
  EXPECT_EQ(choice(1).at("logprobs"), Json(R"({"tokens": ["h\u00e9", " x"], "token_logprobs": [null, -0.5],
      "top_logprobs": [null, {" y": -0.25, " x": -0.5}], "text_offset": [0, 2]})"));
  EXPECT_EQ(choice(2).at("logprobs").at("text_offset"), Json("[4]"));
  EXPECT_EQ(choice(3).at("logprobs"), nullptr);
}

TEST(Completion, ErrorBeforeTheFirstByteKeepsItsStatus) {
  for (const char* body : {R"({"prompt": "x"})", R"({"prompt": "x", "stream": true})"}) {
    auto made = Complete(body);
    Exchange& exchange = Made(made);
    Feed(exchange, {FailedEvent{{ErrorCode::kOverloaded, "too many"}}});
    ASSERT_TRUE(exchange.finished());
    ASSERT_NE(exchange.error(), nullptr);
    const HttpAnswer answer = exchange.Answer();
    EXPECT_EQ(answer.status, 429);
    EXPECT_EQ(Json(answer.body).at("error").at("message"), "too many");
    EXPECT_THAT(answer.headers, ElementsAre(std::pair("Retry-After", "1")));
  }
}

TEST(Completion, ErrorOfOnePromptIsTheAnswersError) {
  auto made = Complete(R"({"prompt": ["p", "q"]})");
  Exchange& exchange = Made(made);
  Feed(exchange, kTwoTokens, 0);
  EXPECT_FALSE(exchange.finished());
  Feed(exchange, {FailedEvent{{ErrorCode::kInvalidArgument, "too long"}}}, 1);
  ASSERT_TRUE(exchange.finished());
  EXPECT_EQ(exchange.Answer().status, 400);
}

TEST(Completion, ErrorInAStreamIsItsLastEvent) {
  auto made = Complete(R"({"prompt": "x", "stream": true})");
  Exchange& exchange = Made(made);
  const auto pieces = Feed(
      exchange, {Prompt(), NewToken(1, "a"), FailedEvent{{ErrorCode::kUnavailable, "the engine \xFF died"}}});
  const auto values = SseValues(pieces[2]);
  ASSERT_EQ(values.size(), 2U);
  EXPECT_EQ(values[0], Json(R"({"error": {"message": "the engine \ufffd died", "type": "service_unavailable",
                                "param": null, "code": "unavailable"}})"));
  EXPECT_EQ(values[1], "[DONE]");
}

TEST(ListModels, NamesTheModelAndItsContext) {
  const HttpAnswer answer = ListModels(std::vector{TestModel()}, 17);
  EXPECT_EQ(Json(answer.body), Json(R"({"object": "list", "data": [{"id": "m", "object": "model",
      "created": 17, "owned_by": "bloomery", "max_model_len": 2048}]})"));
}

}  // namespace
}  // namespace bloomery
