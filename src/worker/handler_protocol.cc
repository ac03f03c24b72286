#include "worker/handler_protocol.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <type_traits>

namespace bloomery {
namespace {

constexpr std::size_t kHeaderBytes = 8;
constexpr std::size_t kMaxFrameBytes = 2U << 20U;
constexpr std::uint16_t kMagic = 0x4842;
constexpr std::uint8_t kVersion = 1;

enum class Kind : std::uint8_t {
  kLoad = 1,
  kPredict = 2,
  kCancel = 3,
  kHello = 11,
  kReady = 12,
  kLoadFailed = 13,
  kHead = 14,
  kData = 15,
  kDone = 16,
  kCalled = 17,
};

template <typename T>
void Put(T number, std::string& out) {
  for (std::size_t i = 0; i < sizeof(T); ++i)
    out += static_cast<char>((static_cast<std::uint64_t>(number) >> (8 * i)) & 0xFFU);
}

void PutBytes(std::string_view bytes, std::string& out) {
  Put(static_cast<std::uint32_t>(bytes.size()), out);
  out += bytes;
}

void PutMap(const HandlerProperties& pairs, std::string& out) {
  Put(static_cast<std::uint32_t>(pairs.size()), out);
  for (const auto& [key, value] : pairs) {
    PutBytes(key, out);
    PutBytes(value, out);
  }
}

// A frame that is being written: the length in its header is filled in at the end.
std::string BeginFrame(Kind kind) {
  std::string frame(4, '\0');
  Put(kMagic, frame);
  Put(kVersion, frame);
  Put(static_cast<std::uint8_t>(kind), frame);
  return frame;
}

std::string EndFrame(std::string frame) {
  std::string length;
  Put(static_cast<std::uint32_t>(frame.size() - kHeaderBytes), length);
  frame.replace(0, length.size(), length);
  return frame;
}

template <typename T>
T Number(std::string_view bytes) {
  std::uint64_t number = 0;
  for (std::size_t i = 0; i < sizeof(T); ++i)
    number |= static_cast<std::uint64_t>(static_cast<unsigned char>(bytes[i])) << (8 * i);
  return static_cast<T>(number);
}

std::unexpected<Error> NotOurs(std::string_view what) {
  return Fail(ErrorCode::kCorrupt, "sent what is not of the handler protocol: {}", what);
}

// Reads the fields of a payload in order; a field that is not there makes it bad, and all others empty.
class Fields {
 public:
  explicit Fields(std::string_view payload) : left_(payload) {}

  template <typename T>
  T Take() {
    if (left_.size() < sizeof(T)) return Bad<T>();
    const T number = Number<T>(left_);
    left_.remove_prefix(sizeof(T));
    return number;
  }

  std::string TakeBytes() {
    const auto size = Take<std::uint32_t>();
    if (left_.size() < size) return Bad<std::string>();
    std::string bytes(left_.substr(0, size));
    left_.remove_prefix(size);
    return bytes;
  }

  HandlerProperties TakeMap() {
    HandlerProperties pairs;
    for (auto left = Take<std::uint32_t>(); left > 0 && !bad_; --left) {
      std::string key = TakeBytes();
      pairs.emplace_back(std::move(key), TakeBytes());
    }
    return pairs;
  }

  bool ok() const { return !bad_ && left_.empty(); }

 private:
  template <typename T>
  T Bad() {
    bad_ = true;
    left_ = {};
    return T();
  }

