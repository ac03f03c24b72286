#include "server/connection.h"

#include <sys/socket.h>

#include <boost/beast.hpp>

#include <algorithm>
#include <cctype>
#include <chrono>
#include <cmath>

#include "api/errors.h"
#include "base/log_event.h"
#include "base/utf8.h"
#include "server/router.h"
#include "server/service.h"

namespace bloomery {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using asio::ip::tcp;
using Request = http::request<http::string_body>;
using Clock = std::chrono::steady_clock;

constexpr auto kAwait = asio::as_tuple(asio::use_awaitable);
constexpr std::string_view kServerName = "bloomery";
constexpr std::size_t kMaxRequestIdBytes = 128;
constexpr std::size_t kMaxLoggedBodyBytes = 64U << 10U;

// Header values that go into logs and back to the client: printable, short, nothing to inject with.
bool IsPlainToken(std::string_view text) {
  return !text.empty() && text.size() <= kMaxRequestIdBytes &&
         std::all_of(text.begin(), text.end(), [](char c) { return c > 0x20 && c < 0x7F; });
}

std::string_view View(boost::core::string_view text) { return {text.data(), text.size()}; }

// Wakes the coroutine that answers: for what has happened, or a client that left. Shared with the callbacks,
// which may outlive the coroutine by a turn of the loop.
class Waker {
 public:
  explicit Waker(const asio::any_io_executor& executor) : timer_(executor, Clock::time_point::max()) {}

  void Wake() { timer_.cancel(); }
  void ClientLeft() {
    client_left_ = true;
    timer_.cancel();
  }
  bool client_left() const { return client_left_; }

  // Until there is something to take. False once the client has left.
  asio::awaitable<bool> Wait(const Answering& answering) {
    while (!answering.pending() && !client_left_) {
      timer_.expires_at(Clock::time_point::max());
      co_await timer_.async_wait(kAwait);
    }
    co_return !client_left_;
  }

