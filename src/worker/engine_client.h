// The gateway's side: starts an engine process, or a launcher of several (mpirun), keeps it alive, and
// carries requests to it.
//
//   starting ─▶ loading ─▶ ready ──dies──▶ restarting (back-off) ─▶ loading …
//                  └──── cannot load ────▶ failed
//
// A process that dies, or makes no step for too long while it has work, is started again. Its unfinished
// requests are sent again: from the tokens already produced where the request allows it (one sequence, drawn
// by counter), from the start where nothing has reached the client yet; others fail with kUnavailable.
#pragma once

#include <sys/types.h>

#include <boost/asio.hpp>

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/result.h"
#include "engine/request.h"
#include "worker/child_output.h"
#include "worker/protocol.h"
#include "worker/scratch_folder.h"
#include "worker/spawn.h"

namespace bloomery {

inline constexpr const char* kEngineSocketVariable = "BLOOMERY_ENGINE_SOCKET";

// Everything runs on one io_context thread.
class EngineClient {
 public:
  enum class State : std::uint8_t { kLoading, kReady, kRestarting, kFailed, kStopped };
  using Handler = std::function<void(const GenerationEvent&)>;

  struct Options {
    // argv of the engine process; it gets the socket as file descriptor 3.
    std::vector<std::string> command;
    // The command starts ranks, which inherit no descriptor: rank 0 connects to the path in the environment
    // variable kEngineSocketVariable. Open MPI's own files are kept beside it, and all of it is removed.
    bool starts_ranks = false;
    std::chrono::milliseconds step_timeout{0};  // 0: none
    int max_attempts = 3;                       // times a request is sent before it is given up
    int max_failed_starts = 3;                  // deaths in a row without becoming ready
    std::chrono::milliseconds first_backoff{100};
    std::chrono::milliseconds max_backoff{10'000};
  };

  EngineClient(boost::asio::io_context& io, Options options);
  ~EngineClient();
  EngineClient(const EngineClient&) = delete;
  EngineClient& operator=(const EngineClient&) = delete;

  void Start();
  // Ends the process and fails what is unfinished.
  void Stop();
  // After Stop: the process is no more.
  bool Gone();

  State state() const { return state_; }
  const std::string& status_text() const { return status_text_; }  // progress, or why it failed
  ErrorCode failure() const { return failure_; }                   // of kFailed
  double progress() const { return progress_; }
  const std::optional<ModelInfo>& info() const { return info_; }  // of the last process that was ready
  const EngineStats& stats() const { return stats_; }
  std::size_t in_flight() const { return requests_.size(); }
  std::int64_t restarts() const { return restarts_; }
  pid_t pid() const { return pid_; }

  // `handler` gets the request's events on the io thread, from a later turn of the loop on, and is gone after
  // the last. Returns the id to cancel by.
  std::uint64_t Submit(GenerationRequest request, Handler handler);
  // No further events; unknown ids are ignored.
  void Cancel(std::uint64_t id);

 private:
  struct Pending {
    GenerationRequest request;
    Handler handler;
    int attempts = 0;
    bool prompt_seen = false;
    std::vector<TokenEvent> tokens;  // delivered so far, with num_return_sequences = 1
    int replayed = 0;                // tokens that a continuation produces again, not to be delivered twice
    bool several_started = false;    // tokens of one of several sequences were delivered
    std::set<int> completed;         // sequences whose end was delivered
    std::chrono::steady_clock::time_point submitted;
    std::int64_t deadline_ms = 0;  // as asked for; the request's own shrinks with each attempt
    std::optional<boost::asio::steady_timer> deadline;
  };

  void Spawn();
  void CloseSockets();
  Result<pid_t> SpawnRanks(int lifeline);
  Result<pid_t> SpawnLogged(SpawnOptions spawn);
  void WatchLifeline();
  void WatchSteps();
  void NoteProgress() { last_progress_ = std::chrono::steady_clock::now(); }
  void ReadSome();
  void OnMessage(WorkerMessage message);
  void OnEvent(std::uint64_t id, GenerationEvent event);
  void Send(const WorkerMessage& message);
  void SendRequest(Pending& pending);
  void WatchDeadline(std::uint64_t id, Pending& pending);
  void WriteNext();
  void OnSocketClosed(const std::string& why);
  void Reap();
  void ScheduleRestart();
  void Resubmit();
  Status PrepareForRetry(Pending& pending) const;
  void FailAll(ErrorCode code, const std::string& message);
  void Deliver(std::uint64_t id, GenerationEvent event);

  boost::asio::io_context& io_;
  const Options options_;
  boost::asio::local::stream_protocol::socket socket_;
  // Of a launcher: a descriptor that closes when it dies, and what rank 0 connects to.
  boost::asio::local::stream_protocol::socket lifeline_;
  boost::asio::local::stream_protocol::acceptor acceptor_;
  std::optional<ScratchFolder> scratch_;
  std::shared_ptr<ChildOutput> output_;  // under LogFormat::kJson; else the process has our standard error
  boost::asio::steady_timer step_timer_;
  std::chrono::steady_clock::time_point last_progress_;
  boost::asio::steady_timer timer_;
  FrameReader reader_;
  std::array<char, 65536> buffer_{};
  std::deque<std::string> outgoing_;
  pid_t pid_ = -1;
  State state_ = State::kLoading;
  std::string status_text_ = "starting";
  double progress_ = 0;
  bool load_failed_ = false;
  ErrorCode failure_ = ErrorCode::kInternal;
  int failed_starts_ = 0;
  std::chrono::milliseconds backoff_{0};
  std::int64_t restarts_ = 0;
  std::uint64_t next_id_ = 1;
  std::uint64_t generation_ = 0;  // of the process: callbacks of an earlier one are ignored
  std::map<std::uint64_t, Pending> requests_;
  std::optional<ModelInfo> info_;
  EngineStats stats_;
};

}  // namespace bloomery
