// Answers from an engine, in the dialects of api/.
#pragma once

#include "server/options.h"
#include "server/service.h"
#include "worker/engine_client.h"

namespace bloomery {

// The engine client must outlive it.
class EngineService final : public Service {
 public:
  EngineService(EngineClient& engine, const ServerOptions& options);

  ServiceHealth health() const override;
  Result<std::unique_ptr<Answering>> Begin(ServiceRequest request, std::function<void()> wake) override;
  Result<HttpAnswer> ListModels() const override;
  void SetMetrics(Metrics& metrics) const override;

 private:
  Result<std::unique_ptr<Exchange>> MakeExchange(const ServiceRequest& request) const;

  EngineClient& engine_;
  const BatchShape batch_shape_;
  const std::size_t max_requests_;
  const std::chrono::milliseconds request_timeout_;
};

}  // namespace bloomery
