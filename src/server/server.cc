#include "server/server.h"

#include <chrono>

#include "base/log.h"
#include "server/connection.h"

namespace bloomery {

namespace asio = boost::asio;
using asio::ip::tcp;

Server::Server(asio::io_context& io, Service& service, Metrics& metrics, ServerOptions options)
    : io_(io),
      service_(service),
      options_(std::move(options)),
      keys_(options_.api_keys),
      metrics_(metrics),
      acceptor_(io),
      drain_timer_(io),
      run_id_(static_cast<std::uint64_t>(std::chrono::system_clock::now().time_since_epoch().count())) {}

Result<std::uint16_t> Server::Start() {
  boost::system::error_code error;
  tcp::resolver resolver(io_);
  const auto endpoints =
      resolver.resolve(options_.host, std::to_string(options_.port), tcp::resolver::passive, error);
  if (error || endpoints.empty())
    return Fail(ErrorCode::kInvalidArgument, "--host {}: {}", options_.host, error.message());
  const tcp::endpoint endpoint = endpoints.begin()->endpoint();
  acceptor_.open(endpoint.protocol(), error);
  if (!error) acceptor_.set_option(asio::socket_base::reuse_address(true), error);
  if (!error) acceptor_.bind(endpoint, error);
  if (!error) acceptor_.listen(asio::socket_base::max_listen_connections, error);
  if (error)
    return Fail(ErrorCode::kIo, "cannot listen on {}:{}: {}", options_.host, options_.port, error.message());
  asio::co_spawn(io_, AcceptLoop(), asio::detached);
  return acceptor_.local_endpoint().port();
}

asio::awaitable<void> Server::AcceptLoop() {
  for (;;) {
    auto [error, socket] = co_await acceptor_.async_accept(asio::as_tuple(asio::use_awaitable));
    if (draining_ || error == asio::error::operation_aborted) co_return;
    if (error) {
      // Out of descriptors, most likely: without a pause this would spin.
      spdlog::warn("accept: {}", error.message());
      asio::steady_timer pause(io_, std::chrono::milliseconds(50));
      co_await pause.async_wait(asio::as_tuple(asio::use_awaitable));
      continue;
    }
    if (open_connections_ >= options_.max_connections) {
      asio::co_spawn(io_, RefuseConnection(std::move(socket)), asio::detached);
      continue;
    }
    ++open_connections_;
    asio::co_spawn(io_, ServeConnection(*this, std::move(socket)), [this](const std::exception_ptr& failure) {
      ConnectionClosed();
      if (!failure) return;
      try {
        std::rethrow_exception(failure);
      } catch (const std::exception& what) {
        spdlog::error("connection ended by an exception: {}", what.what());
      }
    });
  }
}

void Server::Drain(std::function<void()> drained) {
  if (draining_) return;
  draining_ = true;
  drained_ = std::move(drained);
  boost::system::error_code ignored;
  acceptor_.close(ignored);
  spdlog::info("draining: {} requests in progress, {} s at most", open_exchanges_,
               options_.drain_timeout.count() / 1000);
  drain_timer_.expires_after(options_.drain_timeout);
  drain_timer_.async_wait([this](boost::system::error_code error) {
    if (!error) FinishDrain();
  });
  if (open_exchanges_ == 0) FinishDrain();
}

void Server::ExchangeClosed() {
  --open_exchanges_;
  if (draining_ && open_exchanges_ == 0) FinishDrain();
}

void Server::FinishDrain() {
  drain_timer_.cancel();
  // Posted: the last answer's coroutine is still on the stack.
  if (drained_) asio::post(io_, std::exchange(drained_, nullptr));
}

std::string Server::NextRequestId() { return fmt::format("{:x}-{:x}", run_id_, ++next_request_); }

}  // namespace bloomery
