#include "worker/engine_client.h"

#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>

#include "base/log_event.h"
#include "base/unique_fd.h"

namespace bloomery {
namespace {

namespace asio = boost::asio;

constexpr int kChildSocketFd = 3;
// Between looks whether a killed process is gone: one that held much memory takes a while.
constexpr std::chrono::milliseconds kReapPoll{5};
// Between looks whether the engine makes steps.
constexpr std::chrono::milliseconds kStepPoll{250};

Result<std::pair<UniqueFd, UniqueFd>> MakeSocketPair() {
  std::array<int, 2> fds{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds.data()) != 0) {
    return Fail(ErrorCode::kIo, "cannot make a socket pair: {}", std::strerror(errno));
  }
  return std::pair{UniqueFd(fds[0]), UniqueFd(fds[1])};
}

// A continuing process knows the earlier tokens, but not what they were likely to be. Where it started anew,
// under beam search for one, there are no such tokens.
void TakeLogprobs(const std::vector<TokenEvent>& delivered, SequenceEvent& sequence) {
  if (delivered.empty()) return;
  sequence.logprobs.clear();
  sequence.top_logprobs.clear();
  for (const TokenEvent& event : delivered) {
    sequence.logprobs.push_back(event.token);
    sequence.top_logprobs.push_back(event.top_logprobs);
  }
}

std::int64_t MsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - start)
      .count();
}

Error DeadlineExceeded(std::int64_t deadline_ms) {
  return {ErrorCode::kDeadlineExceeded,
          fmt::format("not finished within its deadline of {} ms", deadline_ms)};
}

bool IsLast(const GenerationEvent& event) {
  return std::holds_alternative<DoneEvent>(event) || std::holds_alternative<FailedEvent>(event);
}

}  // namespace

EngineClient::EngineClient(asio::io_context& io, Options options)
    : io_(io),
      options_(std::move(options)),
      socket_(io),
      lifeline_(io),
      acceptor_(io),
      step_timer_(io),
      timer_(io) {}

