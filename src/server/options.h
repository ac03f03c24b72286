// What an operator can set of the HTTP server.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "api/dialects.h"

namespace bloomery {

struct ServerOptions {
  std::string host = "127.0.0.1";
  std::uint16_t port = 8080;          // 0: any free one
  std::vector<std::string> api_keys;  // empty: no authentication
  BatchShape batch_shape = BatchShape::kPipeline;
  std::string request_id_header = "x-request-id";  // whose value becomes a request's id
  bool log_prompts = false;                        // the bodies of requests for the model go to the log

  std::uint32_t max_header_bytes = 16U << 10U;
  std::uint64_t max_body_bytes = 64U << 20U;
  int max_connections = 1024;
  int max_requests = 256;  // in flight or queued, over all connections
  std::chrono::milliseconds header_timeout{
      10'000};  // also the idle time between requests of a kept-alive connection is bounded:
  std::chrono::milliseconds idle_timeout{60'000};
  std::chrono::milliseconds body_timeout{60'000};
  std::chrono::milliseconds write_timeout{30'000};  // a reader slower than this loses its connection
  std::chrono::milliseconds request_timeout{0};     // deadline of a generation; 0: none
  std::chrono::milliseconds drain_timeout{28'000};  // after SIGTERM
};

}  // namespace bloomery
