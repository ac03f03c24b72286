#include "engine/logits.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

namespace bloomery {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// transformers' own results are compared in tests/golden_test.cc; here is what it does not have.
TEST(ProcessLogits, FrequencyAndPresencePenaltiesCountGeneratedTokensOnly) {
  SamplingParams params;
  params.frequency_penalty = 0.5F;
  params.presence_penalty = 1.0F;
  const std::vector<std::int32_t> tokens = {0, 0, 1, 2, 2};  // two of prompt
  std::vector<float> scores = {10, 10, 10, 10};
  ProcessLogits(params, {tokens, 2}, {}, scores);
  EXPECT_EQ(scores, (std::vector<float>{10, 8.5F, 8, 10}));
}

TEST(ProcessLogits, IgnoresTokensOutsideTheVocabulary) {
  SamplingParams params;
  params.repetition_penalty = 2;
  params.no_repeat_ngram_size = 1;
  params.min_new_tokens = 5;
  const std::vector<std::int32_t> tokens = {-1, 99};
  const std::vector<std::int32_t> eos = {77};
  std::vector<float> scores = {1, 2};
  ProcessLogits(params, {tokens, 1}, eos, scores);
  EXPECT_EQ(scores, (std::vector<float>{1, 2}));
}

TEST(SamplingDistribution, TopPOverALargeVocabularyKeepsTheSmallestSetThatReachesIt) {
  std::mt19937 generator(7);
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> scores(50'000);
  for (float& score : scores) score = normal(generator);
  for (const float top_p : {0.01F, 0.3F, 0.9F, 0.999F}) {
    SamplingParams params;
    params.top_p = top_p;
    const auto kept = SamplingDistribution(params, scores);
    std::vector<double> all;
    double sum = 0;
    for (const float score : scores) all.push_back(std::exp(static_cast<double>(score)));
    for (const double weight : all) sum += weight;
    std::sort(all.rbegin(), all.rend());
    double mass = 0;
    std::size_t expected = 0;
    while (mass < static_cast<double>(top_p) * sum) mass += all[expected++];
    EXPECT_NEAR(static_cast<double>(kept.size()), static_cast<double>(expected), 1.0) << top_p;
  }
}

TEST(SamplingDistribution, EverythingForbiddenStillGivesAToken) {
  const std::vector<float> scores = {kMinusInfinity, kMinusInfinity};
  EXPECT_EQ(SamplingDistribution({}, scores).size(), 1U);
}

TEST(Draw, FollowsTheDistribution) {
  const std::vector<Candidate> distribution = {{5, 0.25F}, {9, 0.5F}, {2, 0.25F}};
  EXPECT_EQ(Draw(distribution, 0.0), 5);
  EXPECT_EQ(Draw(distribution, 0.249), 5);
  EXPECT_EQ(Draw(distribution, 0.25), 9);
  EXPECT_EQ(Draw(distribution, 0.74), 9);
  EXPECT_EQ(Draw(distribution, 0.999999), 2);
}

TEST(Ranking, ArgmaxAndTopIdsTakeTheFirstOfEquals) {
  const std::vector<float> scores = {1, 5, 5, 3};
  EXPECT_EQ(Argmax(scores), 1);
  EXPECT_EQ(TopIds(scores, 3), (std::vector<std::int32_t>{1, 2, 3}));
  EXPECT_EQ(TopIds(scores, 9).size(), 4U);
  EXPECT_NEAR(LogSumExp(scores), std::log(std::exp(1.0) + 2 * std::exp(5.0) + std::exp(3.0)), 1e-6);
}

}  // namespace
}  // namespace bloomery
