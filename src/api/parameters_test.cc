#include "api/parameters.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>

namespace bloomery {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// One parameter as JSON text, with do_sample so that the warpers' arguments are kept.
Result<HfParameters> Hf(const std::string& name, const std::string& value) {
  const auto parsed = ParseJson("{\"do_sample\": true, \"" + name + "\": " + value + "}", "test");
  return ParseHfParameters(parsed.value().as_object(), {});
}

Result<HfParameters> HfObject(std::string_view text, const OutputOptions& defaults = {}) {
  return ParseHfParameters(ParseJson(text, "test").value().as_object(), defaults);
}

Result<SamplingParams> OpenAi(const std::string& name, const std::string& value) {
  SamplingParams params;
  const auto known = ParseOpenAiField(name, ParseJson(value, "test").value(), params);
  if (!known) return std::unexpected(known.error());
  if (!*known) return Fail(ErrorCode::kNotFound, "not a field");
  return params;
}

struct IntField {
  const char* name;
  std::int64_t minimum;
  std::int64_t maximum;
  std::function<std::int64_t(const HfParameters&)> get;
};

std::vector<IntField> SharedInts() {
  using P = const HfParameters&;
  return {
      {"no_repeat_ngram_size", 0, kMaxTokens, [](P p) { return p.sampling.no_repeat_ngram_size; }},
      {"num_beams", 1, kMaxSequences, [](P p) { return p.sampling.num_beams; }},
      {"best_of", 1, kMaxSequences, [](P p) { return p.sampling.best_of; }},
  };
}

std::vector<IntField> HfInts() {
  using P = const HfParameters&;
  std::vector<IntField> fields = SharedInts();
  fields.push_back(
      {"max_new_tokens", 1, kMaxTokens, [](P p) { return p.sampling.max_new_tokens.value_or(-9); }});
  fields.push_back({"max_length", 1, kMaxTokens, [](P p) { return p.sampling.max_length.value_or(-9); }});
  fields.push_back({"min_new_tokens", 0, kMaxTokens, [](P p) { return p.sampling.min_new_tokens; }});
  fields.push_back({"min_length", 0, kMaxTokens, [](P p) { return p.sampling.min_length; }});
  fields.push_back(
      {"num_return_sequences", 1, kMaxSequences, [](P p) { return p.sampling.num_return_sequences; }});
  fields.push_back({"top_n_tokens", 0, kMaxTopLogprobs, [](P p) { return p.sampling.logprobs; }});
  fields.push_back({"truncate", 0, kMaxTokens, [](P p) { return p.output.truncate; }});
  return fields;
}

std::vector<IntField> OpenAiInts() {
  using P = const HfParameters&;
  std::vector<IntField> fields = SharedInts();
  for (const char* name : {"max_tokens", "max_completion_tokens"})
    fields.push_back({name, 0, kMaxTokens, [](P p) { return p.sampling.max_new_tokens.value_or(-9); }});
  fields.push_back({"min_tokens", 0, kMaxTokens, [](P p) { return p.sampling.min_new_tokens; }});
  fields.push_back({"n", 1, kMaxSequences, [](P p) { return p.sampling.num_return_sequences; }});
  return fields;
}

using Parse = std::function<Result<HfParameters>(const std::string&, const std::string&)>;

Result<HfParameters> OpenAiAsHf(const std::string& name, const std::string& value) {
  auto params = OpenAi(name, value);
  if (!params) return std::unexpected(params.error());
  return HfParameters{*std::move(params), {}};
}

void ExpectRefused(const Result<HfParameters>& parsed, const std::string& name, const std::string& value) {
  ASSERT_FALSE(parsed) << name << ": " << value;
  EXPECT_EQ(parsed.error().code, ErrorCode::kInvalidArgument) << name << ": " << value;
  EXPECT_THAT(parsed.error().message, HasSubstr('"' + name + '"')) << value;
}

void CheckInts(const std::vector<IntField>& fields, const Parse& parse) {
  for (const IntField& field : fields) {
    for (const std::int64_t good : {field.minimum, field.maximum}) {
      const auto parsed = parse(field.name, std::to_string(good));
      ASSERT_TRUE(parsed) << field.name << ": " << parsed.error().message;
      EXPECT_EQ(field.get(*parsed), good) << field.name;
    }
    const auto fraction = parse(field.name, "5.0");
    ASSERT_TRUE(fraction) << field.name << ": clients in dynamic languages send 5.0 for 5";
    EXPECT_EQ(field.get(*fraction), 5) << field.name;
    for (const std::int64_t bad : {field.minimum - 1, field.maximum + 1, std::int64_t{-1},
                                   std::int64_t{1} << 32, std::numeric_limits<std::int64_t>::min()})
      ExpectRefused(parse(field.name, std::to_string(bad)), field.name, std::to_string(bad));
    for (const char* bad : {"1.5", "\"5\"", "true", "[5]", "{}", "1e300", "-1e300", "18446744073709551615"})
      ExpectRefused(parse(field.name, bad), field.name, bad);
  }
}

TEST(Parameters, IntegersOfHuggingFace) { CheckInts(HfInts(), Hf); }
TEST(Parameters, IntegersOfOpenAi) { CheckInts(OpenAiInts(), OpenAiAsHf); }

TEST(Parameters, PriorityMayBeNegativeInBothSpellings) {
  for (const Parse& parse : {Parse(Hf), Parse(OpenAiAsHf)}) {
    EXPECT_EQ(parse("priority", "-7")->sampling.priority, -7);
    EXPECT_EQ(parse("priority", "3")->sampling.priority, 3);
    ExpectRefused(parse("priority", "1.5"), "priority", "1.5");
    ExpectRefused(parse("priority", "99999999"), "priority", "99999999");
  }
}

TEST(Parameters, TopKMinusOneIsOffInBothSpellings) {
  EXPECT_EQ(Hf("top_k", "-1")->sampling.top_k, 0);
  EXPECT_EQ(Hf("top_k", "50")->sampling.top_k, 50);
  EXPECT_EQ(OpenAi("top_k", "-1")->top_k, 0);
  EXPECT_EQ(OpenAi("top_k", "50")->top_k, 50);
  for (const char* bad : {"-2", "16777217", "0.5", "\"x\""}) {
    ExpectRefused(Hf("top_k", bad), "top_k", bad);
    ExpectRefused(OpenAiAsHf("top_k", bad), "top_k", bad);
  }
}

struct FloatField {
  const char* name;
  float SamplingParams::* member;
  std::vector<const char*> good;
  std::vector<const char*> bad;
};

const std::vector<FloatField>& Floats() {
  static const std::vector<FloatField> fields = {
      {"top_p", &SamplingParams::top_p, {"0.25", "1"}, {"0", "-0.1", "1.01"}},
      {"repetition_penalty", &SamplingParams::repetition_penalty, {"0.5", "1e6"}, {"0", "-1", "1e7"}},
      {"frequency_penalty", &SamplingParams::frequency_penalty, {"-2", "0", "2"}, {"-1e7", "1e7"}},
      {"presence_penalty", &SamplingParams::presence_penalty, {"-2", "0", "2"}, {"-1e7", "1e7"}},
      {"length_penalty", &SamplingParams::length_penalty, {"-2", "0", "2"}, {"-1e7", "1e7"}},
      {"temperature", &SamplingParams::temperature, {"0.5", "2"}, {"-0.1", "1e7"}},
  };
  return fields;
}

TEST(Parameters, RealNumbersInBothSpellings) {
  for (const FloatField& field : Floats()) {
    for (const Parse& parse : {Parse(Hf), Parse(OpenAiAsHf)}) {
      for (const char* good : field.good) {
        const auto parsed = parse(field.name, good);
        ASSERT_TRUE(parsed) << field.name << ": " << parsed.error().message;
        EXPECT_EQ(parsed->sampling.*field.member, std::stof(good)) << field.name;
      }
      for (const char* bad : field.bad) ExpectRefused(parse(field.name, bad), field.name, bad);
      for (const char* bad : {"\"0.5\"", "true", "[]", "{}"})
        ExpectRefused(parse(field.name, bad), field.name, bad);
    }
  }
  EXPECT_EQ(Hf("typical_p", "0.25")->sampling.typical_p, 0.25F);
  for (const char* bad : {"0", "-0.1", "1.01", "\"1\""})
    ExpectRefused(Hf("typical_p", bad), "typical_p", bad);
}

TEST(Parameters, NumbersThatAreNoneAreRefused) {
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(),
                           -std::numeric_limits<double>::infinity()}) {
    EXPECT_FALSE(FloatInRange("x", json::value(bad), -1e6, 1e6)) << bad;
    EXPECT_FALSE(IntInRange("x", json::value(bad), -10, 10)) << bad;
  }
}

