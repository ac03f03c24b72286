// What the gateway and an engine process say to each other over a Unix stream socket: framed JSON messages.
// Byte table and message list: docs/formats/worker-protocol.md. Left out: the sockets themselves.
//
//   gateway ──▶ engine:  submit, cancel
//   engine ──▶ gateway:  progress …, then ready or load_failed; event …; stats …
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "base/result.h"
#include "engine/request.h"

namespace bloomery {

struct SubmitMessage {
  GenerationRequest request;
};
struct CancelMessage {
  std::uint64_t request_id = 0;
};
struct ProgressMessage {
  double fraction = 0;
  std::string what;
};
struct ReadyMessage {
  ModelInfo info;
  double load_s = 0;
};
struct LoadFailedMessage {
  Error error;
};
struct EventMessage {
  std::uint64_t request_id = 0;
  GenerationEvent event;
};
struct StatsMessage {
  EngineStats stats;
};

using WorkerMessage = std::variant<SubmitMessage, CancelMessage, ProgressMessage, ReadyMessage,
                                   LoadFailedMessage, EventMessage, StatsMessage>;

inline constexpr std::size_t kFrameHeaderBytes = 8;
// A prompt of a million tokens as ids, with room to spare; a larger frame is a broken peer.
inline constexpr std::size_t kMaxFrameBytes = 64U << 20U;

// A whole frame: header and payload.
std::string EncodeFrame(const WorkerMessage& message);

// Cuts frames out of a byte stream. Used by one thread at a time.
class FrameReader {
 public:
  void Append(std::string_view bytes) { buffer_.append(bytes); }
  // The next message, nullopt when more bytes are needed, an error when the stream is not ours.
  Result<std::optional<WorkerMessage>> Next();

 private:
  std::string buffer_;
  std::size_t used_ = 0;  // bytes of buffer_ already handed out
};

}  // namespace bloomery
