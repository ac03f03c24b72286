#include "engine/beam_search.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>

namespace bloomery {
namespace {

using Row = std::vector<float>;

// A language over 4 tokens whose probabilities depend on the last token only; token 3 ends.
constexpr std::int32_t kStop = 3;

std::map<std::int32_t, Row> RandomChain(unsigned seed) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<float> uniform(0.05F, 1);
  std::map<std::int32_t, Row> rows;
  for (std::int32_t last = -1; last < 4; ++last) {
    Row row(4);
    float sum = 0;
    for (float& p : row) sum += (p = uniform(generator));
    for (float& p : row) p = std::log(p / sum);
    rows[last] = row;
  }
  return rows;
}

std::vector<BeamSearch::Hypothesis> Search(const std::map<std::int32_t, Row>& chain,
                                           BeamSearch::Config config) {
  BeamSearch search(config);
  for (;;) {
    std::vector<std::span<const float>> rows;
    for (int beam = 0; beam < config.num_beams; ++beam) {
      const auto& tokens = search.tokens(beam);
      rows.emplace_back(chain.at(tokens.empty() ? -1 : tokens.back()));
    }
    if (search.Advance(rows, [](int, std::int32_t token) { return token == kStop; }).empty())
      return search.finished();
  }
}

// Every sequence of at most `length` tokens that stops or is cut there, best first.
std::vector<BeamSearch::Hypothesis> Exhaustive(const std::map<std::int32_t, Row>& chain, std::size_t length,
                                               float penalty) {
  std::vector<BeamSearch::Hypothesis> all;
  const std::function<void(std::vector<std::int32_t>, float)> extend = [&](std::vector<std::int32_t> tokens,
                                                                           float score) {
    for (std::int32_t token = 0; token < 4; ++token) {
      std::vector<std::int32_t> next = tokens;
      next.push_back(token);
      const float total =
          score + chain.at(tokens.empty() ? -1 : tokens.back())[static_cast<std::size_t>(token)];
      if (token == kStop || next.size() == length) {
        all.push_back({next, total / std::pow(static_cast<float>(next.size()), penalty), token == kStop});
      } else {
        extend(next, total);
      }
    }
  };
  extend({}, 0);
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.score > b.score; });
  return all;
}

// With more beams than there are prefixes nothing can be pruned, so the search must find the very best
// sequence.
TEST(BeamSearch, WithEnoughBeamsFindsTheBestSequence) {
  for (unsigned seed = 0; seed < 30; ++seed) {
    const auto chain = RandomChain(seed);
    const auto found = Search(chain, {.num_beams = 32,
                                      .early_stopping = EarlyStopping::kNever,
                                      .max_new_tokens = 3,
                                      .stop_token_count = 1});
    const auto expected = Exhaustive(chain, 3, 1.0F);
    ASSERT_FALSE(found.empty());
    EXPECT_EQ(found.front().tokens, expected.front().tokens) << seed;
    EXPECT_NEAR(found.front().score, expected.front().score, 1e-5);
  }
}

TEST(BeamSearch, EarlyStoppingEndsWithAsManyAsThereAreBeams) {
  const auto chain = RandomChain(5);
  const auto found = Search(chain, {.num_beams = 2,
                                    .early_stopping = EarlyStopping::kWhenEnoughBeams,
                                    .max_new_tokens = 50,
                                    .stop_token_count = 1});
  ASSERT_EQ(found.size(), 2U);
  EXPECT_TRUE(found[0].stopped);
  EXPECT_TRUE(found[1].stopped);
  EXPECT_GE(found[0].score, found[1].score);
}

}  // namespace
}  // namespace bloomery
