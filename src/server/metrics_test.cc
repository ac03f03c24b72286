#include "server/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <sstream>

namespace bloomery {
namespace {

// The page as sample → value: "bloomery_ready{model=\"m\"}" → 1.
std::map<std::string, double> Samples(const Metrics& metrics) {
  std::map<std::string, double> samples;
  std::istringstream page(metrics.Serialize());
  for (std::string line; std::getline(page, line);) {
    if (line.empty() || line.starts_with('#')) continue;
    const std::size_t space = line.rfind(' ');
    EXPECT_TRUE(samples.emplace(line.substr(0, space), std::stod(line.substr(space + 1))).second) << line;
  }
  return samples;
}

// A sample that must be there.
double Value(const Metrics& metrics, const std::string& name) {
  const auto samples = Samples(metrics);
  const auto found = samples.find(name);
  if (found != samples.end()) return found->second;
  ADD_FAILURE() << "no " << name << " in\n" << metrics.Serialize();
  return -1;
}

// A sample of the model "m" that must be there.
double ModelValue(const Metrics& metrics, const std::string& name) {
  return Value(metrics, name + "{model=\"m\"}");
}

// A bucket of a histogram of the model "m": how many observations were at most `bound`.
double AtMost(const Metrics& metrics, const std::string& name, const std::string& bound) {
  return Value(metrics, name + "_bucket{model=\"m\",le=\"" + bound + "\"}");
}

TEST(Metrics, EverythingIsThereFromTheStart) {
  Metrics metrics;
  const auto model = metrics.AddModel("m");
  for (const char* histogram : {"bloomery_queue_time_seconds", "bloomery_time_to_first_token_seconds",
                                "bloomery_time_per_output_token_seconds", "bloomery_request_latency_seconds",
                                "bloomery_prompt_tokens", "bloomery_generated_tokens"}) {
    EXPECT_EQ(ModelValue(metrics, std::string(histogram) + "_count"), 0) << histogram;
    EXPECT_EQ(AtMost(metrics, histogram, "+Inf"), 0) << histogram;
    EXPECT_THAT(metrics.Serialize(), testing::HasSubstr(std::string("# TYPE ") + histogram + " histogram"));
  }
  for (const char* gauge :
       {"bloomery_requests_open", "bloomery_requests_queued", "bloomery_sequences_running",
        "bloomery_kv_tokens_used", "bloomery_kv_tokens_total", "bloomery_engine_restarts", "bloomery_ready",
        "bloomery_preemptions", "bloomery_prefix_cache_hit_tokens", "bloomery_draft_tokens",
        "bloomery_draft_tokens_accepted"}) {
    EXPECT_EQ(ModelValue(metrics, gauge), 0) << gauge;
    EXPECT_THAT(metrics.Serialize(), testing::HasSubstr(std::string("# TYPE ") + gauge + " gauge"));
  }
  EXPECT_EQ(Value(metrics, "bloomery_requests_cancelled_total"), 0);
}

TEST(Metrics, ARequestsTimesAreSecondsInTheRightHistogram) {
  Metrics metrics;
  const auto model = metrics.AddModel("m");
  model->ObserveRequest(
      {.prompt_tokens = 30, .generated_tokens = 5, .queue_ms = 15, .first_token_ms = 250, .total_ms = 1250});
  EXPECT_DOUBLE_EQ(ModelValue(metrics, "bloomery_queue_time_seconds_sum"), 0.015);
  EXPECT_DOUBLE_EQ(ModelValue(metrics, "bloomery_time_to_first_token_seconds_sum"), 0.25);
  EXPECT_DOUBLE_EQ(ModelValue(metrics, "bloomery_request_latency_seconds_sum"), 1.25);
  EXPECT_DOUBLE_EQ(ModelValue(metrics, "bloomery_time_per_output_token_seconds_sum"), 0.25)
      << "a second for the four tokens after the first";
  EXPECT_EQ(ModelValue(metrics, "bloomery_prompt_tokens_sum"), 30);
  EXPECT_EQ(ModelValue(metrics, "bloomery_generated_tokens_sum"), 5);
  EXPECT_EQ(AtMost(metrics, "bloomery_queue_time_seconds", "0.01"), 0);
  EXPECT_EQ(AtMost(metrics, "bloomery_queue_time_seconds", "0.02"), 1);
  EXPECT_EQ(AtMost(metrics, "bloomery_request_latency_seconds", "1"), 0);
  EXPECT_EQ(AtMost(metrics, "bloomery_request_latency_seconds", "2"), 1);
  EXPECT_EQ(AtMost(metrics, "bloomery_prompt_tokens", "20"), 0);
  EXPECT_EQ(AtMost(metrics, "bloomery_prompt_tokens", "50"), 1);
}

TEST(Metrics, OneTokenHasNoTimeBetweenTokens) {
  Metrics metrics;
  const auto model = metrics.AddModel("m");
  model->ObserveRequest({.generated_tokens = 1, .first_token_ms = 5, .total_ms = 6});
  model->ObserveRequest({.generated_tokens = 0, .total_ms = 6});
  EXPECT_EQ(ModelValue(metrics, "bloomery_time_per_output_token_seconds_count"), 0);
  EXPECT_EQ(ModelValue(metrics, "bloomery_request_latency_seconds_count"), 2);
  EXPECT_EQ(ModelValue(metrics, "bloomery_generated_tokens_count"), 2);
}

// Hours of a large model and long prompts are within the buckets, or the highest percentiles say nothing.
TEST(Metrics, BucketsReachFarEnough) {
  Metrics metrics;
  const auto model = metrics.AddModel("m");
  model->ObserveRequest({.prompt_tokens = 20'000, .generated_tokens = 2, .total_ms = 500'000});
  EXPECT_EQ(AtMost(metrics, "bloomery_request_latency_seconds", "500"), 1);
  EXPECT_EQ(AtMost(metrics, "bloomery_request_latency_seconds", "200"), 0);
  EXPECT_EQ(AtMost(metrics, "bloomery_prompt_tokens", "20000"), 1);
}

TEST(Metrics, ResponsesByClassAndStatus) {
  Metrics metrics;
  for (const int status : {200, 200, 404, 429, 503}) metrics.CountResponse(status);
  EXPECT_EQ(Value(metrics, "bloomery_responses_total{class=\"2XX\",status=\"200\"}"), 2);
  EXPECT_EQ(Value(metrics, "bloomery_responses_total{class=\"4XX\",status=\"404\"}"), 1);
  EXPECT_EQ(Value(metrics, "bloomery_responses_total{class=\"4XX\",status=\"429\"}"), 1);
  EXPECT_EQ(Value(metrics, "bloomery_responses_total{class=\"5XX\",status=\"503\"}"), 1);
  metrics.CountCancelled();
  EXPECT_EQ(Value(metrics, "bloomery_requests_cancelled_total"), 1);
}

TEST(Metrics, LoadIsTheLastOneSet) {
  Metrics metrics;
  const auto model = metrics.AddModel("m");
  model->SetLoad({.queued_requests = 9, .running_sequences = 9, .kv_tokens_used = 9, .kv_tokens_total = 9}, 9,
                 0, false);
  model->SetLoad({.queued_requests = 2, .running_sequences = 3, .kv_tokens_used = 40, .kv_tokens_total = 50},
                 6, 1, true);
  EXPECT_EQ(ModelValue(metrics, "bloomery_requests_open"), 6);
  EXPECT_EQ(ModelValue(metrics, "bloomery_requests_queued"), 2);
  EXPECT_EQ(ModelValue(metrics, "bloomery_sequences_running"), 3);
  EXPECT_EQ(ModelValue(metrics, "bloomery_kv_tokens_used"), 40);
  EXPECT_EQ(ModelValue(metrics, "bloomery_kv_tokens_total"), 50);
  EXPECT_EQ(ModelValue(metrics, "bloomery_engine_restarts"), 1);
  EXPECT_EQ(ModelValue(metrics, "bloomery_ready"), 1);
  model->SetLoad({}, 0, 1, false);
  EXPECT_EQ(ModelValue(metrics, "bloomery_ready"), 0);
  EXPECT_EQ(ModelValue(metrics, "bloomery_requests_open"), 0);
}

TEST(Metrics, AModelsSamplesLeaveWithIt) {
  Metrics metrics;
  const auto stays = metrics.AddModel("m");
  auto leaves = metrics.AddModel("other");
  const auto versioned = metrics.AddModel("m", "2");
  leaves->SetLoad({}, 3, 0, true);
  stays->SetLoad({}, 4, 0, true);
  EXPECT_EQ(Value(metrics, "bloomery_requests_open{model=\"other\"}"), 3);
  EXPECT_EQ(Value(metrics, "bloomery_requests_open{model=\"m\",version=\"2\"}"), 0);
  leaves.reset();
  EXPECT_THAT(metrics.Serialize(), testing::Not(testing::HasSubstr("other")));
  EXPECT_EQ(ModelValue(metrics, "bloomery_requests_open"), 4);
  EXPECT_EQ(Value(metrics, "bloomery_requests_open{model=\"m\",version=\"2\"}"), 0);
}

}  // namespace
}  // namespace bloomery
