#include "server/connection.h"

#include <sys/socket.h>

#include <boost/beast.hpp>

#include <algorithm>
#include <cctype>
#include <chrono>
#include <deque>

#include "base/log.h"
#include "server/router.h"

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

// Header values that go into logs and back to the client: printable, short, nothing to inject with.
bool IsPlainToken(std::string_view text) {
  return !text.empty() && text.size() <= kMaxRequestIdBytes &&
         std::all_of(text.begin(), text.end(), [](char c) { return c > 0x20 && c < 0x7F; });
}

std::string_view View(boost::core::string_view text) { return {text.data(), text.size()}; }

// Events of one exchange, from the engine client's callbacks to the coroutine that answers; and word of a
// client that left. Shared with the callbacks, which may outlive the coroutine by a turn of the loop.
class Mailbox {
 public:
  explicit Mailbox(const asio::any_io_executor& executor) : wake_(executor, Clock::time_point::max()) {}

  void Put(std::size_t index, GenerationEvent event) {
    events_.emplace_back(index, std::move(event));
    wake_.cancel();
  }
  void ClientLeft() {
    client_left_ = true;
    wake_.cancel();
  }
  bool client_left() const { return client_left_; }

  // The next event; nullopt once the client has left.
  asio::awaitable<std::optional<std::pair<std::size_t, GenerationEvent>>> Next() {
    while (events_.empty() && !client_left_) {
      wake_.expires_at(Clock::time_point::max());
      co_await wake_.async_wait(kAwait);
    }
    if (client_left_) co_return std::nullopt;
    auto next = std::move(events_.front());
    events_.pop_front();
    co_return next;
  }

 private:
  asio::steady_timer wake_;
  std::deque<std::pair<std::size_t, GenerationEvent>> events_;
  bool client_left_ = false;
};

