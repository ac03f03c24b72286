#include "server/handler_service.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <deque>

#include "api/dialects.h"
#include "api/errors.h"
#include "api/query.h"
#include "base/log.h"
#include "base/utf8.h"

namespace bloomery {
namespace {

constexpr std::string_view kCustomAttributes = "X-Amzn-SageMaker-Custom-Attributes";
constexpr int kHandlerFailed = 424;
constexpr int kTimedOut = 504;

std::string Lower(std::string_view text) {
  std::string lower(text);
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return lower;
}

// Calls `take` with each "name=value" between semicolons.
template <typename Take>
void ForEachAttribute(std::string_view text, Take take) {
  while (!text.empty()) {
    const std::string_view pair = text.substr(0, text.find(';'));
    text.remove_prefix(std::min(pair.size() + 1, text.size()));
    const std::size_t equals = std::min(pair.find('='), pair.size());
    if (equals > 0) take(pair.substr(0, equals), pair.substr(std::min(equals + 1, pair.size())));
  }
}

std::string_view Trim(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return text;
}

bool IsHeaderName(std::string_view name) {
  return !name.empty() && std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 ||
           std::string_view("!#$%&'*+-.^_`|~").find(static_cast<char>(c)) != std::string_view::npos;
  });
}

// No line may end in it: a handler's property is not to begin another header, or another answer.
bool IsHeaderValue(std::string_view value) {
  return std::all_of(value.begin(), value.end(),
                     [](unsigned char c) { return c == '\t' || (c >= 0x20 && c != 0x7F); });
}

// How an answer is sent is the server's business.
bool IsOurs(std::string_view lower_name) {
  constexpr std::array<std::string_view, 8> kOurs = {"connection", "content-length", "date",
                                                     "keep-alive", "server",         "transfer-encoding",
                                                     "upgrade",    "x-request-id"};
  return std::find(kOurs.begin(), kOurs.end(), lower_name) != kOurs.end();
}

HttpAnswer FailureAnswer(const HandlerFailed& failed) {
  if (!failed.by_handler) return ErrorAnswer(Dialect::kSageMaker, failed.error);
  HttpAnswer answer;
  answer.status = failed.error.code == ErrorCode::kDeadlineExceeded ? kTimedOut : kHandlerFailed;
  answer.body = json::serialize(json::object{{"code", answer.status},
                                             {"message", "prediction failure"},
                                             {"error", ReplaceInvalidUtf8(failed.error.message)}});
  return answer;
}

class HandlerAnswering final : public Answering {
 public:
  HandlerAnswering(HandlerPool& pool, ModelMetrics& metrics, HandlerRequest request,
                   std::function<void()> wake)
      : pool_(pool), metrics_(metrics), started_(std::chrono::steady_clock::now()) {
    id_ = pool_.Submit(std::move(request), [this, wake = std::move(wake)](HandlerEvent event) {
      events_.push_back(std::move(event));
      wake();
    });
  }
  ~HandlerAnswering() override { pool_.Cancel(id_); }

  bool pending() const override { return !events_.empty(); }
  bool finished() const override { return finished_; }
  bool failed() const override { return failure_.has_value(); }
  bool error_in_stream() const override { return false; }

  std::string Take() override {
    HandlerEvent event = std::move(events_.front());
    events_.pop_front();
    if (auto* head = std::get_if<HandlerHead>(&event)) {
      streamed_ = head->streamed;
      head_ = ToHttpAnswer(*head);
    } else if (auto* data = std::get_if<HandlerData>(&event)) {
      if (streamed_) return std::move(data->bytes);
      body_ += data->bytes;
    } else if (auto* done = std::get_if<HandlerDone>(&event)) {
      finished_ = true;
      if (!done->error.empty()) return Break({{ErrorCode::kInternal, std::move(done->error)}, true});
    } else {
      finished_ = true;
      return Break(std::get<HandlerFailed>(std::move(event)));
    }
    return {};
  }

  HttpAnswer StreamHead() const override { return head_; }
  HttpAnswer Answer() override {
    if (failure_) return FailureAnswer(*failure_);
    HttpAnswer answer = std::move(head_);
    const bool bodiless = answer.status == 204 || answer.status == 205 || answer.status == 304;
    if (!bodiless) answer.body = std::move(body_);
    return answer;
  }

  void Observe() const override {
    if (finished_ && !failure_) metrics_.ObserveLatency(std::chrono::steady_clock::now() - started_);
  }
  json::object LogFields() const override { return {{"model", pool_.options().launch.name}}; }

 private:
  // A stream of lines gets a last one that says why; any other is cut off.
  std::string Break(HandlerFailed failure) {
    failure_ = std::move(failure);
    const bool lines = streamed_ && head_.content_type.find("jsonlines") != std::string::npos;
    return lines ? FailureAnswer(*failure_).body + "\n" : std::string();
  }

  HandlerPool& pool_;
  ModelMetrics& metrics_;
  const std::chrono::steady_clock::time_point started_;
  std::uint64_t id_ = 0;
  std::deque<HandlerEvent> events_;
  HttpAnswer head_;
  std::string body_;  // of an answer that is not streamed
  std::optional<HandlerFailed> failure_;
  bool streamed_ = false;
  bool finished_ = false;
};

}  // namespace

