// Models that are loaded and unloaded while a server runs: DJL Serving's management API, and SageMaker's
// multi-model contract, which is a part of it. What is asked for, and what is told; neither sockets nor
// models are here. Shapes with examples: docs/reference/management.md.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "api/exchange.h"

namespace bloomery {

// Numbers that a request may set for one model; absent: the deployment's own.
struct ModelTuning {
  std::optional<int> job_queue_size;      // requests that may wait
  std::optional<int> batch_size;          // of a handler's call
  std::optional<int> max_batch_delay_ms;  // that a batch waits for company
  std::optional<int> max_idle_time_s;     // of a worker above min_workers
  std::optional<int> min_workers;
  std::optional<int> max_workers;
};

struct ModelRegistration {
  std::string url;           // a directory, an archive, s3://bucket/prefix/, or a hub's id
  std::string name;          // never empty
  std::string version = {};  // empty: none
  std::string engine = {};   // empty: what the deployment says
  ModelTuning tuning = {};
  bool synchronous = true;  // answered once it serves, or cannot
};

// POST /models: parameters in the query (DJL) or in a JSON object (SageMaker); the query wins.
// kInvalidArgument names the parameter.
Result<ModelRegistration> ParseRegistration(std::string_view query, std::string_view body);

// PUT /models/{name}.
Result<ModelTuning> ParseTuning(std::string_view query);

// What a model is called whose registration does not say: the last part of its URL, without the suffix of an
// archive.
std::string ModelNameOf(std::string_view url);

// GET /models?limit=&next_page_token=
struct ModelPage {
  std::size_t first = 0;
  std::size_t limit = 100;
};
Result<ModelPage> ParsePage(std::string_view query);

enum class ModelState : std::uint8_t { kPending, kReady, kUnhealthy, kFailed };

struct ModelReport {
  std::string name;
  std::string version;
  std::string url;
  ModelState state = ModelState::kPending;
  std::string detail;  // how far it is, or why it failed
  bool loaded_at_startup = false;
  std::uint64_t memory_bytes = 0;  // that are set aside for it; 0: not known
  int batch_size = 1;
  std::int64_t max_batch_delay_ms = 0;
  std::int64_t max_idle_time_s = 0;
  std::size_t queue_size = 0;  // room for waiting requests
  std::size_t queued = 0;
  int min_workers = 1;
  int max_workers = 1;
  struct Worker {
    std::int64_t id = 0;  // of its process
    bool ready = false;
  };
  std::vector<Worker> workers;
  std::int64_t started_s = 0;  // Unix time of its registration
};

HttpAnswer ListModelReports(std::span<const ModelReport> models, ModelPage page);

// GET /models/{name}: every version of it, as DJL tells …
HttpAnswer DescribeModel(std::span<const ModelReport> versions);
// … or as SageMaker's multi-model contract has it.
HttpAnswer DescribeModelForSageMaker(const ModelReport& model);

// {"status": text}
HttpAnswer StatusAnswer(std::string_view text, int status = 200);

}  // namespace bloomery
