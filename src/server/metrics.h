// What /metrics shows: histograms and gauges in Prometheus's text format.
#pragma once

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <chrono>
#include <cstdint>
#include <string>

#include "engine/request.h"

namespace bloomery {

// Used by the server's io thread only.
class Metrics {
 public:
  Metrics();

  void CountResponse(int status);
  void CountCancelled() { cancelled_.Increment(); }
  void ObserveRequest(const DoneEvent& done);
  // Of a request to a model.py.
  void ObserveLatency(std::chrono::duration<double> latency) { latency_.Observe(latency.count()); }
  void SetHandlerWorkers(std::size_t workers) { handler_workers_.Set(static_cast<double>(workers)); }
  void SetLoad(const EngineStats& stats, std::size_t open_requests, std::int64_t engine_restarts, bool ready);

  std::string Serialize() const;

 private:
  prometheus::Histogram& Latency(const char* name, const char* help);
  prometheus::Histogram& Tokens(const char* name, const char* help);
  prometheus::Gauge& AddGauge(const char* name, const char* help);

  prometheus::Registry registry_;
  prometheus::Family<prometheus::Counter>& responses_;
  prometheus::Counter& cancelled_;
  prometheus::Histogram& queue_;
  prometheus::Histogram& first_token_;
  prometheus::Histogram& per_token_;
  prometheus::Histogram& latency_;
  prometheus::Histogram& prompt_tokens_;
  prometheus::Histogram& generated_tokens_;
  prometheus::Gauge& requests_open_;
  prometheus::Gauge& requests_queued_;
  prometheus::Gauge& sequences_running_;
  prometheus::Gauge& kv_used_;
  prometheus::Gauge& kv_total_;
  prometheus::Gauge& preemptions_;
  prometheus::Gauge& cached_tokens_;
  prometheus::Gauge& drafted_tokens_;
  prometheus::Gauge& accepted_tokens_;
  prometheus::Gauge& restarts_;
  prometheus::Gauge& handler_workers_;
  prometheus::Gauge& ready_;
};

}  // namespace bloomery
