#include "api/parameters.h"
#include "api/test_util.h"

namespace bloomery {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

Result<std::unique_ptr<Exchange>> Invoke(std::string_view body, BatchShape shape = BatchShape::kPipeline,
                                         std::string_view content_type = "application/json",
                                         std::string_view accept = {}) {
  ApiRequest request = JsonRequest(body);
  request.content_type = content_type;
  request.accept = accept;
  return MakeInvocation(request, TestModel(), shape);
}

// One request's events, for a text that continues a prompt.
std::vector<GenerationEvent> Continue(const std::string& text) {
  return {Prompt(), NewToken(5, text), Sequence(text, {5}), Done(2, 1)};
}

std::string PromptOf(Exchange& exchange, std::size_t index = 0) {
  return std::get<std::string>(exchange.requests().at(index).prompt);
}

// --- the four fixtures of 2022 and 2023

TEST(Fixture, Opt30bPlainText) {
  auto made = Invoke("Amazon.com is the best", BatchShape::kPipeline, "text/plain");
  Exchange& exchange = Made(made);
  ASSERT_EQ(exchange.requests().size(), 1U);
  EXPECT_EQ(PromptOf(exchange), "Amazon.com is the best");
  EXPECT_FALSE(exchange.requests()[0].sampling.do_sample);
  Feed(exchange, Continue(" site"));
  const HttpAnswer answer = exchange.Answer();
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.content_type, "application/json");
  EXPECT_EQ(answer.body, R"([{"generated_text":"Amazon.com is the best site"}])");
}

TEST(Fixture, Opt30bInputsAndParameters) {
  auto made =
      Invoke(R"({"inputs": ["Amazon.com is", "x"], "parameters": {"max_length": 50, "do_sample": false}})");
  Exchange& exchange = Made(made);
  ASSERT_EQ(exchange.requests().size(), 2U);
  EXPECT_EQ(exchange.requests()[1].sampling.max_length, 50);
  EXPECT_FALSE(exchange.requests()[1].sampling.max_new_tokens);
  Feed(exchange, Continue("y"), 1);
  Feed(exchange, Continue(" great"), 0);
  EXPECT_EQ(exchange.Answer().body,
            R"([[{"generated_text":"Amazon.com is great"}],[{"generated_text":"xy"}]])");
}

TEST(Fixture, BloomOf2022) {
  auto made = Invoke(R"({"input": ["a", "b"], "padding": true,
      "gen_kwargs": {"min_length": 5, "max_new_tokens": 100, "temperature": 0.8, "num_beams": 5,
                     "no_repeat_ngram_size": 2}})");
  Exchange& exchange = Made(made);
  ASSERT_EQ(exchange.requests().size(), 2U);
  const SamplingParams& sampling = exchange.requests()[0].sampling;
  EXPECT_EQ(sampling.min_length, 5);
  EXPECT_EQ(sampling.max_new_tokens, 100);
  EXPECT_EQ(sampling.num_beams, 5);
  EXPECT_EQ(sampling.no_repeat_ngram_size, 2);
  EXPECT_FALSE(sampling.do_sample) << "a temperature alone does not sample";
  Feed(exchange, Continue("1"), 0);
  Feed(exchange, Continue("2"), 1);
  EXPECT_EQ(exchange.Answer().body, R"(["a1","b2"])");
  auto one = Invoke(R"({"input": "a"})");
  Feed(Made(one), Continue("1"));
  EXPECT_EQ(Made(one).Answer().body, R"(["a1"])") << "a list even for one text";
}

TEST(Fixture, BloomOf2023) {
  auto made = Invoke(R"({"inputs": ["a", "b"], "parameters": {"max_new_tokens": 1}})", BatchShape::kOutputs);
  Exchange& exchange = Made(made);
  Feed(exchange, Continue("1"), 0);
  Feed(exchange, Continue("2"), 1);
  EXPECT_EQ(exchange.Answer().body, R"({"outputs":["a1","b2"]})");
}

// --- batches

TEST(Invocation, TextIsTakenAsItIs) {
  const std::string bytes = "{\"inputs\": \xFF";
  auto made = Invoke(bytes, BatchShape::kPipeline, "text/plain; charset=utf-8");
  EXPECT_EQ(PromptOf(Made(made)), bytes) << "what is not sent as JSON is not parsed";
  Feed(Made(made), Continue("!"));
  EXPECT_EQ(Json(Made(made).Answer().body), Json(R"([{"generated_text": "{\"inputs\": \ufffd!"}])"));
}

TEST(Invocation, ContentTypesOfJson) {
  for (const char* type : {"application/json", "application/json; charset=utf-8", "Application/JSON",
                           "application/vnd.api+json", ""}) {
    auto made = Invoke(R"( {"inputs": "x"})", BatchShape::kPipeline, type);
    EXPECT_EQ(PromptOf(Made(made)), "x") << type;
  }
  auto untyped = Invoke("once", BatchShape::kPipeline, "");
  EXPECT_EQ(PromptOf(Made(untyped)), "once");
}