TEST(Parameters, Booleans) {
  using P = const HfParameters&;
  const std::vector<std::pair<const char*, std::function<bool(P)>>> fields = {
      {"do_sample", [](P p) { return p.sampling.do_sample; }},
      {"ignore_eos", [](P p) { return p.sampling.ignore_eos; }},
      {"details", [](P p) { return p.output.details; }},
      {"return_full_text", [](P p) { return p.output.return_full_text; }},
      {"decoder_input_details", [](P p) { return p.output.prompt_details; }},
  };
  for (const auto& [name, get] : fields) {
    const std::string quoted = '"' + std::string(name) + '"';
    EXPECT_TRUE(get(HfObject("{" + quoted + ": true}").value())) << name;
    EXPECT_FALSE(get(HfObject("{" + quoted + ": false}").value())) << name;
    for (const std::string bad : {"1", "\"true\"", "[]", "0.0"})
      ExpectRefused(HfObject("{" + quoted + ": " + bad + "}"), name, bad);
  }
  EXPECT_TRUE(OpenAi("ignore_eos", "true")->ignore_eos);
  EXPECT_FALSE(OpenAi("ignore_eos", "1"));
}

TEST(Parameters, Seed) {
  for (const Parse& parse : {Parse(Hf), Parse(OpenAiAsHf)}) {
    EXPECT_EQ(parse("seed", "0")->sampling.seed, 0U);
    EXPECT_EQ(parse("seed", "18446744073709551615")->sampling.seed,
              std::numeric_limits<std::uint64_t>::max());
    for (const char* bad : {"-1", "-9223372036854775808", "1.5", "\"1\"", "true", "18446744073709551616"})
      ExpectRefused(parse("seed", bad), "seed", bad);
  }
}