 private:
  asio::steady_timer timer_;
  bool client_left_ = false;
};

// Waits until the socket can be read while nothing is expected: no data then means the client has gone. Data
// is the next request, sent early; the watch ends, and a client that leaves after that is noticed when we
// write.
asio::awaitable<void> WatchForLeaving(std::shared_ptr<beast::tcp_stream> stream,
                                      std::shared_ptr<Waker> waker) {
  const auto [error] = co_await stream->socket().async_wait(tcp::socket::wait_read, kAwait);
  if (error == asio::error::operation_aborted) co_return;
  char byte = 0;
  const bool open = !error && ::recv(stream->socket().native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
  if (!open) waker->ClientLeft();
}

class Connection {
 public:
  Connection(Server& server, tcp::socket socket)
      : server_(server), stream_(std::make_shared<beast::tcp_stream>(std::move(socket))) {}

  asio::awaitable<void> Run() {
    for (bool first = true;; first = false) {
      http::request_parser<http::string_body> parser;
      parser.header_limit(server_.options().max_header_bytes);
      parser.body_limit(server_.options().max_body_bytes);
      stream_->expires_after(first ? server_.options().header_timeout : server_.options().idle_timeout);
      // The idle time ends with the first byte of a request; its header then has its own limit.
      if (buffer_.size() == 0) {
        const auto [idle, count] = co_await stream_->async_read_some(buffer_.prepare(4096), kAwait);
        if (idle) break;
        buffer_.commit(count);
      }
      if (!co_await ReadAndAnswer(parser) || server_.draining()) break;
    }
    co_await Linger();
  }

 private:
  // Closing a socket with unread bytes resets it, and the client may lose the answer it was just sent: the
  // rest of a refused body is read and dropped, for a moment.
  asio::awaitable<void> Linger() {
    constexpr std::chrono::seconds kPatience{1};
    beast::error_code ignored;
    stream_->socket().shutdown(tcp::socket::shutdown_send, ignored);
    stream_->expires_after(kPatience);
    for (;;) {
      buffer_.clear();
      const auto [error, count] = co_await stream_->async_read_some(buffer_.prepare(65536), kAwait);
      if (error) co_return;
    }
  }

  // One request. False when the connection is to be closed.
  asio::awaitable<bool> ReadAndAnswer(http::request_parser<http::string_body>& parser) {
    started_ = Clock::now();
    route_ = Route();
    request_id_ = server_.NextRequestId();
    method_.clear();
    path_.clear();
    stream_->expires_after(server_.options().header_timeout);
    const auto [header_error, header_bytes] =
        co_await http::async_read_header(*stream_, buffer_, parser, kAwait);
    if (header_error) co_return co_await RefuseUnread(header_error);
    TakeHeader(parser.get());
    // Credentials come before the body: a stranger cannot make us read 64 MiB.
    const Request& head = parser.get();
    if (route_.kind != RouteKind::kPing &&
        !server_.keys().Allows(View(head[http::field::authorization]), View(head["x-api-key"]))) {
      SetError({ErrorCode::kPermissionDenied, "a valid API key is needed: Authorization: Bearer KEY"});
      co_return co_await WritePending();
    }
    if (const auto length = parser.content_length(); length && *length > server_.options().max_body_bytes) {
      SetError(TooLarge());
      co_return co_await WritePending();
    }
    if (beast::iequals(head[http::field::expect], "100-continue")) {
      http::response<http::empty_body> go_on(http::status::continue_, 11);
      const auto [error, written] = co_await http::async_write(*stream_, go_on, kAwait);
      if (error) co_return false;
    }
    stream_->expires_after(server_.options().body_timeout);
    const auto [body_error, body_bytes] = co_await http::async_read(*stream_, buffer_, parser, kAwait);
    if (body_error) co_return co_await RefuseUnread(body_error);
    request_ = parser.release();
    keep_alive_ = request_.keep_alive();
    co_return co_await Dispatch();
  }

  void TakeHeader(const Request& head) {
    version_ = head.version();
    method_ = View(head.method_string());
    const std::string_view target = View(head.target());
    path_ = target.substr(0, target.find('?'));
    route_ = FindRoute(path_);
    for (const std::string_view name : {std::string_view(server_.options().request_id_header),
                                        std::string_view("X-Amzn-SageMaker-Inference-Id")}) {
      if (const std::string_view id = View(head[name]); IsPlainToken(id)) request_id_ = id;
    }
  }

  Error TooLarge() const {
    return {ErrorCode::kTooLarge, fmt::format("the request body is larger than the limit of {} bytes",
                                              server_.options().max_body_bytes)};
  }

  // A request that could not be read: answered where there is somebody who still reads.
  asio::awaitable<bool> RefuseUnread(beast::error_code error) {
    keep_alive_ = false;
    const bool gone = error == http::error::end_of_stream || error == http::error::partial_message ||
                      error == asio::error::connection_reset || error == asio::error::operation_aborted;
    // After a time-out Beast has closed the stream.
    if (gone || error == beast::error::timeout) co_return false;
    pending_ = UnreadAnswer(error);
    co_return co_await WritePending();
  }

  HttpAnswer UnreadAnswer(beast::error_code error) const {
    if (error == http::error::body_limit) return ErrorAnswer(route_.dialect, TooLarge());
    if (error == http::error::header_limit) {
      const std::uint32_t limit = server_.options().max_header_bytes;
      return ErrorAnswer(route_.dialect,
                         {ErrorCode::kTooLarge, fmt::format("the header is larger than {} bytes", limit)},
                         431);
    }
    return ErrorAnswer(route_.dialect,
                       {ErrorCode::kInvalidArgument, "malformed HTTP request: " + error.message()}, 400);
  }

  asio::awaitable<bool> Dispatch() {
    const bool reads = method_ == "GET" || method_ == "HEAD";
    if (route_.kind == RouteKind::kUnknown) {
      SetError({ErrorCode::kNotFound, fmt::format("no route {} {}", method_, path_)});
      co_return co_await WritePending();
    }
    if (!route_.method.empty() && (route_.method == "GET" ? !reads : method_ != route_.method)) {
      SetError({ErrorCode::kInvalidArgument, fmt::format("{} takes {}", path_, route_.method)}, 405);
      pending_.headers.emplace_back("Allow",
                                    route_.method == "GET" ? "GET, HEAD" : std::string(route_.method));
      co_return co_await WritePending();
    }
    switch (route_.kind) {
      case RouteKind::kPing:
        pending_ = Ping();
        co_return co_await WritePending();
      case RouteKind::kMetrics:
        pending_ = MetricsPage();
        co_return co_await WritePending();
      case RouteKind::kModels:
        if (auto models = server_.service().ListModels(); models) {
          pending_ = *std::move(models);
        } else {
          SetError(models.error());
        }
        co_return co_await WritePending();
      default:
        co_return co_await AnswerModelRequest();
    }
  }

  HttpAnswer Ping() const {
    const ServiceHealth health = server_.service().health();
    HttpAnswer answer;
    const char* status = "Healthy";
    if (server_.draining()) {
      answer.status = 503;
      status = "Draining";
    } else if (health.state == ServiceState::kFailed) {
      answer.status = 500;
      status = "Failed";
    } else if (health.state != ServiceState::kReady) {
      answer.status = 503;
      status = health.state == ServiceState::kRestarting ? "Restarting" : "Loading";
    }
    answer.body = json::serialize(json::object{
        {"status", status}, {"progress", health.progress}, {"detail", ReplaceInvalidUtf8(health.detail)}});
    return answer;
  }

  HttpAnswer MetricsPage() const {
    server_.service().SetMetrics();
    HttpAnswer answer;
    answer.content_type = "text/plain; version=0.0.4; charset=utf-8";
    answer.body = server_.metrics().Serialize();
    return answer;
  }

  ServiceRequest MakeServiceRequest() {
    ServiceRequest request;
    request.route = route_;
    request.method = method_;
    request.path = path_;
    const std::string_view target = View(request_.target());
    request.query = target.substr(std::min(path_.size() + 1, target.size()));
    for (const auto& field : request_) {
      // A key is for us, not for what answers.
      const bool key =
          field.name() == http::field::authorization || beast::iequals(field.name_string(), "x-api-key");
      if (!key || !server_.keys().required())
        request.headers.emplace_back(View(field.name_string()), View(field.value()));
    }
    request.salt =
        server_.keys().SaltOf(View(request_[http::field::authorization]), View(request_["x-api-key"]));
    request.body = std::move(request_.body());
    request.id = request_id_;
    request.created_s = UnixTime();
    return request;
  }

  asio::awaitable<bool> AnswerModelRequest() {
    if (server_.draining()) {
      SetError({ErrorCode::kUnavailable, "the server is shutting down"});
      co_return co_await WritePending();
    }
    if (server_.options().log_prompts) LogBody();
    const auto waker = std::make_shared<Waker>(stream_->get_executor());
    auto answering = server_.service().Begin(MakeServiceRequest(), [waker] { waker->Wake(); });
    if (!answering) {
      SetError(answering.error());
      co_return co_await WritePending();
    }
    asio::co_spawn(stream_->get_executor(), WatchForLeaving(stream_, waker), asio::detached);
    server_.ExchangeOpened();
    const bool keep = co_await Answer(**answering, *waker);
    // Ends the watch.
    beast::error_code ignored;
    stream_->socket().cancel(ignored);
    (*answering)->Observe();
    if (waker->client_left()) {
      server_.metrics().CountCancelled();
      LogRequest(499, answering->get());
    }
    answering->reset();
    server_.ExchangeClosed();
    co_return keep && !waker->client_left();
  }

  // Takes what happens until the answer is finished, streaming as it comes.
  asio::awaitable<bool> Answer(Answering& answering, Waker& waker) {
    bool streaming = false;
    while (!answering.finished()) {
      const bool here = co_await waker.Wait(answering);
      if (!here) co_return false;
      const std::string chunk = answering.Take();
      // Headers wait for the first bytes, so that an error before them keeps its status.
      if (chunk.empty() || (!streaming && answering.failed())) continue;
      if (!streaming) {
        pending_ = answering.StreamHead();
        const bool begun = co_await WriteStreamHeader();
        if (!begun) co_return Leave(waker);
      }
      streaming = true;
      if (!co_await WriteChunk(chunk)) co_return Leave(waker);
    }
    if (!streaming) {
      pending_ = answering.Answer();
      co_return co_await WritePending(&answering);
    }
    LogRequest(stream_status_, &answering);
    server_.metrics().CountResponse(stream_status_);
    // Without its last chunk, a client sees that a stream was cut off.
    if (answering.failed() && !answering.error_in_stream()) co_return false;
    const bool ended = co_await WriteLastChunk();
    co_return ended&& keep_alive_;
  }

  static bool Leave(Waker& waker) {
    waker.ClientLeft();
    return false;
  }

  // --- writing ---

  template <typename Body>
  void SetCommonHeaders(http::response<Body>& response) const {
    response.set(http::field::server, kServerName);
    response.set("x-request-id", request_id_);
    if (const auto attributes = request_["X-Amzn-SageMaker-Custom-Attributes"];
        IsPlainToken(View(attributes))) {
      response.set("X-Amzn-SageMaker-Custom-Attributes", attributes);
    }
  }

  template <typename Body>
  static void SetAnswerHeaders(const HttpAnswer& answer, http::response<Body>& response) {
    if (!answer.content_type.empty()) response.set(http::field::content_type, answer.content_type);
    for (const auto& [name, value] : answer.headers) response.set(name, value);
  }

  // Answers are put into pending_ and then written, in two statements: GCC 12 destroys temporaries in the
  // operand of a co_await twice (seen as a double free).
  void SetError(const Error& error, std::optional<int> status = std::nullopt) {
    keep_alive_ = false;  // the rest of a refused request may still be on its way
    pending_ = ErrorAnswer(route_.dialect, error, status);
  }

  asio::awaitable<bool> WritePending(const Answering* answering = nullptr) {
    HttpAnswer answer = std::move(pending_);
    http::response<http::string_body> response(static_cast<http::status>(answer.status), version_);
    SetCommonHeaders(response);
    SetAnswerHeaders(answer, response);
    const bool keep = keep_alive_ && answer.status < 400 && !server_.draining();
    response.keep_alive(keep);
    response.body() = std::move(answer.body);
    response.prepare_payload();
    if (method_ == "HEAD") response.body().clear();
    LogRequest(answer.status, answering);
    server_.metrics().CountResponse(answer.status);
    stream_->expires_after(server_.options().write_timeout);
    const auto [error, written] = co_await http::async_write(*stream_, response, kAwait);
    stream_->expires_never();
    co_return !error && keep;
  }

  asio::awaitable<bool> WriteStreamHeader() {
    const HttpAnswer head = std::move(pending_);
    stream_status_ = head.status;
    http::response<http::empty_body> response(static_cast<http::status>(head.status), version_);
    SetCommonHeaders(response);
    SetAnswerHeaders(head, response);
    response.set(http::field::cache_control, "no-cache");
    chunked_ = version_ >= 11;  // HTTP/1.0 has no chunks: the end of the connection ends the answer
    keep_alive_ = keep_alive_ && chunked_ && !server_.draining();
    response.keep_alive(keep_alive_);
    response.chunked(chunked_);
    http::response_serializer<http::empty_body> serializer(response);
    stream_->expires_after(server_.options().write_timeout);
    const auto [error, written] = co_await http::async_write_header(*stream_, serializer, kAwait);
    stream_->expires_never();
    co_return !error;
  }

  asio::awaitable<bool> WriteChunk(const std::string& chunk) {
    stream_->expires_after(server_.options().write_timeout);
    beast::error_code error;
    if (chunked_) {
      std::tie(error, std::ignore) =
          co_await asio::async_write(*stream_, http::make_chunk(asio::buffer(chunk)), kAwait);
    } else {
      std::tie(error, std::ignore) = co_await asio::async_write(*stream_, asio::buffer(chunk), kAwait);
    }
    stream_->expires_never();
    co_return !error;
  }

  asio::awaitable<bool> WriteLastChunk() {
    if (!chunked_) co_return false;
    stream_->expires_after(server_.options().write_timeout);
    const auto [error, written] = co_await asio::async_write(*stream_, http::make_chunk_last(), kAwait);
    stream_->expires_never();
    co_return !error;
  }

  // One line a request; never a prompt's text.
  void LogRequest(int status, const Answering* answering) const {
    const double ms = std::chrono::duration<double, std::milli>(Clock::now() - started_).count();
    const auto level = path_ == "/ping" || path_ == "/metrics" ? spdlog::level::debug : spdlog::level::info;
    if (!spdlog::should_log(level)) return;
    const std::string method = IsPlainToken(method_) ? method_ : "?";
    const std::string path = IsPlainToken(path_) ? path_ : "?";
    json::object fields{{"request_id", request_id_},
                        {"method", method},
                        {"path", path},
                        {"status", status},
                        {"ms", std::round(10 * ms) / 10}};
    std::string text = fmt::format("{} {} {} {} {:.1f} ms", request_id_, method, path, status, ms);
    if (answering != nullptr) {
      for (const auto& [key, value] : answering->LogFields()) {
        text += fmt::format(" {}={}", std::string_view(key), json::serialize(value));
        fields[key] = value;
      }
    }
    LogEvent(level, "request", fields, text);
  }

  // What --log-prompts asks for. In one line whatever the body holds.
  void LogBody() const {
    const std::string body = ReplaceInvalidUtf8(request_.body().substr(0, kMaxLoggedBodyBytes));
    LogEvent(spdlog::level::info, "body", {{"request_id", request_id_}, {"body", body}},
             fmt::format("{} body {}", request_id_, json::serialize(json::string(body))));
  }

  Server& server_;
  const std::shared_ptr<beast::tcp_stream> stream_;
  beast::flat_buffer buffer_;

  // Of the request being answered.
  HttpAnswer pending_;
  Clock::time_point started_;
  Request request_;
  Route route_;
  std::string method_;
  std::string path_;
  std::string request_id_;
  unsigned version_ = 11;
  bool keep_alive_ = false;
  bool chunked_ = true;
  int stream_status_ = 200;
};

}  // namespace

asio::awaitable<void> ServeConnection(Server& server, tcp::socket socket) {
  boost::system::error_code ignored;
  socket.set_option(tcp::no_delay(true), ignored);  // tokens are sent one by one
  Connection connection(server, std::move(socket));
  co_await connection.Run();
}

asio::awaitable<void> RefuseConnection(tcp::socket socket) {
  static constexpr std::string_view kAnswer =
      "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n";
  co_await asio::async_write(socket, asio::buffer(kAnswer), kAwait);
}

}  // namespace bloomery
