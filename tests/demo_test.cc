// The demo model: its tokens and texts equal transformers' (scripts/goldens/demo_goldens.py).
#include <gtest/gtest.h>

#include <iostream>

#include "golden_support.h"

namespace bloomery {
namespace {

json::object ReadDemoGolden() {
  return ParseJson(ReadFileToString(SourceDir() / "demo/golden.json").value(), "golden.json")
      .value()
      .as_object();
}

TEST(Demo, TokensAndTextsEqualTransformers) {
  TestModel model = LoadTestModel(SourceDir() / "demo/model", DType::kF32);
  const auto tokenizer = model.loaded.tokenizer;
  Engine engine(std::move(model.loaded));
  std::size_t tokens = 0;
  const json::object golden = ReadDemoGolden();
  for (const json::value& entry : golden.at("cases").as_array()) {
    const json::object& one = entry.as_object();
    const std::string prompt(one.at("prompt").as_string());
    EXPECT_EQ(tokenizer->Encode(prompt), Ids(one.at("prompt_ids")));
    GenerationRequest request;
    request.id = 1;
    request.prompt = prompt;
    request.sampling = ParamsFrom(one.at("params").as_object());
    const auto sink = std::make_shared<CollectingSink>();
    engine.Submit(std::move(request), sink);
    sink->Wait();
    ASSERT_FALSE(sink->error) << sink->error->ToString();
    EXPECT_EQ(sink->sequences.at(0).token_ids, Ids(one.at("ids"))) << prompt;
    EXPECT_EQ(sink->sequences.at(0).text, std::string(one.at("text").as_string()));
    std::string streamed;
    for (const TokenEvent& token : sink->tokens) streamed += token.text;
    EXPECT_EQ(streamed + sink->sequences.at(0).text_tail, sink->sequences.at(0).text)
        << "the stream adds up to the text";
    tokens += one.at("ids").as_array().size();
  }
  std::cout << tokens << " tokens compared\n";
}

TEST(Demo, StopStringsEndTheTextBeforeThem) {
  TestModel model = LoadTestModel(SourceDir() / "demo/model", DType::kF32);
  Engine engine(std::move(model.loaded));
  const auto run = [&engine](std::vector<std::string> stops) {
    GenerationRequest request;
    request.id = 1;
    request.prompt = "Emma was not";
    request.sampling.max_new_tokens = 40;
    request.sampling.stop = std::move(stops);
    const auto sink = std::make_shared<CollectingSink>();
    engine.Submit(std::move(request), sink);
    sink->Wait();
    return sink;
  };
  const std::string whole = run({})->sequences.at(0).text;
  ASSERT_GT(whole.size(), 20U);
  const std::string stop = whole.substr(10, 6);
  const auto stopped = run({"never there", stop});
  EXPECT_EQ(stopped->sequences.at(0).reason, FinishReason::kStopSequence);
  EXPECT_EQ(stopped->sequences.at(0).text, whole.substr(0, whole.find(stop)));
}

}  // namespace
}  // namespace bloomery
