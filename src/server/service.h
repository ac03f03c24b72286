// What the server answers requests with. A model's own service is an engine through its dialects
// (EngineService) or a model.py (HandlerService); the host of all models (ModelHost) picks the one that is
// meant. Left out: HTTP itself, which is connection.cc's.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "api/exchange.h"
#include "api/management.h"
#include "base/result.h"
#include "server/metrics.h"
#include "server/router.h"

namespace bloomery {

struct ServiceRequest {
  Route route;
  std::string_view method;
  std::string_view path;                                               // without the query
  std::string_view query;                                              // after the '?', as sent
  std::vector<std::pair<std::string_view, std::string_view>> headers;  // in order, as sent
  std::string body;
  std::string id;              // x-request-id
  std::int64_t created_s = 0;  // Unix time
  std::uint64_t salt = 0;      // stands for the API key

  // Whatever the case of its letters; empty where there is none.
  std::string_view Header(std::string_view name) const;
};

// One request being answered. Destroying it gives up what is unfinished.
class Answering {
 public:
  virtual ~Answering() = default;

  // Something has happened that was not taken yet.
  virtual bool pending() const = 0;
  // Takes the next thing that has happened. Returns what to send now: nothing unless streaming.
  virtual std::string Take() = 0;
  virtual bool finished() const = 0;
  // It ended with an error. A stream that has begun then ends as one that was cut off, where
  // `error_in_stream` does not say that the error was sent in it.
  virtual bool failed() const = 0;
  virtual bool error_in_stream() const = 0;

  // Status, content type and headers of a stream, once there is something to send.
  virtual HttpAnswer StreamHead() const = 0;
  // The whole answer: without streaming, or when an error came before the first streamed byte.
  virtual HttpAnswer Answer() = 0;

  // Called at the end, also when the client has left.
  virtual void Observe() const {}
  // For the line that the log has of the request: "model", "prompt_tokens".
  virtual json::object LogFields() const { return {}; }
};

enum class ServiceState : std::uint8_t { kLoading, kReady, kRestarting, kFailed };

struct ServiceHealth {
  ServiceState state = ServiceState::kLoading;
  double progress = 0;
  std::string detail;
  ErrorCode failure = ErrorCode::kInternal;  // why it is kFailed
};

// Used by the server's io thread only.
class Service {
 public:
  virtual ~Service() = default;

  virtual ServiceHealth health() const = 0;
  // `wake` is called on the io thread, from a later turn of the loop on, whenever something has happened.
  virtual Result<std::unique_ptr<Answering>> Begin(ServiceRequest request, std::function<void()> wake) = 0;
  // The models that /v1/models lists; kUnavailable before there is one.
  virtual Result<HttpAnswer> ListModels() const = 0;
  // Brings gauges up to date.
  virtual void SetMetrics() const = 0;
};

// One model and the processes that compute it, which end with it.
class ModelService {
 public:
  virtual ~ModelService() = default;

  virtual void Start() = 0;
  // Fails what is unfinished.
  virtual void Stop() = 0;
  // After Stop: its processes are no more, and their memory is free.
  virtual bool Gone() = 0;

  virtual ServiceHealth health() const = 0;
  virtual Result<std::unique_ptr<Answering>> Begin(ServiceRequest request, std::function<void()> wake) = 0;
  // Absent before it is loaded.
  virtual std::optional<ModelInfo> info() const = 0;
  virtual void SetMetrics() const = 0;

  // Fills in what it knows: numbers, queue, workers.
  virtual void Describe(ModelReport& report) const = 0;
  virtual Status Tune(const ModelTuning& tuning) = 0;
};

// What to say to a request that comes too early, or too late.
Error NotReady(const ServiceHealth& health);

std::int64_t UnixTime();

}  // namespace bloomery