TEST(Parameters, TokenIds) {
  EXPECT_THAT(Hf("stop_token_ids", "[3, 4]")->sampling.stop_token_ids, ElementsAre(3, 4));
  EXPECT_THAT(OpenAi("stop_token_ids", "[3, 4]")->stop_token_ids, ElementsAre(3, 4));
  EXPECT_THAT(Hf("eos_token_id", "5")->sampling.eos_token_ids.value(), ElementsAre(5));
  EXPECT_THAT(Hf("eos_token_id", "[5, 2147483647]")->sampling.eos_token_ids.value(),
              ElementsAre(5, 2147483647));
  EXPECT_FALSE(Hf("top_k", "1")->sampling.eos_token_ids) << "absent: the model's own";
  std::string many = "[1";
  for (int i = 0; i < kMaxStops; ++i) many += ",1";
  many += "]";
  for (const char* name : {"stop_token_ids", "eos_token_id"}) {
    for (const std::string& bad : {std::string("-1"), std::string("[1,-1]"), std::string("[2147483648]"),
                                   std::string("\"1\""), std::string("[[1]]"), many})
      ExpectRefused(Hf(name, bad), name, bad);
  }
}

TEST(Parameters, EarlyStopping) {
  for (const Parse& parse : {Parse(Hf), Parse(OpenAiAsHf)}) {
    EXPECT_EQ(parse("early_stopping", "true")->sampling.early_stopping, EarlyStopping::kWhenEnoughBeams);
    EXPECT_EQ(parse("early_stopping", "false")->sampling.early_stopping, EarlyStopping::kHeuristic);
    EXPECT_EQ(parse("early_stopping", "\"never\"")->sampling.early_stopping, EarlyStopping::kNever);
    for (const char* bad : {"\"always\"", "1", "[]"})
      ExpectRefused(parse("early_stopping", bad), "early_stopping", bad);
  }
}

TEST(Parameters, StopStringsInEverySpelling) {
  for (const char* name : {"stop", "stop_sequences", "stop_strings"}) {
    EXPECT_THAT(Hf(name, "\"a\"")->sampling.stop, ElementsAre("a")) << name;
    EXPECT_THAT(Hf(name, "[\"a\", \"b\"]")->sampling.stop, ElementsAre("a", "b")) << name;
    for (const char* bad : {"1", "[1]", "{}", "true"}) ExpectRefused(Hf(name, bad), name, bad);
  }
  EXPECT_THAT(OpenAi("stop", "[\"a\", \"b\"]")->stop, ElementsAre("a", "b"));
  EXPECT_FALSE(OpenAi("stop", "[1]"));
  const auto list_of = [](int count) {
    json::array list;
    for (int i = 0; i < count; ++i) list.emplace_back("x");
    return json::serialize(list);
  };
  EXPECT_EQ(Hf("stop", list_of(kMaxStops))->sampling.stop.size(), std::size_t{kMaxStops});
  ExpectRefused(Hf("stop", list_of(kMaxStops + 1)), "stop", "65 texts");
}

TEST(Parameters, NamesOfOneDialectAreUnknownInTheOther) {
  for (const char* name : {"max_tokens", "max_completion_tokens", "min_tokens", "n", "logprobs", "echo",
                           "temprature", "", "Top_k"}) {
    const auto parsed = Hf(name, "1");
    ASSERT_FALSE(parsed) << name;
    EXPECT_EQ(parsed.error().message, "unknown parameter \"" + std::string(name) + '"');
  }
  for (const char* name : {"do_sample", "max_new_tokens", "max_length", "min_new_tokens", "min_length",
                           "num_return_sequences", "top_n_tokens", "truncate", "details", "return_full_text",
                           "decoder_input_details", "eos_token_id", "stop_sequences", "use_cache", "x"}) {
    const auto parsed = OpenAi(name, "1");
    ASSERT_FALSE(parsed) << name;
    EXPECT_EQ(parsed.error().code, ErrorCode::kNotFound) << name << " was taken";
  }
}

