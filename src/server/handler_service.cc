#include "server/handler_service.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <deque>

#include "api/dialects.h"
#include "api/errors.h"
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

// Of a query: "%2F" and "+"; what is no escape stays as it is.
std::string Unescape(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto hex = [&](std::size_t at) {
      return at < text.size() && std::isxdigit(static_cast<unsigned char>(text[at])) != 0;
    };
    if (text[i] == '%' && hex(i + 1) && hex(i + 2)) {
      out += static_cast<char>(std::stoi(std::string(text.substr(i + 1, 2)), nullptr, 16));
      i += 2;
    } else {
      out += text[i] == '+' ? ' ' : text[i];
    }
  }
  return out;
}

// Calls `take` with each "name=value" between `separator`s.
template <typename Take>
void ForEachPair(std::string_view text, char separator, Take take) {
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(separator), text.size());
    const std::string_view pair = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
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
  HandlerAnswering(HandlerPool& pool, std::string model, HandlerRequest request, std::function<void()> wake)
      : pool_(pool), model_(std::move(model)), started_(std::chrono::steady_clock::now()) {
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

  void Observe(Metrics& metrics) const override {
    if (finished_ && !failure_) metrics.ObserveLatency(std::chrono::steady_clock::now() - started_);
  }
  json::object LogFields() const override { return {{"model", model_}}; }

 private:
  // A stream of lines gets a last one that says why; any other is cut off.
  std::string Break(HandlerFailed failure) {
    failure_ = std::move(failure);
    const bool lines = streamed_ && head_.content_type.find("jsonlines") != std::string::npos;
    return lines ? FailureAnswer(*failure_).body + "\n" : std::string();
  }

  HandlerPool& pool_;
  const std::string model_;
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
  ForEachPair(request.Header(kCustomAttributes), ';', [&](std::string_view name, std::string_view value) {
    made.properties.emplace_back(Trim(name), Trim(value));
  });
  ForEachPair(request.query, '&', [&](std::string_view name, std::string_view value) {
    made.content.emplace_back(Unescape(name), Unescape(value));
  });
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

HandlerService::HandlerService(HandlerPool& pool, std::string name, std::chrono::milliseconds request_timeout)
    : pool_(pool), name_(std::move(name)), request_timeout_(request_timeout) {}

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

Result<HttpAnswer> HandlerService::ListModels() const {
  ModelInfo model;
  model.name = name_;
  return bloomery::ListModels(model, UnixTime());
}

void HandlerService::SetMetrics(Metrics& metrics) const {
  EngineStats stats;
  stats.queued_requests = static_cast<decltype(stats.queued_requests)>(pool_.queued());
  metrics.SetLoad(stats, pool_.in_flight(), pool_.restarts(), pool_.state() == HandlerPool::State::kReady);
  metrics.SetHandlerWorkers(pool_.workers());
}

Result<std::unique_ptr<Answering>> HandlerService::Begin(ServiceRequest request, std::function<void()> wake) {
  if (request.route.kind == RouteKind::kPredictions) {
    if (request.route.rest != name_)
      return Fail(ErrorCode::kNotFound, "model \"{}\" is not here", request.route.rest);
  } else if (request.route.kind != RouteKind::kInvocations) {
    return Fail(ErrorCode::kNotFound, "this model is a model.py: it answers /invocations and /predictions/{}",
                name_);
  }
  const ServiceHealth now = health();
  // Workers that are being restarted have a queue; one that never came up, or never will, has none.
  if (now.state == ServiceState::kLoading || now.state == ServiceState::kFailed)
    return std::unexpected(NotReady(now));
  HandlerRequest made = ToHandlerRequest(std::move(request));
  made.deadline_ms = request_timeout_.count();
  return std::make_unique<HandlerAnswering>(pool_, name_, std::move(made), std::move(wake));
}

}  // namespace bloomery
