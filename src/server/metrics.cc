#include "server/metrics.h"

#include <prometheus/text_serializer.h>

namespace bloomery {
namespace {

// From a cached token of a tiny model to a long answer of a huge one, three steps a decade.
const prometheus::Histogram::BucketBoundaries kSeconds = {
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500};
const prometheus::Histogram::BucketBoundaries kTokens = {1,   2,   5,    10,   20,   50,    100,
                                                         200, 500, 1000, 2000, 5000, 10000, 20000};

}  // namespace

Metrics::Metrics()
    : responses_(prometheus::BuildCounter()
                     .Name("bloomery_responses_total")
                     .Help("HTTP responses by class and status")
                     .Register(registry_)),
      cancelled_(prometheus::BuildCounter()
                     .Name("bloomery_requests_cancelled_total")
                     .Help("Requests whose client left before the end")
                     .Register(registry_)
                     .Add({})),
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

prometheus::Histogram& Metrics::Latency(const char* name, const char* help) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(registry_).Add({}, kSeconds);
}

prometheus::Histogram& Metrics::Tokens(const char* name, const char* help) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(registry_).Add({}, kTokens);
}

prometheus::Gauge& Metrics::AddGauge(const char* name, const char* help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry_).Add({});
}

void Metrics::CountResponse(int status) {
  responses_.Add({{"class", std::to_string(status / 100) + "XX"}, {"status", std::to_string(status)}})
      .Increment();
}

void Metrics::ObserveRequest(const DoneEvent& done) {
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

void Metrics::SetLoad(const EngineStats& stats, std::size_t open_requests, std::int64_t engine_restarts,
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