HandlerRequest ToHandlerRequest(ServiceRequest request) {
  HandlerRequest made;
  for (const auto& [name, value] : request.headers) made.properties.emplace_back(name, value);
  if (request.Header("x-request-id").empty()) made.properties.emplace_back("x-request-id", request.id);
  ForEachAttribute(request.Header(kCustomAttributes), [&](std::string_view name, std::string_view value) {
    made.properties.emplace_back(Trim(name), Trim(value));
  });
  made.content = ParseQuery(request.query);
  if (!request.body.empty()) made.content.emplace_back("data", std::move(request.body));
  return made;
}

HttpAnswer ToHttpAnswer(const HandlerHead& head) {
  constexpr int kLeast = 200;
  constexpr int kMost = 599;
  HttpAnswer answer;
  answer.status = head.status >= kLeast && head.status <= kMost ? head.status : 500;
  answer.content_type.clear();
  for (const auto& [name, value] : head.properties) {
    const std::string lower = Lower(name);
    if (!IsHeaderName(name) || !IsHeaderValue(value)) {
      spdlog::warn("a handler's property is no HTTP header and is left out");
    } else if (lower == "content-type") {
      answer.content_type = value;
    } else if (!IsOurs(lower)) {
      answer.headers.emplace_back(name, value);
    }
  }
  return answer;
}

HandlerService::HandlerService(boost::asio::io_context& io, HandlerOptions options,
                               std::chrono::milliseconds request_timeout, ModelMetrics& metrics)
    : pool_(io, std::move(options)), request_timeout_(request_timeout), metrics_(metrics) {}

ServiceHealth HandlerService::health() const {
  using State = HandlerPool::State;
  ServiceHealth health;
  health.detail = pool_.status_text();
  switch (pool_.state()) {
    case State::kReady:
      health.state = ServiceState::kReady;
      health.progress = 1;
      break;
    case State::kFailed:
      health.state = ServiceState::kFailed;
      break;
    default:
      health.state = pool_.was_ready() ? ServiceState::kRestarting : ServiceState::kLoading;
  }
  return health;
}

std::optional<ModelInfo> HandlerService::info() const {
  if (!pool_.was_ready()) return std::nullopt;
  ModelInfo model;
  model.name = pool_.options().launch.name;
  return model;
}

void HandlerService::SetMetrics() const {
  EngineStats stats;
  stats.queued_requests = static_cast<decltype(stats.queued_requests)>(pool_.queued());
  metrics_.SetLoad(stats, pool_.in_flight(), pool_.restarts(), pool_.state() == HandlerPool::State::kReady);
  metrics_.SetHandlerWorkers(pool_.workers());
}

Result<std::unique_ptr<Answering>> HandlerService::Begin(ServiceRequest request, std::function<void()> wake) {
  const RouteKind kind = request.route.kind;
  if (kind != RouteKind::kPredictions && kind != RouteKind::kInvocations && kind != RouteKind::kModelInvoke)
    return Fail(ErrorCode::kNotFound, "this model is a model.py: it answers /invocations and /predictions/{}",
                pool_.options().launch.name);
  const ServiceHealth now = health();
  // Workers that are being restarted have a queue; one that never came up, or never will, has none.
  if (now.state == ServiceState::kLoading || now.state == ServiceState::kFailed)
    return std::unexpected(NotReady(now));
  HandlerRequest made = ToHandlerRequest(std::move(request));
  made.deadline_ms = request_timeout_.count();
  return std::make_unique<HandlerAnswering>(pool_, metrics_, std::move(made), std::move(wake));
}

void HandlerService::Describe(ModelReport& report) const {
  const HandlerOptions& options = pool_.options();
  report.batch_size = options.batch_size;
  report.max_batch_delay_ms = options.max_batch_delay.count();
  report.max_idle_time_s = std::chrono::duration_cast<std::chrono::seconds>(options.max_idle_time).count();
  report.queue_size = static_cast<std::size_t>(options.job_queue_size);
  report.queued = pool_.queued();
  report.min_workers = options.min_workers;
  report.max_workers = options.max_workers;
  for (const HandlerPool::WorkerStatus& worker : pool_.worker_statuses())
    report.workers.push_back({worker.pid, worker.serves});
}

Status HandlerService::Tune(const ModelTuning& tuning) {
  const HandlerOptions& now = pool_.options();
  const int min_workers = tuning.min_workers.value_or(now.min_workers);
  const int max_workers = tuning.max_workers.value_or(std::max(now.max_workers, min_workers));
  if (max_workers < min_workers)
    return Fail(ErrorCode::kInvalidArgument, "max_worker {} is less than min_worker, which is {}",
                max_workers, min_workers);
  const auto milliseconds = [](const std::optional<int>& given, int unit,
                               std::chrono::milliseconds otherwise) {
    return given ? std::chrono::milliseconds(std::int64_t{*given} * unit) : otherwise;
  };
  pool_.Tune({.batch_size = tuning.batch_size.value_or(now.batch_size),
              .max_batch_delay = milliseconds(tuning.max_batch_delay_ms, 1, now.max_batch_delay),
              .min_workers = min_workers,
              .max_workers = max_workers,
              .max_idle_time = milliseconds(tuning.max_idle_time_s, 1000, now.max_idle_time),
              .job_queue_size = tuning.job_queue_size.value_or(now.job_queue_size)});
  return {};
}

}  // namespace bloomery