  std::string_view left_;
  bool bad_ = false;
};

Result<HandlerMessage> Decode(Kind kind, std::string_view payload) {
  Fields fields(payload);
  HandlerMessage message;
  switch (kind) {
    case Kind::kHello: {
      const auto rank = fields.Take<std::uint32_t>();
      const auto pid = fields.Take<std::uint32_t>();
      constexpr std::uint32_t kMost = std::numeric_limits<int>::max();
      message = HandlerHello{static_cast<int>(std::min(rank, kMost)), static_cast<int>(std::min(pid, kMost))};
      break;
    }
    case Kind::kReady:
      message = HandlerReady{};
      break;
    case Kind::kLoadFailed:
      message = HandlerLoadFailed{fields.TakeBytes()};
      break;
    case Kind::kHead: {
      const auto id = fields.Take<std::uint64_t>();
      const auto status = fields.Take<std::uint32_t>();
      const bool streamed = fields.Take<std::uint32_t>() != 0;
      constexpr std::uint32_t kMostStatus = 999;
      message = HandlerPiece{
          id, HandlerHead{static_cast<int>(std::min(status, kMostStatus)), streamed, fields.TakeMap()}};
      break;
    }
    case Kind::kData: {
      const auto id = fields.Take<std::uint64_t>();
      message = HandlerPiece{id, HandlerData{fields.TakeBytes()}};
      break;
    }
    case Kind::kDone: {
      const auto id = fields.Take<std::uint64_t>();
      message = HandlerPiece{id, HandlerDone{fields.TakeBytes()}};
      break;
    }
    case Kind::kCalled: {
      const auto outcome = fields.Take<std::uint32_t>();
      if (outcome > static_cast<std::uint32_t>(CallOutcome::kOneForMany)) return NotOurs("an outcome");
      message = HandlerCalled{static_cast<CallOutcome>(outcome)};
      break;
    }
    default:
      return NotOurs(fmt::format("a frame of kind {}", static_cast<int>(kind)));
  }
  if (!fields.ok())
    return NotOurs(fmt::format("a frame of kind {} with other fields", static_cast<int>(kind)));
  return message;
}

}  // namespace

std::size_t HandlerRequest::bytes() const {
  // A pair costs two lengths; a request its number and two counts.
  constexpr std::size_t kPairBytes = 8;
  std::size_t total = 16;
  for (const auto* pairs : {&properties, &content}) {
    for (const auto& [key, value] : *pairs) total += key.size() + value.size() + kPairBytes;
  }
  return total;
}

std::string EncodeLoad(const HandlerProperties& options) {
  std::string frame = BeginFrame(Kind::kLoad);
  PutMap(options, frame);
  return EndFrame(std::move(frame));
}

std::string EncodePredict(const std::vector<std::pair<std::uint64_t, const HandlerRequest*>>& requests) {
  std::string frame = BeginFrame(Kind::kPredict);
  Put(static_cast<std::uint32_t>(requests.size()), frame);
  for (const auto& [id, request] : requests) {
    Put(id, frame);
    PutMap(request->properties, frame);
    PutMap(request->content, frame);
  }
  return EndFrame(std::move(frame));
}

std::string EncodeCancel(std::uint64_t request_id) {
  std::string frame = BeginFrame(Kind::kCancel);
  Put(request_id, frame);
  return EndFrame(std::move(frame));
}

Result<std::optional<HandlerMessage>> HandlerFrameReader::Next() {
  const std::string_view left = std::string_view(buffer_).substr(used_);
  if (left.size() >= kHeaderBytes) {
    const auto length = Number<std::uint32_t>(left);
    if (Number<std::uint16_t>(left.substr(4)) != kMagic || Number<std::uint8_t>(left.substr(6)) != kVersion)
      return NotOurs("another header");
    if (length > kMaxFrameBytes) return NotOurs(fmt::format("a frame of {} bytes", length));
    if (left.size() >= kHeaderBytes + length) {
      const auto kind = static_cast<Kind>(left[7]);
      ASSIGN_OR_RETURN(HandlerMessage message, Decode(kind, left.substr(kHeaderBytes, length)));
      used_ += kHeaderBytes + length;
      return message;
    }
  }
  buffer_.erase(0, used_);
  used_ = 0;
  return std::nullopt;
}

}  // namespace bloomery
