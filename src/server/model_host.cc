#include "server/model_host.h"

#include <algorithm>

#include "api/dialects.h"
#include "api/errors.h"
#include "api/query.h"
#include "base/log.h"

namespace bloomery {
namespace {

namespace asio = boost::asio;

constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;
constexpr int kForbidden = 403;
constexpr int kAccepted = 202;
// Between looks at models that load or leave, which is when somebody waits.
constexpr std::chrono::milliseconds kLookInterval{20};

// Names in messages are other people's: short, and without quotes of their own.
std::string Quoted(std::string_view name) { return fmt::format("\"{}\"", name.substr(0, 255)); }

std::string_view QueryValue(const std::vector<std::pair<std::string, std::string>>& query,
                            std::string_view name) {
  for (const auto& [known, value] : query) {
    if (known == name) return value;
  }
  return {};
}

bool NamesItInItsBody(RouteKind kind) {
  return kind == RouteKind::kCompletions || kind == RouteKind::kChatCompletions;
}

}  // namespace

struct ModelHost::Hosted {
  ModelRegistration registration;
  bool at_startup = false;
  std::int64_t registered_s = UnixTime();
  std::uint64_t memory_bytes = 0;
  std::unique_ptr<ModelMetrics> metrics;
  std::unique_ptr<ModelService> service;  // absent until it is prepared
  PrepareModel prepare;                   // set: in the host's place
  bool being_prepared = false;
  double prepared = 0;  // the fraction
  std::string preparing = "waiting to be loaded";
  std::optional<Error> failure;  // it could not be prepared or loaded
  bool settled = false;          // it has been ready, or failed
  std::size_t answering = 0;     // requests
  bool leaving = false;
  bool stopping = false;  // its last answers are sent, or were given up
  bool gone = false;
  std::chrono::steady_clock::time_point leave_by;
  std::list<std::function<void()>> waiting;  // called whenever the state may have changed

  const std::string& name() const { return registration.name; }

  ServiceHealth health() const {
    if (failure) return {ServiceState::kFailed, 0, failure->message, failure->code};
    if (!service) return {ServiceState::kLoading, prepared, preparing, {}};
    return service->health();
  }
  // Something of it is awaited.
  bool Unsettled() const { return !gone && (leaving || !settled); }
  void Wake() const {
    for (const auto& wake : waiting) wake();
  }
};

// Keeps the model for as long as it answers, also when it leaves meanwhile.
class ModelHost::ModelAnswering final : public Answering {
 public:
  ModelAnswering(HostedPtr model, std::unique_ptr<Answering> inner)
      : model_(std::move(model)), inner_(std::move(inner)) {
    ++model_->answering;
  }
  ~ModelAnswering() override { --model_->answering; }

  bool pending() const override { return inner_->pending(); }
  std::string Take() override { return inner_->Take(); }
  bool finished() const override { return inner_->finished(); }
  bool failed() const override { return inner_->failed(); }
  bool error_in_stream() const override { return inner_->error_in_stream(); }
  HttpAnswer StreamHead() const override { return inner_->StreamHead(); }
  HttpAnswer Answer() override { return inner_->Answer(); }
  void Observe() const override { inner_->Observe(); }
  json::object LogFields() const override { return inner_->LogFields(); }

 private:
  const HostedPtr model_;
  const std::unique_ptr<Answering> inner_;
};

// An answer that is there at once, or once a model has come or gone.
class ModelHost::ManagementAnswering final : public Answering {
 public:
  // What to answer; nothing while it is not known.
  using Outcome = std::function<std::optional<HttpAnswer>()>;

  explicit ManagementAnswering(HttpAnswer answer)
      : outcome_([answer = std::move(answer)] { return answer; }) {}
  ManagementAnswering(HostedPtr model, const std::function<void()>& wake, Outcome outcome)
      : outcome_(std::move(outcome)), model_(std::move(model)) {
    model_->waiting.push_front(wake);
    place_ = model_->waiting.begin();
  }
  ~ManagementAnswering() override {
    if (model_) model_->waiting.erase(place_);
  }