// Waits until the socket can be read while nothing is expected: no data then means the client has gone. Data
// is the next request, sent early; the watch ends, and a client that leaves after that is noticed when we
// write.
asio::awaitable<void> WatchForLeaving(std::shared_ptr<beast::tcp_stream> stream,
                                      std::shared_ptr<Mailbox> mailbox) {
  const auto [error] = co_await stream->socket().async_wait(tcp::socket::wait_read, kAwait);
  if (error == asio::error::operation_aborted) co_return;
  char byte = 0;
  const bool open = !error && ::recv(stream->socket().native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
  if (!open) mailbox->ClientLeft();
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
    if (route_.method == "GET" ? !reads : method_ != route_.method) {
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
        if (server_.engine().info()) {
          pending_ = ListModels(*server_.engine().info(), UnixTime());
        } else {
          SetError(NotReady());
        }
        co_return co_await WritePending();
      default:
        co_return co_await Generate();
    }
  }

  HttpAnswer Ping() const {
    const EngineClient& engine = server_.engine();
    HttpAnswer answer;
    const char* status = "Healthy";
    if (server_.draining()) {
      answer.status = 503;
      status = "Draining";
    } else if (engine.state() == EngineClient::State::kFailed) {
      answer.status = 500;
      status = "Failed";
    } else if (engine.state() != EngineClient::State::kReady) {
      answer.status = 503;
      status = engine.info() ? "Restarting" : "Loading";
    }
    answer.body = json::serialize(
        json::object{{"status", status}, {"progress", engine.progress()}, {"detail", engine.status_text()}});
    return answer;
  }

  HttpAnswer MetricsPage() const {
    EngineClient& engine = server_.engine();
    server_.metrics().SetLoad(engine.stats(), engine.in_flight(), engine.restarts(),
                              engine.state() == EngineClient::State::kReady);
    HttpAnswer answer;
    answer.content_type = "text/plain; version=0.0.4; charset=utf-8";
    answer.body = server_.metrics().Serialize();
    return answer;
  }

  Error NotReady() const {
    const EngineClient& engine = server_.engine();
    return {ErrorCode::kUnavailable, fmt::format("the model is not ready ({:.0f}%): {}",
                                                 100 * engine.progress(), engine.status_text())};
  }

  static std::int64_t UnixTime() {
    return std::chrono::duration_cast<std::chrono::seconds>(
               std::chrono::system_clock::now().time_since_epoch())
        .count();
  }

  Result<std::unique_ptr<Exchange>> MakeExchange() const {
    const EngineClient& engine = server_.engine();
    const bool usable = engine.info() && (engine.state() == EngineClient::State::kReady ||
                                          engine.state() == EngineClient::State::kRestarting ||
                                          engine.state() == EngineClient::State::kLoading);
    if (server_.draining()) return Fail(ErrorCode::kUnavailable, "the server is shutting down");
    if (!usable) return std::unexpected(NotReady());
    const ApiRequest request{.path = path_,
                             .content_type = View(request_[http::field::content_type]),
                             .accept = View(request_[http::field::accept]),
                             .body = request_.body(),
                             .id = request_id_,
                             .created_s = UnixTime()};
    switch (route_.kind) {
      case RouteKind::kCompletions:
        return MakeCompletion(request, *engine.info());
      case RouteKind::kChatCompletions:
        return MakeChatCompletion(request, *engine.info());
      case RouteKind::kGenerate:
        return MakeTgi(request, TgiMode::kGenerate);
      case RouteKind::kGenerateStream:
        return MakeTgi(request, TgiMode::kStream);
      case RouteKind::kTgiRoot:
        return MakeTgi(request, TgiMode::kByField);
      case RouteKind::kPredictions:
        if (route_.rest != engine.info()->name)
          return Fail(ErrorCode::kNotFound, "model \"{}\" is not here", route_.rest);
        return MakeInvocation(request, *engine.info(), server_.options().batch_shape);
      default:
        return MakeInvocation(request, *engine.info(), server_.options().batch_shape);
    }
  }

  asio::awaitable<bool> Generate() {
    auto exchange = MakeExchange();
    if (!exchange) {
      SetError(exchange.error());
      co_return co_await WritePending();
    }
    std::vector<GenerationRequest>& requests = (*exchange)->requests();
    if (server_.engine().in_flight() + requests.size() >
        static_cast<std::size_t>(server_.options().max_requests)) {
      SetError({ErrorCode::kOverloaded, fmt::format("{} requests are in progress already; try again later",
                                                    server_.engine().in_flight())});
      co_return co_await WritePending();
    }
    const auto mailbox = std::make_shared<Mailbox>(stream_->get_executor());
    const std::uint64_t salt =
        server_.keys().SaltOf(View(request_[http::field::authorization]), View(request_["x-api-key"]));
    std::vector<std::uint64_t> ids;
    for (std::size_t i = 0; i < requests.size(); ++i) {
      requests[i].cache_salt = salt;
      requests[i].deadline_ms = server_.options().request_timeout.count();
      ids.push_back(server_.engine().Submit(
          requests[i], [mailbox, i](const GenerationEvent& event) { mailbox->Put(i, event); }));
    }
    asio::co_spawn(stream_->get_executor(), WatchForLeaving(stream_, mailbox), asio::detached);
    server_.ExchangeOpened();
    const bool keep = co_await Answer(**exchange, *mailbox);
    // Ends the watch, and whatever is still being generated: for a client that left, or the other prompts of
    // a body one of which failed.
    beast::error_code ignored;
    stream_->socket().cancel(ignored);
    for (const std::uint64_t id : ids) server_.engine().Cancel(id);
    if (mailbox->client_left()) {
      server_.metrics().CountCancelled();
      LogRequest(499, **exchange);
    }
    server_.ExchangeClosed();
    co_return keep && !mailbox->client_left();
  }

  // Feeds the events to the exchange until it is finished, streaming as they come.
  asio::awaitable<bool> Answer(Exchange& exchange, Mailbox& mailbox) {
    bool streaming = false;
    while (!exchange.finished()) {
      auto next = co_await mailbox.Next();
      if (!next) co_return false;
      if (const auto* done = std::get_if<DoneEvent>(&next->second)) server_.metrics().ObserveRequest(*done);
      const std::string chunk = exchange.Feed(next->first, next->second);
      // Headers wait for the first bytes, so that an error before them keeps its status.
      if (chunk.empty() || (!streaming && exchange.error() != nullptr)) continue;
      if (!streaming && !co_await WriteStreamHeader(exchange)) co_return Leave(mailbox);
      streaming = true;
      if (!co_await WriteChunk(chunk)) co_return Leave(mailbox);
    }
    if (!streaming) {
      pending_ = exchange.Answer();
      co_return co_await WritePending(&exchange);
    }
    const bool ended = co_await WriteLastChunk();
    LogRequest(200, exchange);
    server_.metrics().CountResponse(200);
    co_return ended&& keep_alive_;
  }

  static bool Leave(Mailbox& mailbox) {
    mailbox.ClientLeft();
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

  // Answers are put into pending_ and then written, in two statements: GCC 12 destroys temporaries in the
  // operand of a co_await twice (seen as a double free).
  void SetError(const Error& error, std::optional<int> status = std::nullopt) {
    keep_alive_ = false;  // the rest of a refused request may still be on its way
    pending_ = ErrorAnswer(route_.dialect, error, status);
  }

  asio::awaitable<bool> WritePending(const Exchange* exchange = nullptr) {
    HttpAnswer answer = std::move(pending_);
    http::response<http::string_body> response(static_cast<http::status>(answer.status), version_);
    SetCommonHeaders(response);
    response.set(http::field::content_type, answer.content_type);
    for (const auto& [name, value] : answer.headers) response.set(name, value);
    const bool keep = keep_alive_ && answer.status < 400 && !server_.draining();
    response.keep_alive(keep);
    response.body() = std::move(answer.body);
    response.prepare_payload();
    if (method_ == "HEAD") response.body().clear();
    LogRequest(answer.status, exchange);
    server_.metrics().CountResponse(answer.status);
    stream_->expires_after(server_.options().write_timeout);
    const auto [error, written] = co_await http::async_write(*stream_, response, kAwait);
    stream_->expires_never();
    co_return !error && keep;
  }

  asio::awaitable<bool> WriteStreamHeader(const Exchange& exchange) {
    http::response<http::empty_body> response(http::status::ok, version_);
    SetCommonHeaders(response);
    response.set(http::field::content_type, std::string(exchange.stream_content_type()));
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

  void LogRequest(int status, const Exchange& exchange) const { LogRequest(status, &exchange); }

  // One line a request; never a prompt's text.
  void LogRequest(int status, const Exchange* exchange) const {
    std::int64_t prompt_tokens = 0;
    std::int64_t generated_tokens = 0;
    if (exchange != nullptr) {
      for (const Collected& one : exchange->collected()) {
        if (one.done) prompt_tokens += one.done->prompt_tokens;
        if (one.done) generated_tokens += one.done->generated_tokens;
      }
    }
    const double ms = std::chrono::duration<double, std::milli>(Clock::now() - started_).count();
    const auto level = path_ == "/ping" || path_ == "/metrics" ? spdlog::level::debug : spdlog::level::info;
    spdlog::log(level, "{} {} {} {} {:.1f} ms {} prompt tokens {} generated", request_id_,
                IsPlainToken(method_) ? method_ : "?", IsPlainToken(path_) ? path_ : "?", status, ms,
                prompt_tokens, generated_tokens);
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