TEST(Invocation, ReturnFullTextFalseLeavesThePromptOut) {
  auto made = Invoke(R"({"inputs": ["a"], "parameters": {"return_full_text": false, "truncate": 3}})");
  EXPECT_EQ(Made(made).requests()[0].truncate_prompt_tokens, 3);
  Feed(Made(made), Continue("1"));
  EXPECT_EQ(Made(made).Answer().body, R"([[{"generated_text":"1"}]])");
}

TEST(Invocation, SeveralSequencesOfAPrompt) {
  auto made = Invoke(R"({"inputs": ["a"], "parameters": {"num_return_sequences": 2, "num_beams": 2}})");
  Exchange& exchange = Made(made);
  Feed(exchange, {Prompt(), Sequence("2", {2}, FinishReason::kLength, 1),
                  Sequence("1", {1}, FinishReason::kLength, 0), Done()});
  EXPECT_EQ(exchange.Answer().body, R"([[{"generated_text":"a1"},{"generated_text":"a2"}]])");
}

TEST(Invocation, BadBodiesSayWhatIsWrong) {
  const std::vector<std::pair<const char*, const char*>> cases = {
      {"", "body is empty"},
      {"{", "not valid JSON"},
      {"[]", "must be a JSON object"},
      {"{}", "neither \"inputs\""},
      {R"({"inputs": 5})", "\"inputs\" must be a text or a list"},
      {R"({"inputs": []})", "\"inputs\" must be a text or a list"},
      {R"({"inputs": [1]})", "\"inputs\" must hold texts"},
      {R"({"inputs": null})", "\"inputs\" must be a text or a list"},
      {R"({"inputs": "x", "parameters": []})", "\"parameters\" must be an object"},
      {R"({"inputs": "x", "parameters": {"max_new_tokens": -1}})", "\"max_new_tokens\" must be between 1"},
      {R"({"inputs": "x", "parameters": {"temprature": 1}})", "unknown parameter \"temprature\""},
      {R"({"inputs": "x", "gen_kwargs": {}})", "unknown field \"gen_kwargs\""},
      {R"({"inputs": "x", "stream": 1})", "\"stream\" must be true or false"},
      {R"({"inputs": ["x"], "stream": true})", "\"stream\" needs"},
      {R"({"inputs": "x", "parameters": {"num_return_sequences": 2}})", "\"num_return_sequences\" above 1"},
      {R"({"input": 1})", "\"input\" must be a text or a list"},
      {R"({"input": "x", "parameters": {}})", "unknown field \"parameters\""},
      {R"({"input": "x", "gen_kwargs": 1})", "\"gen_kwargs\" must be an object"},
  };
  for (const auto& [body, message] : cases) {
    const auto made = Invoke(body);
    ASSERT_FALSE(made) << body;
    EXPECT_EQ(made.error().code, ErrorCode::kInvalidArgument) << body;
    EXPECT_THAT(made.error().message, HasSubstr(message)) << body;
  }
  json::array prompts(kMaxPrompts, json::value("x"));
  EXPECT_TRUE(Invoke(json::serialize(json::object{{"inputs", prompts}})));
  prompts.emplace_back("one too many");
  EXPECT_FALSE(Invoke(json::serialize(json::object{{"inputs", prompts}})));
}

TEST(Invocation, OpenAiBodiesAreAnsweredAsOpenAiDoes) {
  auto completion = Invoke(R"({"prompt": "x"})");
  Feed(Made(completion), Continue("y"));
  EXPECT_EQ(Json(Made(completion).Answer().body).at("object"), "text_completion");
  auto chat = Invoke(R"({"messages": [{"role": "user", "content": "x"}]})");
  Feed(Made(chat), Continue("y"));
  EXPECT_EQ(Json(Made(chat).Answer().body).at("object"), "chat.completion");
}

// --- DJL's rolling batch

TEST(Rolling, NewTextOnly) {
  auto made = Invoke(R"({"inputs": "once", "parameters": {"max_new_tokens": 1, "seed": 4}})");
  Exchange& exchange = Made(made);
  EXPECT_FALSE(exchange.streaming());
  EXPECT_EQ(exchange.requests()[0].sampling.logprobs, -1);
  EXPECT_EQ(exchange.requests()[0].sampling.seed, 4U);
  Feed(exchange, Continue(" upon"));
  EXPECT_EQ(exchange.Answer().body, R"({"generated_text":" upon"})");
  auto full = Invoke(R"({"inputs": "once", "parameters": {"return_full_text": true}})");
  Feed(Made(full), Continue(" upon"));
  EXPECT_EQ(Made(full).Answer().body, R"({"generated_text":"once upon"})");
}

