#include "worker/rank_calls.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/log.h"
#include "engine/rank_group.h"
#include "worker/codec.h"
#include "worker/protocol.h"

namespace bloomery {
namespace {

// First character of a call's text; an error's is followed by its code's name, a line's end and its message.
constexpr char kGenerate = 'g';
constexpr char kLogits = 'l';
constexpr char kFollow = 'f';
constexpr char kClose = 'c';
constexpr char kError = 'e';

bool Is(const std::string& text, char kind) { return !text.empty() && text.front() == kind; }

std::string ErrorText(const Error& error) {
  return fmt::format("{}{}\n{}", kError, ErrorCodeName(error.code), error.message);
}

std::unexpected<Error> ErrorOf(std::size_t rank, const std::string& text) {
  const std::size_t end = text.find('\n');
  return Fail(ErrorCodeFromName(text.substr(1, end - 1)), "rank {}: {}", rank, text.substr(end + 1));
}

std::vector<std::byte> Bytes(std::string_view text) {
  std::vector<std::byte> bytes(text.size());
  if (!text.empty()) std::memcpy(bytes.data(), text.data(), text.size());
  return bytes;
}

}  // namespace

RankCall RankCall::Generate(std::span<const GenerationRequest> requests) {
  std::string text(1, kGenerate);
  for (const GenerationRequest& request : requests) {
    GenerationRequest same = request;
    same.id = 0;
    same.sampling.seed.reset();
    text += json::serialize(EncodeRequest(same)) + '\n';
  }
  return RankCall(std::move(text));
}

RankCall RankCall::Logits(std::span<const std::int32_t> tokens) {
  std::string text(1, kLogits);
  return RankCall(text.append(reinterpret_cast<const char*>(tokens.data()), tokens.size_bytes()));
}

RankCall RankCall::Follow() { return RankCall(std::string(1, kFollow)); }
RankCall RankCall::Close() { return RankCall(std::string(1, kClose)); }

bool RankCall::generates() const { return Is(text_, kGenerate); }
bool RankCall::closes() const { return Is(text_, kClose); }

std::vector<std::int32_t> RankCall::tokens() const {
  std::vector<std::int32_t> tokens((text_.size() - 1) / sizeof(std::int32_t));
  if (!tokens.empty()) std::memcpy(tokens.data(), text_.data() + 1, tokens.size() * sizeof(std::int32_t));
  return tokens;
}

Result<RankCall> RankCalls::Meet(const Result<RankCall>& mine) {
  const auto gathered = GatherTexts(world_, mine ? mine->text_ : ErrorText(mine.error()));
  if (!gathered) {
    over_ = true;
    return std::unexpected(gathered.error());
  }
  const std::vector<std::string>& texts = *gathered;
  const auto first = [&texts](char kind) {
    return static_cast<std::size_t>(
        std::ranges::find_if(texts, [kind](const std::string& text) { return Is(text, kind); }) -
        texts.begin());
  };
  if (const std::size_t closed = first(kClose); closed < texts.size()) {
    over_ = true;
    if (mine && mine->closes()) return *mine;
    return Fail(ErrorCode::kUnavailable, "rank {} has closed the model", closed);
  }
  if (!mine) return std::unexpected(mine.error());
  if (const std::size_t failed = first(kError); failed < texts.size()) return ErrorOf(failed, texts[failed]);
  for (std::size_t rank = 1; rank < texts.size(); ++rank) {
    if (texts[rank] == texts[0] || Is(texts[rank], kFollow)) continue;
    return Fail(
        ErrorCode::kInvalidArgument,
        "rank {} calls the model otherwise than rank 0: every rank must make the same calls, with the "
        "same prompts and options, in the same order",
        rank);
  }
  return RankCall(texts[0]);
}

class RankCalls::SharingSink final : public EventSink {
 public:
  SharingSink(Communicator& world, std::size_t requests, std::shared_ptr<EventSink> sink)
      : world_(world), running_(requests), sink_(std::move(sink)) {}

  void OnEvent(std::uint64_t request_id, const GenerationEvent& event) override {
    frames_ += EncodeFrame(EventMessage{request_id, event});
    const bool ends = std::holds_alternative<DoneEvent>(event) || std::holds_alternative<FailedEvent>(event);
    if (ends && --running_ == 0) {
      if (const Status told = Tell(); !told) spdlog::error("the other ranks: {}", told.error().message);
    }
    sink_->OnEvent(request_id, event);
  }

 private:
  Status Tell() {
    std::vector<std::byte> end;  // of their Follow
    RETURN_IF_ERROR(world_.Broadcast(end, 0));
    std::vector<std::byte> events = Bytes(frames_);
    return world_.Broadcast(events, 0);
  }

  Communicator& world_;
  // Engine's thread.
  std::size_t running_;
  std::string frames_;
  const std::shared_ptr<EventSink> sink_;
};

std::shared_ptr<EventSink> RankCalls::Share(std::size_t requests, std::shared_ptr<EventSink> sink) {
  return std::make_shared<SharingSink>(world_, requests, std::move(sink));
}

Status RankCalls::Take(ModelRunner& runner, EventSink& sink) {
  RETURN_IF_ERROR(runner.Follow());
  std::vector<std::byte> bytes;
  RETURN_IF_ERROR(world_.Broadcast(bytes, 0));
  FrameReader reader;
  reader.Append({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  for (;;) {
    ASSIGN_OR_RETURN(const auto message, reader.Next());
    if (!message) return {};
    if (const auto* event = std::get_if<EventMessage>(&*message))
      sink.OnEvent(event->request_id, event->event);
  }
}

}  // namespace bloomery
