// The models of one server: those it starts with, and those that come and go through DJL Serving's management
// API or SageMaker's multi-model contract. Finds the model that a request means.
//
//   preparing ─▶ loading ─▶ ready / restarting ──DELETE──▶ leaving ─▶ gone
//       └───────────┴─▶ failed
//
// A model that was asked for and cannot be loaded is forgotten, where the answer to its request said why; one
// that was asked for with synchronous=false stays listed as FAILED. One that leaves takes nothing new, and
// goes when what it has is answered. Whether memory holds a model is computed before it is loaded: memory is
// set aside for each.
#pragma once

#include <boost/asio.hpp>

#include <chrono>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <regex>
#include <string>
#include <vector>

#include "model/weights.h"
#include "server/metrics.h"
#include "server/service.h"

namespace bloomery {

// A model whose files are here and whose settings are known.
struct PreparedModel {
  std::uint64_t memory_bytes = 0;  // what it will take; 0: not known
  // On the io thread.
  std::function<std::unique_ptr<ModelService>(ModelMetrics&)> make;
};

// Called on a thread of its own, one at a time: it may fetch files, and says how far it is. `free_bytes`:
// what is not set aside for others.
using PrepareModel = std::function<Result<PreparedModel>(
    const ModelRegistration& registration, std::uint64_t free_bytes, const LoadProgress& progress)>;

struct ModelHostOptions {
  bool management = false;         // models may be loaded and unloaded by request
  bool sagemaker_answers = false;  // GET /models/{name} answers as SageMaker's multi-model contract has it
  std::uint64_t memory_bytes = 0;  // that models may take together
  std::optional<std::regex> url_pattern;            // of models that are asked for
  std::chrono::milliseconds drain_timeout{30'000};  // what a model that leaves may still take to answer
};

// Used by the io thread only.
class ModelHost final : public Service {
 public:
  // All must outlive it.
  ModelHost(boost::asio::io_context& io, Metrics& metrics, PrepareModel prepare, ModelHostOptions options);
  ~ModelHost() override;

  // A model that the server starts with; before Start.
  void AddAtStartup(ModelRegistration registration, const PreparedModel& model);
  // One that is still to be prepared; without `prepare`, as those are that are asked for.
  void AddAtStartup(ModelRegistration registration, PrepareModel prepare = nullptr);

  void Start();
  void Stop();

  ServiceHealth health() const override;
  Result<std::unique_ptr<Answering>> Begin(ServiceRequest request, std::function<void()> wake) override;
  Result<HttpAnswer> ListModels() const override;
  void SetMetrics() const override;

 private:
  struct Hosted;
  using HostedPtr = std::shared_ptr<Hosted>;
  class ModelAnswering;
  class ManagementAnswering;

  HostedPtr Find(std::string_view name, std::string_view version) const;
  // "name", or "name/version".
  Result<HostedPtr> FindByPath(std::string_view rest) const;
  // Every version of it, where the path that `found` was found by names none.
  std::vector<HostedPtr> VersionsMeant(std::string_view rest, const HostedPtr& found) const;
  // The model that a request which may leave it out means.
  Result<HostedPtr> FindByRequest(const ServiceRequest& request) const;
  HostedPtr Default() const;
  Error NoSuchModel(std::string_view name) const;

  Result<std::unique_ptr<Answering>> Manage(const ServiceRequest& request, std::function<void()> wake);
  HttpAnswer List(ModelPage page) const;
  Result<HttpAnswer> DescribeOne(std::string_view rest) const;
  Result<HttpAnswer> Tune(std::string_view rest, std::string_view query);
  Result<std::unique_ptr<Answering>> Register(const ServiceRequest& request, std::function<void()> wake);
  Result<std::unique_ptr<Answering>> Unregister(std::string_view rest, std::function<void()> wake);

  HostedPtr Add(ModelRegistration registration);
  void PrepareNext();
  void OnPrepared(const HostedPtr& hosted, Result<PreparedModel> model);
  void Leave(const HostedPtr& hosted);
  std::uint64_t FreeBytes(const Hosted* besides) const;
  ModelReport Report(const Hosted& hosted) const;

  // Looks after what has no event of its own: a model that became ready, or is gone.
  void Watch();
  void Look();

  boost::asio::io_context& io_;
  Metrics& metrics_;
  const PrepareModel prepare_;
  const ModelHostOptions options_;
  std::list<HostedPtr> models_;  // in the order of their registration
  boost::asio::thread_pool preparing_{1};
  boost::asio::steady_timer watch_timer_;
  bool watching_ = false;
  bool stopped_ = false;
};

}  // namespace bloomery