TEST(Parameters, WhatCannotChangeTheTokensIsIgnored) {
  const auto parsed = HfObject(
      R"({"use_cache": true, "pad_token_id": 3, "bos_token_id": "x", "return_dict_in_generate": 1,
          "output_scores": false, "output_attentions": false, "output_hidden_states": false,
          "synced_gpus": true, "clean_up_tokenization_spaces": true, "batch_size": -4})");
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_FALSE(parsed->sampling.do_sample);
  EXPECT_FALSE(parsed->sampling.max_new_tokens);
}

// A client that asks for a grammar counts on it.
TEST(Parameters, WhatWouldChangeTheTokensIsNotIgnored) {
  EXPECT_TRUE(Hf("watermark", "false"));
  EXPECT_TRUE(Hf("grammar", "null"));
  for (const auto& [name, value] :
       {std::pair("watermark", "true"), std::pair("grammar", R"({"type": "json"})")}) {
    const auto parsed = Hf(name, value);
    ASSERT_FALSE(parsed) << name;
    EXPECT_EQ(parsed.error().code, ErrorCode::kUnsupported);
    EXPECT_THAT(parsed.error().message, HasSubstr(name));
  }
  ExpectRefused(Hf("watermark", "1"), "watermark", "1");
}

TEST(Parameters, NullIsAbsent) {
  const auto parsed = HfObject(R"({"seed": null, "top_k": null, "stop": null, "unheard_of": null})");
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_FALSE(parsed->sampling.seed);
  const auto open_ai = OpenAi("temperature", "null");
  ASSERT_TRUE(open_ai);
  EXPECT_EQ(open_ai->temperature, 1);
  EXPECT_FALSE(open_ai->do_sample);
}

TEST(Parameters, TransformersIgnoresWarpersWithoutSampling) {
  const auto greedy = HfObject(R"({"temperature": 0.3, "num_beams": 5})").value().sampling;
  EXPECT_FALSE(greedy.do_sample);
  EXPECT_EQ(greedy.temperature, 1) << "the notebooks send a temperature with their beams";
  const auto sampled = HfObject(R"({"temperature": 0.25, "do_sample": true})").value().sampling;
  EXPECT_TRUE(sampled.do_sample);
  EXPECT_EQ(sampled.temperature, 0.25F);
}

TEST(Parameters, WarpersImplySamplingInTgi) {
  const OutputOptions tgi{.warpers_imply_sampling = true};
  for (const char* warper :
       {R"("temperature": 0.5)", R"("top_k": 5)", R"("top_p": 0.5)", R"("typical_p": 0.5)"}) {
    const std::string body = std::string("{") + warper + "}";
    EXPECT_TRUE(HfObject(body, tgi).value().sampling.do_sample) << warper;
    EXPECT_FALSE(HfObject(body).value().sampling.do_sample) << warper;
  }
  EXPECT_FALSE(HfObject("{}", tgi).value().sampling.do_sample);
  EXPECT_FALSE(HfObject(R"({"temperature": 0})", tgi).value().sampling.do_sample) << "0 is greedy";
  EXPECT_FALSE(HfObject(R"({"top_k": -1})", tgi).value().sampling.do_sample) << "-1 is off";
}

TEST(Parameters, TemperatureZeroIsGreedy) {
  const auto hf = Hf("temperature", "0").value().sampling;
  EXPECT_FALSE(hf.do_sample);
  EXPECT_EQ(hf.temperature, 1) << "the engine refuses 0";
  const auto open_ai = OpenAi("temperature", "0").value();
  EXPECT_FALSE(open_ai.do_sample);
  EXPECT_EQ(open_ai.temperature, 1);
  EXPECT_TRUE(OpenAi("temperature", "0.5").value().do_sample);
}

TEST(Parameters, DetailsAskForLogprobs) {
  EXPECT_EQ(HfObject("{}").value().sampling.logprobs, -1);
  EXPECT_EQ(HfObject(R"({"details": true})").value().sampling.logprobs, 0);
  EXPECT_EQ(HfObject(R"({"details": true, "top_n_tokens": 3})").value().sampling.logprobs, 3);
  const auto prompt = HfObject(R"({"decoder_input_details": true})").value().sampling;
  EXPECT_TRUE(prompt.prompt_logprobs);
  EXPECT_EQ(prompt.logprobs, 0);
}

TEST(Parameters, DefaultsAreTheDialectsAndMayBeOverruled) {
  EXPECT_TRUE(HfObject("{}", {.return_full_text = true}).value().output.return_full_text);
  EXPECT_FALSE(
      HfObject(R"({"return_full_text": false})", {.return_full_text = true}).value().output.return_full_text);
}

}  // namespace
}  // namespace bloomery
