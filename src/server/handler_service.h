// Answers from a model.py: HTTP requests as its Inputs, its Outputs as HTTP answers.
//
//   body                                          content "data"
//   query parameters                              content, each under its name
//   headers, x-request-id                         properties
//   X-Amzn-SageMaker-Custom-Attributes: a=b;c=d   properties a and c besides
#pragma once

#include "server/service.h"
#include "worker/handler_pool.h"

namespace bloomery {

class HandlerService final : public ModelService {
 public:
  // `request_timeout`: what a request may wait for its turn; 0: the pool's own limit. `metrics` must outlive
  // it.
  HandlerService(boost::asio::io_context& io, HandlerOptions options,
                 std::chrono::milliseconds request_timeout, ModelMetrics& metrics);

  void Start() override { pool_.Start(); }
  void Stop() override { pool_.Stop(); }
  bool Gone() override { return true; }  // Stop waits for its processes
  ServiceHealth health() const override;
  Result<std::unique_ptr<Answering>> Begin(ServiceRequest request, std::function<void()> wake) override;
  std::optional<ModelInfo> info() const override;
  void SetMetrics() const override;
  void Describe(ModelReport& report) const override;
  Status Tune(const ModelTuning& tuning) override;

 private:
  HandlerPool pool_;
  const std::chrono::milliseconds request_timeout_;
  ModelMetrics& metrics_;
};

// Exposed for its tests.
HandlerRequest ToHandlerRequest(ServiceRequest request);
// Of a handler's answer, without its body: what may go to a client.
HttpAnswer ToHttpAnswer(const HandlerHead& head);

}  // namespace bloomery