  bool pending() const override { return outcome_().has_value(); }
  std::string Take() override {
    answer_ = outcome_();
    return {};
  }
  bool finished() const override { return answer_.has_value(); }
  bool failed() const override { return false; }
  bool error_in_stream() const override { return false; }
  HttpAnswer StreamHead() const override { return {}; }
  HttpAnswer Answer() override { return *std::move(answer_); }

 private:
  const Outcome outcome_;
  std::optional<HttpAnswer> answer_;
  const HostedPtr model_;
  std::list<std::function<void()>>::iterator place_;
};

ModelHost::ModelHost(asio::io_context& io, Metrics& metrics, PrepareModel prepare, ModelHostOptions options)
    : io_(io),
      metrics_(metrics),
      prepare_(std::move(prepare)),
      options_(std::move(options)),
      watch_timer_(io) {}

ModelHost::~ModelHost() { preparing_.join(); }

// --- coming and going ---

ModelHost::HostedPtr ModelHost::Add(ModelRegistration registration) {
  const auto hosted = std::make_shared<Hosted>();
  hosted->registration = std::move(registration);
  hosted->metrics = metrics_.AddModel(hosted->name(), hosted->registration.version);
  models_.push_back(hosted);
  return hosted;
}

void ModelHost::AddAtStartup(ModelRegistration registration, const PreparedModel& model) {
  const HostedPtr hosted = Add(std::move(registration));
  hosted->at_startup = true;
  hosted->memory_bytes = model.memory_bytes;
  hosted->service = model.make(*hosted->metrics);
}

void ModelHost::AddAtStartup(ModelRegistration registration, PrepareModel prepare) {
  const HostedPtr hosted = Add(std::move(registration));
  hosted->at_startup = true;
  hosted->prepare = std::move(prepare);
}

void ModelHost::Start() {
  for (const HostedPtr& hosted : models_) {
    if (hosted->service) hosted->service->Start();
  }
  PrepareNext();
}

void ModelHost::Stop() {
  stopped_ = true;
  watch_timer_.cancel();
  for (const HostedPtr& hosted : models_) {
    if (hosted->leaving) {
      hosted->gone = true;
    } else if (hosted->Unsettled()) {
      hosted->failure = Error{ErrorCode::kUnavailable, "the server is shutting down"};
      hosted->settled = true;
    }
    if (hosted->service) hosted->service->Stop();
    hosted->Wake();
  }
}

// One after the other, so that each knows what the ones before it have set aside.
void ModelHost::PrepareNext() {
  if (stopped_) return;
  const bool busy = std::ranges::any_of(models_, [](const auto& hosted) { return hosted->being_prepared; });
  const auto next = std::ranges::find_if(
      models_, [](const auto& hosted) { return !hosted->service && !hosted->failure && !hosted->leaving; });
  Watch();
  if (busy || next == models_.end()) return;
  const HostedPtr& hosted = *next;
  hosted->being_prepared = true;
  asio::post(preparing_, [this, hosted, free = FreeBytes(hosted.get())] {
    const auto progress = [this, &hosted](double fraction, std::string_view what) {
      asio::post(io_, [hosted, fraction, text = std::string(what)] {
        hosted->prepared = fraction;
        hosted->preparing = text;
      });
    };
    auto prepared = (hosted->prepare ? hosted->prepare : prepare_)(hosted->registration, free, progress);
    asio::post(io_, [this, hosted, prepared = std::move(prepared)]() mutable {
      OnPrepared(hosted, std::move(prepared));
    });
  });
}

void ModelHost::OnPrepared(const HostedPtr& hosted, Result<PreparedModel> model) {
  hosted->being_prepared = false;
  if (stopped_) return;
  const std::uint64_t free = FreeBytes(hosted.get());
  if (!model) {
    hosted->failure = std::move(model).error();
  } else if (model->memory_bytes > free) {
    hosted->failure = Error{
        ErrorCode::kOutOfMemory,
        fmt::format(
            "model {} takes {:.2f} GiB, and {:.2f} of the {:.2f} GiB for models are free; unload another "
            "(DELETE /models/NAME), or take a smaller dtype or KV cache",
            Quoted(hosted->name()), static_cast<double>(model->memory_bytes) / kGiB,
            static_cast<double>(free) / kGiB, static_cast<double>(options_.memory_bytes) / kGiB)};
  } else if (!hosted->leaving) {
    hosted->memory_bytes = model->memory_bytes;
    hosted->service = model->make(*hosted->metrics);
    hosted->service->Start();
  }
  if (hosted->failure) spdlog::error("model {} is not loaded: {}", hosted->name(), hosted->failure->message);
  PrepareNext();
}

void ModelHost::Leave(const HostedPtr& hosted) {
  if (hosted->leaving) return;
  hosted->leaving = true;
  hosted->leave_by = std::chrono::steady_clock::now() + options_.drain_timeout;
  Watch();
}

std::uint64_t ModelHost::FreeBytes(const Hosted* besides) const {
  std::uint64_t taken = 0;
  for (const HostedPtr& hosted : models_) {
    if (hosted.get() != besides && !hosted->failure) taken += hosted->memory_bytes;
  }
  return options_.memory_bytes - std::min(taken, options_.memory_bytes);
}

void ModelHost::Watch() {
  const bool needed = std::ranges::any_of(models_, [](const auto& hosted) { return hosted->Unsettled(); });
  if (watching_ || stopped_ || !needed) return;
  watching_ = true;
  watch_timer_.expires_after(kLookInterval);
  watch_timer_.async_wait([this](boost::system::error_code error) {
    watching_ = false;
    if (error) return;
    Look();
    Watch();
  });
}

void ModelHost::Look() {
  const std::list<HostedPtr> models = models_;
  for (const HostedPtr& hosted : models) {
    const ServiceHealth health = hosted->health();
    if (health.state != ServiceState::kLoading && !hosted->settled) {
      hosted->settled = true;
      if (health.state == ServiceState::kFailed) hosted->failure = Error{health.failure, health.detail};
    }
    // Whoever waits is told why, and has nothing to unload.
    const bool refused = hosted->failure && !hosted->at_startup && hosted->registration.synchronous;
    if (hosted->leaving && !hosted->being_prepared) {
      const bool late = std::chrono::steady_clock::now() >= hosted->leave_by;
      if (hosted->service && !hosted->stopping && (hosted->answering == 0 || late)) {
        hosted->stopping = true;
        hosted->service->Stop();
      }
      hosted->gone = !hosted->service || (hosted->stopping && hosted->service->Gone());
      if (hosted->gone) spdlog::info("model {} is unloaded", hosted->name());
    }
    if (hosted->gone || refused) models_.remove(hosted);
    if (hosted->gone || !hosted->Unsettled()) hosted->Wake();
  }
}

// --- finding ---

// The newest of its versions that can answer, where none is named.
ModelHost::HostedPtr ModelHost::Find(std::string_view name, std::string_view version) const {
  HostedPtr found;
  for (const HostedPtr& hosted : models_) {
    if (hosted->leaving || hosted->name() != name) continue;
    if (!version.empty()) {
      if (hosted->registration.version == version) return hosted;
    } else if (!found || hosted->health().state == ServiceState::kReady) {
      found = hosted;
    }
  }
  return found;
}

Error ModelHost::NoSuchModel(std::string_view name) const {
  return {ErrorCode::kNotFound,
          fmt::format("model {} is not here; GET /models lists those that are", Quoted(name))};
}

Result<ModelHost::HostedPtr> ModelHost::FindByPath(std::string_view rest) const {
  const std::string path = DecodePercents(rest);
  // A hub's id, the name of a startup model, has a slash of its own.
  if (HostedPtr whole = Find(path, {})) return whole;
  if (const std::size_t slash = path.rfind('/'); slash != std::string::npos) {
    if (HostedPtr versioned = Find(path.substr(0, slash), path.substr(slash + 1))) return versioned;
  }
  return std::unexpected(NoSuchModel(path));
}

std::vector<ModelHost::HostedPtr> ModelHost::VersionsMeant(std::string_view rest,
                                                           const HostedPtr& found) const {
  const std::string path = DecodePercents(rest);
  std::vector<HostedPtr> versions;
  for (const HostedPtr& hosted : models_) {
    if (!hosted->leaving && (hosted->name() == path || hosted == found)) versions.push_back(hosted);
  }
  return versions;
}

ModelHost::HostedPtr ModelHost::Default() const {
  std::vector<HostedPtr> all;
  std::vector<HostedPtr> at_startup;
  for (const HostedPtr& hosted : models_) {
    if (hosted->leaving) continue;
    all.push_back(hosted);
    if (hosted->at_startup) at_startup.push_back(hosted);
  }
  if (at_startup.size() == 1) return at_startup.front();
  return all.size() == 1 ? all.front() : nullptr;
}

Result<ModelHost::HostedPtr> ModelHost::FindByRequest(const ServiceRequest& request) const {
  const auto query = ParseQuery(request.query);
  std::string name(QueryValue(query, "model_name"));
  const std::string_view version = QueryValue(query, "model_version");
  if (name.empty()) name = request.Header("model_name");
  // SageMaker's clients name a model's archive below the endpoint's prefix.
  if (name.empty()) name = ModelNameOf(request.Header("X-Amzn-SageMaker-Target-Model"));
  if (name.empty() && NamesItInItsBody(request.route.kind) && models_.size() > 1) {
    const auto body = ParseJson(request.body, "the body");
    const auto* model = body && body->is_object() ? body->get_object().if_contains("model") : nullptr;
    if (model != nullptr && model->is_string()) name = std::string_view(model->get_string());
  }
  if (!name.empty()) {
    HostedPtr found = Find(name, version);
    return found ? Result<HostedPtr>(found) : std::unexpected(NoSuchModel(name));
  }
  HostedPtr found = Default();
  if (found) return found;
  if (models_.empty()) return Fail(ErrorCode::kNotFound, "no model is loaded; POST /models loads one");
  return Fail(
      ErrorCode::kInvalidArgument,
      "several models are here: name one by /predictions/NAME, ?model_name=NAME, or \"model\" in a body of "
      "OpenAI's; GET /models lists them");
}

// --- requests ---

Result<std::unique_ptr<Answering>> ModelHost::Begin(ServiceRequest request, std::function<void()> wake) {
  const RouteKind kind = request.route.kind;
  if (kind == RouteKind::kManagement) return Manage(request, std::move(wake));
  const bool in_path = kind == RouteKind::kPredictions || kind == RouteKind::kModelInvoke;
  ASSIGN_OR_RETURN(const HostedPtr hosted, in_path ? FindByPath(request.route.rest) : FindByRequest(request));
  if (!hosted->service || hosted->failure) return std::unexpected(NotReady(hosted->health()));
  ASSIGN_OR_RETURN(auto answering, hosted->service->Begin(std::move(request), std::move(wake)));
  return std::make_unique<ModelAnswering>(hosted, std::move(answering));
}

Result<std::unique_ptr<Answering>> ModelHost::Manage(const ServiceRequest& request,
                                                     std::function<void()> wake) {
  const std::string_view rest = request.route.rest;
  const auto at_once = [](Result<HttpAnswer> answer) -> Result<std::unique_ptr<Answering>> {
    RETURN_IF_ERROR(answer);
    return std::make_unique<ManagementAnswering>(*std::move(answer));
  };
  if (request.method == "GET" || request.method == "HEAD") {
    if (!rest.empty()) return at_once(DescribeOne(rest));
    ASSIGN_OR_RETURN(const ModelPage page, ParsePage(request.query));
    return at_once(List(page));
  }
  const bool known =
      rest.empty() ? request.method == "POST" : request.method == "PUT" || request.method == "DELETE";
  if (!known) {
    const char* takes = rest.empty() ? "GET, HEAD, POST" : "GET, HEAD, PUT, DELETE";
    HttpAnswer answer =
        ErrorAnswer(Dialect::kSageMaker,
                    {ErrorCode::kInvalidArgument, fmt::format("{} takes {}", request.path, takes)}, 405);
    answer.headers.emplace_back("Allow", takes);
    return at_once(std::move(answer));
  }
  const auto forbidden = [&](const char* why) {
    return at_once(ErrorAnswer(Dialect::kSageMaker, {ErrorCode::kPermissionDenied, why}, kForbidden));
  };
  if (!options_.management)
    return forbidden(
        "models are not loaded, changed or unloaded by request here; the server's operator allows it with "
        "--management on");
  // A page of another site that somebody on this host looks at can send requests, but not without this.
  if (!request.Header("Origin").empty()) return forbidden("models are not managed from web pages");
  if (request.method == "POST") return Register(request, std::move(wake));
  if (request.method == "PUT") return at_once(Tune(rest, request.query));
  return Unregister(rest, std::move(wake));
}

HttpAnswer ModelHost::List(ModelPage page) const {
  std::vector<ModelReport> reports;
  for (const HostedPtr& hosted : models_) {
    if (!hosted->leaving) reports.push_back(Report(*hosted));
  }
  std::ranges::stable_sort(reports, {}, &ModelReport::name);
  return ListModelReports(reports, page);
}

Result<HttpAnswer> ModelHost::DescribeOne(std::string_view rest) const {
  ASSIGN_OR_RETURN(const HostedPtr found, FindByPath(rest));
  if (options_.sagemaker_answers) return DescribeModelForSageMaker(Report(*found));
  std::vector<ModelReport> reports;
  for (const HostedPtr& hosted : VersionsMeant(rest, found)) reports.push_back(Report(*hosted));
  return DescribeModel(reports);
}

Result<HttpAnswer> ModelHost::Tune(std::string_view rest, std::string_view query) {
  ASSIGN_OR_RETURN(const ModelTuning tuning, ParseTuning(query));
  ASSIGN_OR_RETURN(const HostedPtr hosted, FindByPath(rest));
  if (!hosted->service) return std::unexpected(NotReady(hosted->health()));
  RETURN_IF_ERROR(hosted->service->Tune(tuning));
  ModelReport report;
  hosted->service->Describe(report);
  return StatusAnswer(fmt::format("Model {} has {} to {} workers.", Quoted(hosted->name()),
                                  report.min_workers, report.max_workers));
}

Result<std::unique_ptr<Answering>> ModelHost::Register(const ServiceRequest& request,
                                                       std::function<void()> wake) {
  ASSIGN_OR_RETURN(ModelRegistration registration, ParseRegistration(request.query, request.body));
  if (options_.url_pattern && !std::regex_match(registration.url, *options_.url_pattern))
    return Fail(ErrorCode::kInvalidArgument,
                "url: does not match model_url_pattern, which the operator has set");
  for (const HostedPtr& hosted : models_) {
    if (hosted->name() != registration.name || hosted->registration.version != registration.version) continue;
    if (!hosted->failure || hosted->leaving || hosted->at_startup)
      return Fail(ErrorCode::kAlreadyExists, "model {} is here already; DELETE /models/{} unloads it",
                  Quoted(hosted->name()), hosted->name());
    Leave(hosted);  // the failed one
    hosted->gone = true;
    models_.remove(hosted);
    break;
  }
  const bool synchronous = registration.synchronous;
  const HostedPtr hosted = Add(std::move(registration));
  spdlog::info("model {} is asked for: {}", hosted->name(), hosted->registration.url);
  PrepareNext();
  if (!synchronous) {
    return std::make_unique<ManagementAnswering>(
        StatusAnswer(fmt::format("Model {} registration scheduled.", Quoted(hosted->name())), kAccepted));
  }
  return std::make_unique<ManagementAnswering>(hosted, wake, [hosted]() -> std::optional<HttpAnswer> {
    if (hosted->leaving)
      return ErrorAnswer(Dialect::kSageMaker, {ErrorCode::kCancelled, "the model was unloaded meanwhile"},
                         409);
    if (!hosted->settled) return std::nullopt;
    if (hosted->failure) return ErrorAnswer(Dialect::kSageMaker, *hosted->failure);
    return StatusAnswer(fmt::format("Model {} registered.", Quoted(hosted->name())));
  });
}

Result<std::unique_ptr<Answering>> ModelHost::Unregister(std::string_view rest, std::function<void()> wake) {
  ASSIGN_OR_RETURN(const HostedPtr found, FindByPath(rest));
  std::vector<HostedPtr> versions = VersionsMeant(rest, found);
  for (const HostedPtr& hosted : versions) {
    Leave(hosted);
    hosted->Wake();
  }
  // The last to go wakes the answer; an earlier one finds it waiting still.
  for (const HostedPtr& hosted : versions) {
    if (hosted != found) hosted->waiting.push_back(wake);
  }
  const std::string name = found->name();
  return std::make_unique<ManagementAnswering>(
      found, wake, [versions = std::move(versions), name]() -> std::optional<HttpAnswer> {
        if (!std::ranges::all_of(versions, &Hosted::gone)) return std::nullopt;
        return StatusAnswer(fmt::format("Model {} unregistered.", Quoted(name)));
      });
}

ModelReport ModelHost::Report(const Hosted& hosted) const {
  ModelReport report;
  report.name = hosted.name();
  report.version = hosted.registration.version;
  report.url = hosted.registration.url;
  report.loaded_at_startup = hosted.at_startup;
  report.memory_bytes = hosted.memory_bytes;
  report.started_s = hosted.registered_s;
  const ServiceHealth health = hosted.health();
  report.detail = health.detail;
  switch (health.state) {
    case ServiceState::kLoading:
      report.state = ModelState::kPending;
      break;
    case ServiceState::kReady:
      report.state = ModelState::kReady;
      break;
    case ServiceState::kRestarting:
      report.state = ModelState::kUnhealthy;
      break;
    case ServiceState::kFailed:
      report.state = ModelState::kFailed;
      break;
  }
  if (hosted.service) hosted.service->Describe(report);
  return report;
}

// --- all of them ---

// Models that were asked for later say nothing of whether the server is up.
ServiceHealth ModelHost::health() const {
  std::vector<ServiceHealth> at_startup;
  std::string loading;
  bool one_serves = false;
  for (const HostedPtr& hosted : models_) {
    if (hosted->leaving) continue;
    const ServiceHealth health = hosted->health();
    one_serves = one_serves || health.state == ServiceState::kReady;
    if (!hosted->at_startup) continue;
    at_startup.push_back(health);
    if (health.state != ServiceState::kReady)
      loading += fmt::format("{}{}: {}", loading.empty() ? "" : "; ", hosted->name(), health.detail);
  }
  if (stopped_) return {ServiceState::kFailed, 0, "the server is shutting down", ErrorCode::kUnavailable};
  if (at_startup.size() == 1) return at_startup.front();
  ServiceHealth all{ServiceState::kReady, 1, loading.empty() ? "ready" : loading, {}};
  double progress = 0;
  for (const ServiceHealth& health : at_startup) {
    progress += health.progress;
    if (health.state == ServiceState::kFailed) {
      all.state = ServiceState::kFailed;
    } else if (all.state != ServiceState::kFailed && health.state == ServiceState::kLoading) {
      all.state = ServiceState::kLoading;
    } else if (all.state == ServiceState::kReady && health.state == ServiceState::kRestarting &&
               !one_serves) {
      all.state = ServiceState::kRestarting;
    }
  }
  if (!at_startup.empty()) all.progress = progress / static_cast<double>(at_startup.size());
  return all;
}

Result<HttpAnswer> ModelHost::ListModels() const {
  std::vector<ModelInfo> infos;
  for (const HostedPtr& hosted : models_) {
    if (hosted->leaving || !hosted->service) continue;
    if (auto info = hosted->service->info()) infos.push_back(*std::move(info));
  }
  if (infos.empty() && !models_.empty()) return std::unexpected(NotReady(models_.front()->health()));
  return bloomery::ListModels(infos, UnixTime());
}

void ModelHost::SetMetrics() const {
  for (const HostedPtr& hosted : models_) {
    if (hosted->service) hosted->service->SetMetrics();
  }
}

}  // namespace bloomery
