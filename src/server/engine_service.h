// Answers from an engine, in the dialects of api/.
#pragma once

#include "server/options.h"
#include "server/service.h"
#include "worker/engine_client.h"

namespace bloomery {

class EngineService final : public ModelService {
 public:
  // `metrics` must outlive it.
  EngineService(boost::asio::io_context& io, EngineClient::Options engine, const ServerOptions& options,
                ModelMetrics& metrics);

  void Start() override { engine_.Start(); }
  void Stop() override { engine_.Stop(); }
  bool Gone() override { return engine_.Gone(); }
  ServiceHealth health() const override;
  Result<std::unique_ptr<Answering>> Begin(ServiceRequest request, std::function<void()> wake) override;
  std::optional<ModelInfo> info() const override { return engine_.info(); }
  void SetMetrics() const override;
  void Describe(ModelReport& report) const override;
  Status Tune(const ModelTuning& tuning) override;

 private:
  Result<std::unique_ptr<Exchange>> MakeExchange(const ServiceRequest& request) const;

  EngineClient engine_;
  ModelMetrics& metrics_;
  const BatchShape batch_shape_;
  std::size_t max_requests_;
  const std::chrono::milliseconds request_timeout_;
};

}  // namespace bloomery
