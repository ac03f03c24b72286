#include "worker/protocol.h"

#include <cstring>
#include <utility>

#include "worker/codec.h"

namespace bloomery {
namespace {

// First bytes of every frame: a peer of another kind or version is noticed at once.
constexpr std::uint16_t kMagic = 0x4c42;  // "BL"
constexpr std::uint8_t kVersion = 1;

enum class Kind : std::uint8_t { kSubmit = 1, kCancel, kProgress, kReady, kLoadFailed, kEvent, kStats };

struct Header {
  std::uint32_t payload_bytes = 0;
  std::uint16_t magic = kMagic;
  std::uint8_t version = kVersion;
  std::uint8_t kind = 0;
};
static_assert(sizeof(Header) == kFrameHeaderBytes);

struct Encoder {
  std::pair<Kind, json::object> operator()(const SubmitMessage& m) const {
    return {Kind::kSubmit, EncodeRequest(m.request)};
  }
  std::pair<Kind, json::object> operator()(const CancelMessage& m) const {
    return {Kind::kCancel, {{"id", m.request_id}}};
  }
  std::pair<Kind, json::object> operator()(const ProgressMessage& m) const {
    return {Kind::kProgress, {{"fraction", m.fraction}, {"what", m.what}}};
  }
  std::pair<Kind, json::object> operator()(const ReadyMessage& m) const {
    return {Kind::kReady, {{"info", EncodeInfo(m.info)}, {"load_s", m.load_s}}};
  }
  std::pair<Kind, json::object> operator()(const LoadFailedMessage& m) const {
    return {Kind::kLoadFailed, {{"code", ErrorCodeName(m.error.code)}, {"message", m.error.message}}};
  }
  std::pair<Kind, json::object> operator()(const EventMessage& m) const {
    return {Kind::kEvent, {{"id", m.request_id}, {"event", EncodeEvent(m.event)}}};
  }
  std::pair<Kind, json::object> operator()(const StatsMessage& m) const {
    return {Kind::kStats, EncodeStats(m.stats)};
  }
};

Result<std::uint64_t> Id(const json::object& payload) {
  const json::value* id = payload.if_contains("id");
  boost::system::error_code error;
  const auto number = id != nullptr ? id->to_number<std::uint64_t>(error) : 0;
  if (id == nullptr || error) return Fail(ErrorCode::kCorrupt, "a message without a request id");
  return number;
}

Result<const json::object*> Child(const json::object& payload, std::string_view name) {
  const json::value* value = payload.if_contains(name);
  if (value == nullptr || !value->is_object())
    return Fail(ErrorCode::kCorrupt, "a message without \"{}\"", name);
  return &value->get_object();
}

Result<WorkerMessage> DecodePayload(Kind kind, const json::object& payload) {
  switch (kind) {
    case Kind::kSubmit: {
      ASSIGN_OR_RETURN(GenerationRequest request, DecodeRequest(payload));
      return SubmitMessage{std::move(request)};
    }
    case Kind::kCancel: {
      ASSIGN_OR_RETURN(const std::uint64_t id, Id(payload));
      return CancelMessage{id};
    }
    case Kind::kProgress: {
      ASSIGN_OR_RETURN(const auto fraction, GetDouble(payload, "fraction"));
      ASSIGN_OR_RETURN(const auto what, GetString(payload, "what"));
      return ProgressMessage{fraction.value_or(0), what.value_or("")};
    }
    case Kind::kReady: {
      ASSIGN_OR_RETURN(const json::object* child, Child(payload, "info"));
      ASSIGN_OR_RETURN(ModelInfo info, DecodeInfo(*child));
      ASSIGN_OR_RETURN(const auto load_s, GetDouble(payload, "load_s"));
      return ReadyMessage{std::move(info), load_s.value_or(0)};
    }
    case Kind::kLoadFailed: {
      ASSIGN_OR_RETURN(const auto code, GetString(payload, "code"));
      ASSIGN_OR_RETURN(const auto message, GetString(payload, "message"));
      return LoadFailedMessage{{ErrorCodeFromName(code.value_or("")), message.value_or("")}};
    }
    case Kind::kEvent: {
      ASSIGN_OR_RETURN(const std::uint64_t id, Id(payload));
      ASSIGN_OR_RETURN(const json::object* child, Child(payload, "event"));
      ASSIGN_OR_RETURN(GenerationEvent event, DecodeEvent(*child));
      return EventMessage{id, std::move(event)};
    }
    case Kind::kStats: {
      ASSIGN_OR_RETURN(const EngineStats stats, DecodeStats(payload));
      return StatsMessage{stats};
    }
  }
  return Fail(ErrorCode::kCorrupt, "a message of unknown kind {}", static_cast<int>(kind));
}

}  // namespace

std::string EncodeFrame(const WorkerMessage& message) {
  const auto [kind, object] = std::visit(Encoder{}, message);
  const std::string payload = json::serialize(object);
  Header header;
  header.payload_bytes = static_cast<std::uint32_t>(payload.size());
  header.kind = static_cast<std::uint8_t>(kind);
  std::string frame(kFrameHeaderBytes, '\0');
  std::memcpy(frame.data(), &header, sizeof(header));
  return frame += payload;
}

Result<std::optional<WorkerMessage>> FrameReader::Next() {
  const std::string_view left = std::string_view(buffer_).substr(used_);
  Header header;
  if (left.size() >= sizeof(header)) {
    std::memcpy(&header, left.data(), sizeof(header));
    if (header.magic != kMagic || header.version != kVersion)
      return Fail(ErrorCode::kCorrupt, "not a frame of this protocol");
    if (header.payload_bytes > kMaxFrameBytes)
      return Fail(ErrorCode::kCorrupt, "a frame of {} bytes", header.payload_bytes);
  }
  if (left.size() < sizeof(header) + header.payload_bytes || left.size() < sizeof(header)) {
    buffer_.erase(0, std::exchange(used_, 0));
    return std::nullopt;
  }
  const std::string_view payload = left.substr(sizeof(header), header.payload_bytes);
  used_ += sizeof(header) + header.payload_bytes;
  ASSIGN_OR_RETURN(const json::value parsed, ParseJson(payload, "worker message"));
  if (!parsed.is_object()) return Fail(ErrorCode::kCorrupt, "a message that is no object");
  ASSIGN_OR_RETURN(WorkerMessage message, DecodePayload(static_cast<Kind>(header.kind), parsed.get_object()));
  return message;
}

}  // namespace bloomery