TEST(Rolling, Details) {
  auto made = Invoke(R"({"inputs": "once", "parameters": {"details": true, "decoder_input_details": true}})");
  Exchange& exchange = Made(made);
  EXPECT_TRUE(exchange.requests()[0].sampling.prompt_logprobs);
  PromptEvent prompt = Prompt({1});
  prompt.logprobs = {Lp(1, "once", 0)};
  SequenceEvent sequence = Sequence("\xC3\xA9", {5, 6}, FinishReason::kEosToken);
  sequence.logprobs = {Lp(5, "\xC3\xA9"), Lp(6, "</s>", -1.5F, true)};
  Feed(exchange, {prompt, sequence, Done(1, 2)});
  EXPECT_EQ(Json(exchange.Answer().body), Json(R"({"generated_text": "\u00e9",
                     "details": {"finish_reason": "eos_token", "generated_tokens": 2, "inputs": "once",
                                 "tokens": [{"id": 5, "text": "\u00e9", "log_prob": -0.5},
                                            {"id": 6, "text": "</s>", "log_prob": -1.5}],
                                 "prefill": [{"id": 1, "text": "once", "log_prob": 0.0}]}})"));
}

TEST(Rolling, StreamOfJsonLines) {
  auto made = Invoke(R"({"inputs": "once", "stream": true})");
  Exchange& exchange = Made(made);
  EXPECT_TRUE(exchange.streaming());
  EXPECT_EQ(exchange.stream_content_type(), "application/jsonlines");
  EXPECT_EQ(exchange.requests()[0].sampling.logprobs, 0) << "each line has its token's";
  TokenEvent part = NewToken(6, "");
  part.token.text = "\xC3";  // half a character
  const auto pieces = Feed(exchange, {Prompt(), NewToken(5, " a"), part, Sequence(" a\xC3", {5, 6}), Done()});
  EXPECT_THAT(pieces[1], IsEmpty()) << "the last line has the text, so each waits for the next";
  EXPECT_EQ(pieces[2].back(), '\n');
  EXPECT_EQ(Json(pieces[2]), Json(R"({"token": {"id": 5, "text": " a", "log_prob": -0.5}})"));
  EXPECT_EQ(pieces[3].back(), '\n');
  EXPECT_EQ(Json(pieces[3]),
            Json(R"({"token": {"id": 6, "text": "", "log_prob": -0.5}, "generated_text": " a\ufffd",
                     "details": {"finish_reason": "length", "generated_tokens": 2}})"));
  EXPECT_THAT(pieces[4], IsEmpty());
  EXPECT_TRUE(exchange.finished());
}

TEST(Rolling, StreamOfServerSentEventsWhereAccepted) {
  auto made = Invoke(R"({"inputs": "once", "stream": true})", BatchShape::kPipeline, "application/json",
                     "text/event-stream, */*");
  Exchange& exchange = Made(made);
  EXPECT_EQ(exchange.stream_content_type(), "text/event-stream");
  const auto pieces = Feed(exchange, Continue("y"));
  ASSERT_EQ(SseValues(pieces[2]).size(), 1U);
  EXPECT_EQ(SseValues(pieces[2])[0].at("generated_text"), "y");
}

TEST(Rolling, BeamsStreamTheirTextAtTheEnd) {
  auto made = Invoke(R"({"inputs": "once", "stream": true, "parameters": {"num_beams": 2}})");
  const auto pieces = Feed(Made(made), {Prompt(), Sequence("y", {5}, FinishReason::kStopSequence), Done()});
  EXPECT_EQ(Json(pieces[1]), Json(R"({"generated_text": "y",
      "details": {"finish_reason": "stop_sequence", "generated_tokens": 1}})"));
}

TEST(Rolling, Errors) {
  for (const char* body :
       {R"({"inputs": "x"})", R"({"inputs": "x", "stream": true})", R"({"inputs": ["x"]})"}) {
    auto made = Invoke(body);
    Feed(Made(made), {FailedEvent{{ErrorCode::kOverloaded, "too many"}}});
    ASSERT_TRUE(Made(made).finished()) << body;
    const HttpAnswer answer = Made(made).Answer();
    EXPECT_EQ(answer.status, 503) << body;
    EXPECT_THAT(answer.headers, ElementsAre(std::pair("Retry-After", "1"))) << body;
    EXPECT_EQ(Json(answer.body),
              Json(R"({"code": 503, "type": "ServiceUnavailableException", "message": "too many"})"));
  }
}

TEST(Rolling, AnErrorInAStreamIsALine) {
  auto made = Invoke(R"({"inputs": "x", "stream": true})");
  const auto pieces = Feed(Made(made), {Prompt(), NewToken(5, "a"), NewToken(6, "b"),
                                        FailedEvent{{ErrorCode::kDeadlineExceeded, "too slow \xFF"}}});
  EXPECT_EQ(Json(pieces[3]),
            Json(R"({"code": 504, "type": "TimeoutException", "message": "too slow \ufffd"})"));
  EXPECT_EQ(pieces[3].back(), '\n');
}

}  // namespace
}  // namespace bloomery
