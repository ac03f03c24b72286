// What the gateway and the process of a model.py say to each other: binary frames. Byte table:
// docs/formats/handler-protocol.md. Left out: the sockets themselves.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/result.h"

namespace bloomery {

using HandlerProperties = std::vector<std::pair<std::string, std::string>>;

// A request as a handler sees it.
struct HandlerRequest {
  HandlerProperties properties;
  std::vector<std::pair<std::string, std::string>> content;  // key (empty: none) and bytes
  std::int64_t deadline_ms = 0;                              // in the queue; 0: the pool's own

  std::size_t bytes() const;
};

struct HandlerHello {
  int rank = 0;
  int pid = 0;
};
struct HandlerReady {};
struct HandlerLoadFailed {
  std::string why;
};
struct HandlerHead {
  int status = 200;
  bool streamed = false;
  HandlerProperties properties;
};
struct HandlerData {
  std::string bytes;
};
struct HandlerDone {
  std::string error;  // why a stream broke off; empty: it did not
};
// How a call of one or more requests ended.
enum class CallOutcome : std::uint8_t {
  kAnswered = 0,    // every request
  kTryAlone = 1,    // none: the batch failed, which may be one request's doing
  kOneForMany = 2,  // none: the handler takes a batch for one request
};
struct HandlerCalled {
  CallOutcome outcome = CallOutcome::kAnswered;
};
// head, data … and done of one request.
struct HandlerPiece {
  std::uint64_t request_id = 0;
  std::variant<HandlerHead, HandlerData, HandlerDone> piece;
};
using HandlerMessage =
    std::variant<HandlerHello, HandlerReady, HandlerLoadFailed, HandlerPiece, HandlerCalled>;

// Whole frames to a handler.
std::string EncodeLoad(const HandlerProperties& options);
std::string EncodePredict(const std::vector<std::pair<std::uint64_t, const HandlerRequest*>>& requests);
std::string EncodeCancel(std::uint64_t request_id);

// Of all requests of one call: what a frame's length can tell, with room for its headers.
inline constexpr std::size_t kMaxCallBytes = 0xF000'0000;

// Cuts frames out of what a handler sends. Used by one thread at a time.
class HandlerFrameReader {
 public:
  void Append(std::string_view bytes) { buffer_.append(bytes); }
  // The next message, nullopt when more bytes are needed, an error when the stream is not ours.
  Result<std::optional<HandlerMessage>> Next();

 private:
  std::string buffer_;
  std::size_t used_ = 0;  // bytes of buffer_ already handed out
};

}  // namespace bloomery
