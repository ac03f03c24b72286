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

// The pool must outlive it.
class HandlerService final : public Service {
 public:
  // `request_timeout`: what a request may wait for its turn; 0: the pool's own limit.
  HandlerService(HandlerPool& pool, std::string name, std::chrono::milliseconds request_timeout);

  ServiceHealth health() const override;
  Result<std::unique_ptr<Answering>> Begin(ServiceRequest request, std::function<void()> wake) override;
  Result<HttpAnswer> ListModels() const override;
  void SetMetrics(Metrics& metrics) const override;

 private:
  HandlerPool& pool_;
  const std::string name_;
  const std::chrono::milliseconds request_timeout_;
};

// Exposed for its tests.
HandlerRequest ToHandlerRequest(ServiceRequest request);
// Of a handler's answer, without its body: what may go to a client.
HttpAnswer ToHttpAnswer(const HandlerHead& head);

}  // namespace bloomery
