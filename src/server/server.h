// The HTTP server: one io thread, asynchronous throughout, never computing. Routes and dialects come from
// router.h and api/.
#pragma once

#include <boost/asio.hpp>

#include <cstdint>
#include <functional>
#include <memory>

#include "base/result.h"
#include "server/auth.h"
#include "server/metrics.h"
#include "server/options.h"
#include "server/service.h"

namespace bloomery {

// Everything runs on the io_context's one thread. All but the options must outlive the server.
class Server {
 public:
  Server(boost::asio::io_context& io, Service& service, Metrics& metrics, ServerOptions options);

  // Binds and starts to accept; the port that was bound.
  Result<std::uint16_t> Start();

  // Accepts nothing new, /ping says 503, and lets what is in progress end; then, or after the drain time-out,
  // calls `drained` once.
  void Drain(std::function<void()> drained);

  // --- for connections ---
  const ServerOptions& options() const { return options_; }
  Service& service() { return service_; }
  Metrics& metrics() { return metrics_; }
  const ApiKeys& keys() const { return keys_; }
  bool draining() const { return draining_; }
  std::size_t open_exchanges() const { return open_exchanges_; }
  void ExchangeOpened() { ++open_exchanges_; }
  void ExchangeClosed();
  void ConnectionClosed() { --open_connections_; }
  std::string NextRequestId();

 private:
  boost::asio::awaitable<void> AcceptLoop();
  void FinishDrain();

  boost::asio::io_context& io_;
  Service& service_;
  const ServerOptions options_;
  const ApiKeys keys_;
  Metrics& metrics_;
  boost::asio::ip::tcp::acceptor acceptor_;
  boost::asio::steady_timer drain_timer_;
  std::function<void()> drained_;
  bool draining_ = false;
  std::size_t open_exchanges_ = 0;
  int open_connections_ = 0;
  std::uint64_t next_request_ = 0;
  const std::uint64_t run_id_;  // tells apart the ids of two runs
};

}  // namespace bloomery
