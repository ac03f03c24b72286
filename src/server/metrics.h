// What /metrics shows: histograms and gauges in Prometheus's text format. What is a model's has the labels
// "model" and, where it has one, "version".
#pragma once

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/request.h"

namespace bloomery {

// Of one model; its samples leave the page with it. Used by the server's io thread only.
class ModelMetrics {
 public:
  ModelMetrics(prometheus::Registry& registry, const std::string& model, const std::string& version);
  ~ModelMetrics();
  ModelMetrics(const ModelMetrics&) = delete;
  ModelMetrics& operator=(const ModelMetrics&) = delete;

  void ObserveRequest(const DoneEvent& done);
  // Of a request to a model.py.
  void ObserveLatency(std::chrono::duration<double> latency) { latency_.Observe(latency.count()); }
  void SetHandlerWorkers(std::size_t workers) { handler_workers_.Set(static_cast<double>(workers)); }
  void SetLoad(const EngineStats& stats, std::size_t open_requests, std::int64_t engine_restarts, bool ready);

 private:
  prometheus::Histogram& Latency(const char* name, const char* help);
  prometheus::Histogram& Tokens(const char* name, const char* help);
  prometheus::Gauge& AddGauge(const char* name, const char* help);
  template <typename Metric, typename Builder, typename... Args>
  Metric& Add(Builder builder, const char* name, const char* help, Args&&... args);

  prometheus::Registry& registry_;
  const prometheus::Labels labels_;
  std::vector<std::function<void()>> removals_;
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

// Of the whole server. Used by its io thread only.
class Metrics {
 public:
  Metrics();

  // It must not outlive this.
  std::unique_ptr<ModelMetrics> AddModel(const std::string& name, const std::string& version = {}) {
    return std::make_unique<ModelMetrics>(registry_, name, version);
  }

  void CountResponse(int status);
  void CountCancelled() { cancelled_.Increment(); }

  std::string Serialize() const;

 private:
  prometheus::Registry registry_;
  prometheus::Family<prometheus::Counter>& responses_;
  prometheus::Counter& cancelled_;
};

}  // namespace bloomery
