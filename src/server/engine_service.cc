#include "server/engine_service.h"

#include <deque>

namespace bloomery {
namespace {

class EngineAnswering final : public Answering {
 public:
  EngineAnswering(EngineClient& engine, ModelMetrics& metrics, std::unique_ptr<Exchange> exchange,
                  std::function<void()> wake)
      : engine_(engine), metrics_(metrics), exchange_(std::move(exchange)) {
    std::vector<GenerationRequest>& requests = exchange_->requests();
    for (std::size_t i = 0; i < requests.size(); ++i) {
      ids_.push_back(engine_.Submit(requests[i], [this, i, wake](const GenerationEvent& event) {
        events_.emplace_back(i, event);
        wake();
      }));
    }
  }
  // What is still being generated: for a client that left, or the other prompts of a body one of which
  // failed.
  ~EngineAnswering() override {
    for (const std::uint64_t id : ids_) engine_.Cancel(id);
  }

  bool pending() const override { return !events_.empty(); }
  std::string Take() override {
    const auto [index, event] = std::move(events_.front());
    events_.pop_front();
    return exchange_->Feed(index, event);
  }
  bool finished() const override { return exchange_->finished(); }
  bool failed() const override { return exchange_->error() != nullptr; }
  bool error_in_stream() const override { return true; }

  HttpAnswer StreamHead() const override {
    HttpAnswer head;
    head.content_type = exchange_->stream_content_type();
    return head;
  }
  HttpAnswer Answer() override { return exchange_->Answer(); }

  void Observe() const override {
    for (const Collected& one : exchange_->collected()) {
      if (one.done) metrics_.ObserveRequest(*one.done);
    }
  }
  json::object LogFields() const override {
    std::int64_t prompt_tokens = 0;
    std::int64_t generated_tokens = 0;
    for (const Collected& one : exchange_->collected()) {
      if (one.done) prompt_tokens += one.done->prompt_tokens;
      if (one.done) generated_tokens += one.done->generated_tokens;
    }
    return {{"model", engine_.info() ? engine_.info()->name : ""},
            {"prompt_tokens", prompt_tokens},
            {"generated_tokens", generated_tokens}};
  }

 private:
  EngineClient& engine_;
  ModelMetrics& metrics_;
  const std::unique_ptr<Exchange> exchange_;
  std::vector<std::uint64_t> ids_;
  std::deque<std::pair<std::size_t, GenerationEvent>> events_;
};

}  // namespace

EngineService::EngineService(boost::asio::io_context& io, EngineClient::Options engine,
                             const ServerOptions& options, ModelMetrics& metrics)
    : engine_(io, std::move(engine)),
      metrics_(metrics),
      batch_shape_(options.batch_shape),
      max_requests_(static_cast<std::size_t>(options.max_requests)),
      request_timeout_(options.request_timeout) {}

ServiceHealth EngineService::health() const {
  using State = EngineClient::State;
  ServiceHealth health;
  health.progress = engine_.progress();
  health.detail = engine_.status_text();
  if (engine_.state() == State::kFailed) {
    health.state = ServiceState::kFailed;
    health.failure = engine_.failure();
  } else if (engine_.state() == State::kReady) {
    health.state = ServiceState::kReady;
  } else {
    health.state = engine_.info() ? ServiceState::kRestarting : ServiceState::kLoading;
  }
  return health;
}

void EngineService::SetMetrics() const {
  metrics_.SetLoad(engine_.stats(), engine_.in_flight(), engine_.restarts(),
                   engine_.state() == EngineClient::State::kReady);
}

Result<std::unique_ptr<Exchange>> EngineService::MakeExchange(const ServiceRequest& request) const {
  using State = EngineClient::State;
  // An engine that is being restarted takes requests, and gets them when it is back.
  const bool usable =
      engine_.info() && engine_.state() != State::kFailed && engine_.state() != State::kStopped;
  if (!usable) return std::unexpected(NotReady(health()));
  const ApiRequest api{.path = request.path,
                       .content_type = request.Header("Content-Type"),
                       .accept = request.Header("Accept"),
                       .body = request.body,
                       .id = request.id,
                       .created_s = request.created_s};
  switch (request.route.kind) {
    case RouteKind::kCompletions:
      return MakeCompletion(api, *engine_.info());
    case RouteKind::kChatCompletions:
      return MakeChatCompletion(api, *engine_.info());
    case RouteKind::kGenerate:
      return MakeTgi(api, TgiMode::kGenerate);
    case RouteKind::kGenerateStream:
      return MakeTgi(api, TgiMode::kStream);
    case RouteKind::kTgiRoot:
      return MakeTgi(api, TgiMode::kByField);
    default:
      return MakeInvocation(api, *engine_.info(), batch_shape_);
  }
}

Result<std::unique_ptr<Answering>> EngineService::Begin(ServiceRequest request, std::function<void()> wake) {
  ASSIGN_OR_RETURN(std::unique_ptr<Exchange> exchange, MakeExchange(request));
  if (engine_.in_flight() + exchange->requests().size() > max_requests_) {
    return Fail(ErrorCode::kOverloaded, "{} requests are in progress already; try again later",
                engine_.in_flight());
  }
  for (GenerationRequest& one : exchange->requests()) {
    one.cache_salt = request.salt;
    one.deadline_ms = request_timeout_.count();
  }
  return std::make_unique<EngineAnswering>(engine_, metrics_, std::move(exchange), std::move(wake));
}

void EngineService::Describe(ModelReport& report) const {
  report.batch_size = engine_.info() ? engine_.info()->max_batch_size : 1;
  report.queue_size = max_requests_;
  report.queued = static_cast<std::size_t>(engine_.stats().queued_requests);
  if (engine_.pid() > 0)
    report.workers.push_back({engine_.pid(), engine_.state() == EngineClient::State::kReady});
}

Status EngineService::Tune(const ModelTuning& tuning) {
  if (tuning.min_workers.value_or(1) != 1 || tuning.max_workers.value_or(1) != 1)
    return Fail(ErrorCode::kInvalidArgument,
                "min_worker, max_worker: an engine is one worker, which computes requests together; a second "
                "would share the memory's bandwidth with it");
  if (tuning.job_queue_size) max_requests_ = static_cast<std::size_t>(*tuning.job_queue_size);
  return {};
}

}  // namespace bloomery
