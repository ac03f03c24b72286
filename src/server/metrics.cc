#include "server/metrics.h"

#include <prometheus/text_serializer.h>

namespace bloomery {
namespace {

// From a cached token of a tiny model to a long answer of a huge one, three steps a decade.
const prometheus::Histogram::BucketBoundaries kSeconds = {
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500};
const prometheus::Histogram::BucketBoundaries kTokens = {1,   2,   5,    10,   20,   50,    100,
                                                         200, 500, 1000, 2000, 5000, 10000, 20000};

prometheus::Labels LabelsOf(const std::string& model, const std::string& version) {
  prometheus::Labels labels = {{"model", model}};
  if (!version.empty()) labels["version"] = version;
  return labels;
}

}  // namespace

ModelMetrics::ModelMetrics(prometheus::Registry& registry, const std::string& model,
                           const std::string& version)
    : registry_(registry),
      labels_(LabelsOf(model, version)),
      queue_(Latency("bloomery_queue_time_seconds", "From arrival to the first computed step")),
      first_token_(Latency("bloomery_time_to_first_token_seconds", "From arrival to the first token")),
      per_token_(Latency("bloomery_time_per_output_token_seconds",
                         "Between tokens after the first, mean of a request")),
      latency_(Latency("bloomery_request_latency_seconds", "From arrival to the end of the answer")),
      prompt_tokens_(Tokens("bloomery_prompt_tokens", "Prompt tokens of a request")),
      generated_tokens_(Tokens("bloomery_generated_tokens", "Generated tokens of a request")),
      requests_open_(AddGauge("bloomery_requests_open", "Requests accepted and not yet answered")),
      requests_queued_(AddGauge("bloomery_requests_queued", "Requests waiting for their first step")),
      sequences_running_(AddGauge("bloomery_sequences_running", "Sequences computed together")),
      kv_used_(AddGauge("bloomery_kv_tokens_used", "Tokens of KV cache in use")),
      kv_total_(AddGauge("bloomery_kv_tokens_total", "Tokens of KV cache there are")),
      preemptions_(AddGauge("bloomery_preemptions", "Sequences sent back to wait for lack of KV cache")),
      cached_tokens_(
          AddGauge("bloomery_prefix_cache_hit_tokens", "Prompt tokens taken over from earlier requests")),
      drafted_tokens_(AddGauge("bloomery_draft_tokens", "Tokens guessed ahead and verified")),
      accepted_tokens_(AddGauge("bloomery_draft_tokens_accepted", "Tokens guessed ahead that came true")),
      restarts_(AddGauge("bloomery_engine_restarts", "Times an engine or handler process was started again")),
      handler_workers_(AddGauge("bloomery_handler_workers", "Processes of a model.py")),
      ready_(AddGauge("bloomery_ready", "1 while requests are served")) {}

ModelMetrics::~ModelMetrics() {
  for (const auto& remove : removals_) remove();
}

template <typename Metric, typename Builder, typename... Args>
Metric& ModelMetrics::Add(Builder builder, const char* name, const char* help, Args&&... args) {
  // One family of a name: the registry gives back the one that is there.
  auto& family = builder.Name(name).Help(help).Register(registry_);
  Metric& metric = family.Add(labels_, std::forward<Args>(args)...);
  removals_.emplace_back([&family, &metric] { family.Remove(&metric); });
  return metric;
}

prometheus::Histogram& ModelMetrics::Latency(const char* name, const char* help) {
  return Add<prometheus::Histogram>(prometheus::BuildHistogram(), name, help, kSeconds);
}

prometheus::Histogram& ModelMetrics::Tokens(const char* name, const char* help) {
  return Add<prometheus::Histogram>(prometheus::BuildHistogram(), name, help, kTokens);
}

prometheus::Gauge& ModelMetrics::AddGauge(const char* name, const char* help) {
  return Add<prometheus::Gauge>(prometheus::BuildGauge(), name, help);
}

Metrics::Metrics()
    : responses_(prometheus::BuildCounter()
                     .Name("bloomery_responses_total")
                     .Help("HTTP responses by class and status")
                     .Register(registry_)),
      cancelled_(prometheus::BuildCounter()
                     .Name("bloomery_requests_cancelled_total")
                     .Help("Requests whose client left before the end")
                     .Register(registry_)
                     .Add({})) {}

void Metrics::CountResponse(int status) {
  responses_.Add({{"class", std::to_string(status / 100) + "XX"}, {"status", std::to_string(status)}})
      .Increment();
}

void ModelMetrics::ObserveRequest(const DoneEvent& done) {
  constexpr double kMsPerSecond = 1000;
  queue_.Observe(done.queue_ms / kMsPerSecond);
  first_token_.Observe(done.first_token_ms / kMsPerSecond);
  latency_.Observe(done.total_ms / kMsPerSecond);
  if (done.generated_tokens > 1) {
    per_token_.Observe((done.total_ms - done.first_token_ms) / kMsPerSecond /
                       static_cast<double>(done.generated_tokens - 1));
  }
  prompt_tokens_.Observe(static_cast<double>(done.prompt_tokens));
  generated_tokens_.Observe(static_cast<double>(done.generated_tokens));
}

void ModelMetrics::SetLoad(const EngineStats& stats, std::size_t open_requests, std::int64_t engine_restarts,
                           bool ready) {
  requests_open_.Set(static_cast<double>(open_requests));
  requests_queued_.Set(static_cast<double>(stats.queued_requests));
  sequences_running_.Set(static_cast<double>(stats.running_sequences));
  kv_used_.Set(static_cast<double>(stats.kv_tokens_used));
  kv_total_.Set(static_cast<double>(stats.kv_tokens_total));
  preemptions_.Set(static_cast<double>(stats.preemptions_total));
  cached_tokens_.Set(static_cast<double>(stats.cached_tokens_total));
  drafted_tokens_.Set(static_cast<double>(stats.drafted_tokens_total));
  accepted_tokens_.Set(static_cast<double>(stats.accepted_tokens_total));
  restarts_.Set(static_cast<double>(engine_restarts));
  ready_.Set(ready ? 1 : 0);
}

std::string Metrics::Serialize() const { return prometheus::TextSerializer().Serialize(registry_.Collect()); }

}  // namespace bloomery