EngineClient::~EngineClient() {
  if (pid_ > 0) {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  if (output_) output_->Close();
}

void EngineClient::Start() {
  backoff_ = options_.first_backoff;
  Spawn();
}

void EngineClient::Stop() {
  state_ = State::kStopped;
  status_text_ = "the model is being shut down";
  ++generation_;
  CloseSockets();
  timer_.cancel();
  step_timer_.cancel();
  if (pid_ > 0) ::kill(pid_, SIGKILL);  // it holds nothing that must be saved
  FailAll(ErrorCode::kUnavailable, status_text_);
}

bool EngineClient::Gone() {
  if (pid_ > 0 && ::waitpid(pid_, nullptr, WNOHANG) != 0) pid_ = -1;
  if (pid_ < 0) scratch_.reset();
  return pid_ < 0;
}

void EngineClient::CloseSockets() {
  boost::system::error_code ignored;
  socket_.close(ignored);
  lifeline_.close(ignored);
  acceptor_.close(ignored);
}

void EngineClient::Spawn() {
  state_ = State::kLoading;
  status_text_ = "starting";
  progress_ = 0;
  ++generation_;
  reader_ = FrameReader();
  outgoing_.clear();
  auto pair = MakeSocketPair();
  auto pid = !pair ? std::unexpected(pair.error())
             : options_.starts_ranks
                 ? SpawnRanks(pair->second.get())
                 : SpawnLogged({options_.command, {{pair->second.get(), kChildSocketFd}}, {}, {}});
  if (!pid) {
    state_ = State::kFailed;
    status_text_ = pid.error().message;
    spdlog::error("{}", status_text_);
    FailAll(ErrorCode::kUnavailable, status_text_);
    return;
  }
  pid_ = *pid;
  if (options_.starts_ranks) {
    lifeline_.assign(asio::local::stream_protocol(), pair->first.Release());
    WatchLifeline();
  } else {
    socket_.assign(asio::local::stream_protocol(), pair->first.Release());
    ReadSome();
  }
}

Result<pid_t> EngineClient::SpawnRanks(int lifeline) {
  ASSIGN_OR_RETURN(scratch_, ScratchFolder::Make());
  const std::string path = (scratch_->path() / "engine.sock").string();
  boost::system::error_code error;
  acceptor_.open(asio::local::stream_protocol(), error);
  if (!error) acceptor_.bind(asio::local::stream_protocol::endpoint(path), error);
  if (!error) acceptor_.listen(1, error);
  if (error) return Fail(ErrorCode::kIo, "cannot listen on {}: {}", path, error.message());
  acceptor_.async_accept(socket_, [this, generation = generation_](boost::system::error_code failed) {
    if (generation != generation_ || failed) return;
    boost::system::error_code ignored;
    acceptor_.close(ignored);
    ReadSome();
  });
  Variables variables = OpenMpiFolder(scratch_->path());
  variables.emplace_back(kEngineSocketVariable, path);
  return SpawnLogged({options_.command, {{lifeline, kChildSocketFd}}, std::move(variables), {}});
}

// Launchers and libraries print text, and processes that share a descriptor cut into each other's lines:
// where each line must be an object, all of it comes through us.
Result<pid_t> EngineClient::SpawnLogged(SpawnOptions spawn) {
  if (CurrentLogFormat() != LogFormat::kJson) return SpawnProcess(spawn);
  output_ = std::make_shared<ChildOutput>(io_, [this](const std::string& line) { PassLogLine(line, pid_); });
  ASSIGN_OR_RETURN(const UniqueFd child_end, output_->Open());
  for (const int standard : {STDOUT_FILENO, STDERR_FILENO})
    spawn.descriptors.emplace_back(child_end.get(), standard);
  return SpawnProcess(spawn);
}

// A launcher says nothing on its descriptor, which closes when it ends.
void EngineClient::WatchLifeline() {
  lifeline_.async_wait(asio::local::stream_protocol::socket::wait_read,
                       [this, generation = generation_](boost::system::error_code error) {
                         if (generation == generation_ && !error) OnSocketClosed("ended");
                       });
}

// A step that never ends (a rank that hangs, a stopped process) shows in nothing but this.
void EngineClient::WatchSteps() {
  if (options_.step_timeout.count() == 0) return;
  step_timer_.expires_after(std::min(options_.step_timeout, kStepPoll));
  step_timer_.async_wait([this, generation = generation_](boost::system::error_code error) {
    if (error || generation != generation_) return;
    if (requests_.empty()) NoteProgress();
    if (std::chrono::steady_clock::now() - last_progress_ > options_.step_timeout) {
      OnSocketClosed(fmt::format("made no step for {} ms", options_.step_timeout.count()));
      return;
    }
    WatchSteps();
  });
}

void EngineClient::ReadSome() {
  socket_.async_read_some(asio::buffer(buffer_), [this, generation = generation_](
                                                     boost::system::error_code error, std::size_t count) {
    if (generation != generation_) return;
    if (error) {
      OnSocketClosed("ended");
      return;
    }
    reader_.Append({buffer_.data(), count});
    for (;;) {
      auto message = reader_.Next();
      if (!message) {
        OnSocketClosed(message.error().message);
        return;
      }
      if (!*message) break;
      OnMessage(std::move(**message));
      if (generation != generation_) return;
    }
    ReadSome();
  });
}

void EngineClient::OnMessage(WorkerMessage message) {
  if (auto* event = std::get_if<EventMessage>(&message)) {
    OnEvent(event->request_id, std::move(event->event));
  } else if (const auto* stats = std::get_if<StatsMessage>(&message)) {
    if (stats->stats.steps_total != stats_.steps_total) NoteProgress();
    stats_ = stats->stats;
  } else if (auto* progress = std::get_if<ProgressMessage>(&message)) {
    status_text_ = std::move(progress->what);
    progress_ = progress->fraction;
  } else if (auto* ready = std::get_if<ReadyMessage>(&message)) {
    info_ = std::move(ready->info);
    state_ = State::kReady;
    status_text_ = "ready";
    progress_ = 1;
    failed_starts_ = 0;
    backoff_ = options_.first_backoff;
    spdlog::info("model {} is ready", info_->name);
    NoteProgress();
    WatchSteps();
    Resubmit();
  } else if (const auto* failed = std::get_if<LoadFailedMessage>(&message)) {
    load_failed_ = true;
    failure_ = failed->error.code;
    status_text_ = failed->error.message;
  }
}

std::uint64_t EngineClient::Submit(GenerationRequest request, Handler handler) {
  const std::uint64_t id = next_id_++;
  request.id = id;
  Pending& pending = requests_[id];
  pending.request = std::move(request);
  pending.handler = std::move(handler);
  pending.submitted = std::chrono::steady_clock::now();
  pending.deadline_ms = pending.request.deadline_ms;
  if (pending.deadline_ms > 0) WatchDeadline(id, pending);
  if (state_ == State::kReady) {
    SendRequest(pending);
  } else if (state_ == State::kFailed || state_ == State::kStopped) {
    asio::post(io_, [this, id] { Deliver(id, FailedEvent{{ErrorCode::kUnavailable, status_text_}}); });
  }
  return id;
}

void EngineClient::SendRequest(Pending& pending) {
  ++pending.attempts;
  // The engine counts from when it gets the request.
  if (pending.deadline_ms > 0)
    pending.request.deadline_ms = std::max<std::int64_t>(pending.deadline_ms - MsSince(pending.submitted), 1);
  Send(SubmitMessage{pending.request});
}

// A running engine keeps the deadline itself; this is for while there is none.
void EngineClient::WatchDeadline(std::uint64_t id, Pending& pending) {
  pending.deadline.emplace(io_, pending.submitted + std::chrono::milliseconds(pending.deadline_ms));
  pending.deadline->async_wait(
      [this, id, deadline_ms = pending.deadline_ms](boost::system::error_code error) {
        if (!error && state_ != State::kReady) Deliver(id, FailedEvent{DeadlineExceeded(deadline_ms)});
      });
}

void EngineClient::Cancel(std::uint64_t id) {
  if (requests_.erase(id) > 0 && state_ == State::kReady) Send(CancelMessage{id});
}

void EngineClient::OnEvent(std::uint64_t id, GenerationEvent event) {
  const auto found = requests_.find(id);
  if (found == requests_.end()) return;  // cancelled meanwhile
  Pending& pending = found->second;
  if (auto* prompt = std::get_if<PromptEvent>(&event)) {
    // A seed drawn by the engine is kept, so that a continuation draws the same tokens.
    pending.request.sampling.seed = prompt->seed;
    if (std::exchange(pending.prompt_seen, true)) return;
  } else if (const auto* token = std::get_if<TokenEvent>(&event)) {
    if (pending.replayed > 0) {
      --pending.replayed;
      return;
    }
    if (pending.request.sampling.num_return_sequences == 1) {
      pending.tokens.push_back(*token);
    } else {
      pending.several_started = true;
    }
  } else if (auto* sequence = std::get_if<SequenceEvent>(&event)) {
    // The process before may have died between this and the request's end.
    if (!pending.completed.insert(sequence->sequence).second) return;
    if (pending.attempts > 1 && pending.request.sampling.logprobs >= 0)
      TakeLogprobs(pending.tokens, *sequence);
  }
  Deliver(id, std::move(event));
}

void EngineClient::Deliver(std::uint64_t id, GenerationEvent event) {
  const auto found = requests_.find(id);
  if (found == requests_.end()) return;
  if (!IsLast(event)) {
    const Handler handler = found->second.handler;  // a copy: the handler may cancel
    handler(event);
    return;
  }
  const Handler handler = std::move(found->second.handler);
  requests_.erase(found);
  handler(event);
}

void EngineClient::Send(const WorkerMessage& message) {
  outgoing_.push_back(EncodeFrame(message));
  if (outgoing_.size() == 1) WriteNext();
}

void EngineClient::WriteNext() {
  asio::async_write(
      socket_, asio::buffer(outgoing_.front()),
      [this, generation = generation_](boost::system::error_code error, std::size_t /*written*/) {
        if (generation != generation_ || error) return;  // a broken socket shows on the reading side
        outgoing_.pop_front();
        if (!outgoing_.empty()) WriteNext();
      });
}

void EngineClient::OnSocketClosed(const std::string& why) {
  CloseSockets();
  ++generation_;
  stats_ = {};
  if (state_ != State::kReady) ++failed_starts_;
  if (!load_failed_)
    spdlog::error("engine process {} {}; {} requests unfinished", pid_, why, requests_.size());
  ::kill(pid_, SIGKILL);  // ended already, or no longer to be trusted
  state_ = State::kRestarting;
  Reap();
}

void EngineClient::Reap() {
  int status = 0;
  if (::waitpid(pid_, &status, WNOHANG) == 0) {
    timer_.expires_after(kReapPoll);
    timer_.async_wait([this](boost::system::error_code error) {
      if (!error) Reap();
    });
    return;
  }
  if (output_) output_->Close();
  pid_ = -1;
  scratch_.reset();
  if (!load_failed_ && failed_starts_ < options_.max_failed_starts) {
    status_text_ = "restarting";
    ScheduleRestart();
    return;
  }
  if (!load_failed_)
    status_text_ =
        fmt::format("the engine process died {} times in a row while starting; its last words are in the log",
                    failed_starts_);
  state_ = State::kFailed;
  spdlog::error("the model cannot be served: {}", status_text_);
  FailAll(ErrorCode::kUnavailable, status_text_);
}

void EngineClient::ScheduleRestart() {
  ++restarts_;
  timer_.expires_after(backoff_);
  backoff_ = std::min(backoff_ * 2, options_.max_backoff);
  timer_.async_wait([this](boost::system::error_code error) {
    if (!error && state_ == State::kRestarting) Spawn();
  });
}

void EngineClient::Resubmit() {
  std::vector<std::pair<std::uint64_t, Error>> hopeless;
  for (auto& [id, pending] : requests_) {
    if (const Status prepared = PrepareForRetry(pending); !prepared) {
      hopeless.emplace_back(id, prepared.error());
    } else {
      SendRequest(pending);
    }
  }
  for (const auto& [id, error] : hopeless) Deliver(id, FailedEvent{error});
}

Status EngineClient::PrepareForRetry(Pending& pending) const {
  if (pending.attempts >= options_.max_attempts || pending.several_started) {
    return Fail(ErrorCode::kUnavailable,
                "the engine was restarted while it worked on this request; send it again");
  }
  if (pending.deadline_ms > 0 && MsSince(pending.submitted) >= pending.deadline_ms)
    return std::unexpected(DeadlineExceeded(pending.deadline_ms));
  // All but the last token: that one is drawn again, so that whatever it ended (the text, perhaps) ends
  // again.
  pending.request.resume_tokens.clear();
  for (const TokenEvent& token : pending.tokens) pending.request.resume_tokens.push_back(token.token.id);
  pending.replayed = pending.tokens.empty() ? 0 : 1;
  if (pending.replayed > 0) pending.request.resume_tokens.pop_back();
  return {};
}

void EngineClient::FailAll(ErrorCode code, const std::string& message) {
  std::vector<std::uint64_t> ids;
  for (const auto& [id, pending] : requests_) ids.push_back(id);
  for (const std::uint64_t id : ids) Deliver(id, FailedEvent{{code, message}});
}

}  // namespace bloomery
