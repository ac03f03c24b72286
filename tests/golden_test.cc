// Logits, distributions and generated tokens against transformers' (scripts/make-goldens), for every
// configuration under testdata/models.
#include <gtest/gtest.h>

#include <cmath>
#include <iostream>

#include "engine/logits.h"
#include "golden_support.h"

namespace bloomery {
namespace {

// Largest difference of a logit from transformers' in f32. The tiny models' logits reach about ±10.
constexpr double kF32Tolerance = 1e-4;
// Below f32 the root-mean-square difference, as a share of the logits' own root mean square.
constexpr double kF16Tolerance = 0.005;
constexpr double kBF16Tolerance = 0.04;
constexpr double kI8Tolerance = 0.06;
constexpr double kProbabilityTolerance = 1e-5;

// Keeps a whole prompt's KV in blocks 0, 1, 2 …
class Runner {
 public:
  explicit Runner(LoadedModel& model) : model_(model) {
    for (std::int32_t block = 0; block < 32; ++block) blocks_.push_back(block);
  }

  // Logits of `tokens` at positions first, first + 1, …
  std::vector<float> Run(std::span<const std::int32_t> tokens, std::int64_t first) {
    const SequenceSlice slice{blocks_.data(), 0, static_cast<std::int64_t>(tokens.size()), first};
    EXPECT_TRUE(model_.transformer->Forward(tokens, {&slice, 1}, *model_.kv_cache));
    std::vector<float> all;
    for (std::size_t begin = 0; begin < tokens.size(); begin += 16) {
      std::vector<std::int32_t> rows;
      for (std::size_t r = begin; r < std::min(begin + 16, tokens.size()); ++r)
        rows.push_back(static_cast<std::int32_t>(r));
      const auto logits = model_.transformer->Logits(rows).value();
      all.insert(all.end(), logits.begin(), logits.end());
    }
    return all;
  }

 private:
  LoadedModel& model_;
  std::vector<std::int32_t> blocks_;
};

class GoldenTest : public testing::TestWithParam<std::string> {};

TEST_P(GoldenTest, LogitsOfPrefillAndOfTokenByTokenDecodeEqualTransformers) {
  const Golden golden = ReadGolden(GetParam());
  TestModel model = LoadTestModel(ModelsDir() / GetParam(), DType::kF32);
  Runner runner(model.loaded);
  double largest = 0;
  const json::array& prompts = golden.cases.at("prompts").as_array();
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const std::vector<std::int32_t> ids = Ids(prompts[i]);
    const std::vector<float> expected = golden.Floats("logits." + std::to_string(i));
    EXPECT_LT(LargestDifference(runner.Run(ids, 0), expected), kF32Tolerance) << "prefill of prompt " << i;
    std::vector<float> decoded;
    for (std::size_t t = 0; t < ids.size(); ++t) {
      const std::vector<float> one = runner.Run({&ids[t], 1}, static_cast<std::int64_t>(t));
      decoded.insert(decoded.end(), one.begin(), one.end());
    }
    const double difference = LargestDifference(decoded, expected);
    EXPECT_LT(difference, kF32Tolerance) << "decode of prompt " << i;
    largest = std::max(largest, difference);
  }
  std::cout << GetParam() << ": largest difference of a logit " << largest << "\n";
}

TEST_P(GoldenTest, SmallerDtypesStayWithinTheirTolerances) {
  const Golden golden = ReadGolden(GetParam());
  const std::vector<std::int32_t> ids = Ids(golden.cases.at("prompts").as_array().back());
  const std::vector<float> expected = golden.Floats("logits.2");
  for (const auto& [dtype, tolerance] :
       {std::pair{DType::kF16, kF16Tolerance}, std::pair{DType::kBF16, kBF16Tolerance},
        std::pair{DType::kI8, kI8Tolerance}}) {
    TestModel model = LoadTestModel(ModelsDir() / GetParam(), dtype);
    const double difference = RelativeRms(Runner(model.loaded).Run(ids, 0), expected);
    EXPECT_LT(difference, tolerance) << DTypeName(dtype);
    std::cout << GetParam() << " " << DTypeName(dtype) << ": relative rms " << difference << "\n";
  }
}

// All cases are submitted at once, so each also shows that a request's tokens do not depend on what it is
// computed with.
TEST_P(GoldenTest, GeneratedTokensEqualTransformers) {
  const Golden golden = ReadGolden(GetParam());
  TestModel model = LoadTestModel(ModelsDir() / GetParam(), DType::kF32);
  ExpectGoldenTokens(GetParam(), golden, std::move(model.loaded));
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenTest, testing::ValuesIn(GoldenModels()), [](const auto& model) {
  std::string name = model.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

TEST(GoldenDistributions, EqualTransformers) {
  std::size_t compared = 0;
  for (const std::string& name : GoldenModels()) {
    const Golden golden = ReadGolden(name);
    const json::array& cases = golden.cases.at("distributions").as_array();
    for (std::size_t i = 0; i < cases.size(); ++i) {
      const json::object& one = cases[i].as_object();
      const SamplingParams params = ParamsFrom(one.at("params").as_object());
      const std::vector<std::int32_t> history = Ids(one.at("history"));
      std::vector<float> scores = golden.Floats("raw." + std::to_string(i));
      const std::vector<float> expected = golden.Floats("probs." + std::to_string(i));
      const std::int32_t eos = 2;
      ProcessLogits(params, {history, static_cast<std::size_t>(one.at("prompt_tokens").as_int64())},
                    {&eos, 1}, scores);
      std::vector<float> ours(scores.size(), 0);
      for (const Candidate& c : SamplingDistribution(params, scores))
        ours[static_cast<std::size_t>(c.id)] = c.probability;
      EXPECT_LT(LargestDifference(ours, expected), kProbabilityTolerance)
          << name << " " << json::serialize(one.at("params"));
      ++compared;
    }
  }
  EXPECT_GE(compared, 48U);
  std::cout << compared << " distributions compared\n";
}

TEST(GoldenModelsDirectory, HoldsAtLeastTwelveConfigurations) { EXPECT_GE(GoldenModels().size(), 12U); }

}  // namespace
}  // namespace bloomery
