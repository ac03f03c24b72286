// The workers of one model.py and the queue before them: batches, time-outs, restarts, and as many workers as
// there is work for.
//
//   loading ─▶ ready ──no worker left──▶ restarting (back-off) ─▶ ready …
//      └── cannot load ──▶ failed
//
// A worker that dies, or says nothing for the predict time-out while it has a call, is ended and started
// again. Its requests fail: they may have had effects. Those in the queue go on. Left out: HTTP.
#pragma once

#include <boost/asio.hpp>

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/result.h"
#include "worker/handler_process.h"
#include "worker/handler_protocol.h"

namespace bloomery {

// The defaults are DJL Serving's.
struct HandlerOptions {
  HandlerLaunch launch;
  HandlerProperties properties;  // what the first call carries, besides model_dir and its like
  int batch_size = 1;
  std::chrono::milliseconds max_batch_delay{100};
  int min_workers = 1;
  int max_workers = 1;
  std::chrono::milliseconds max_idle_time{60'000};  // of a worker above min_workers
  int job_queue_size = 1000;
  std::chrono::milliseconds model_loading_timeout{240'000};
  // Of a requirements.txt, before that. The largest wheels are some GiB.
  std::chrono::milliseconds install_timeout{1'800'000};
  // Between two signs of life of a worker that has a call; also what a request may wait in the queue.
  std::chrono::milliseconds predict_timeout{120'000};
  int max_failed_starts = 3;  // deaths in a row before the first worker is ready
  std::chrono::milliseconds first_backoff{100};
  std::chrono::milliseconds max_backoff{10'000};
};

struct HandlerFailed {
  Error error;
  // Of the handler: its process died or hung over this request. Otherwise the request never reached it.
  bool by_handler = false;
};
// A request's events: a head, data …, done; or failed, at any time.
using HandlerEvent = std::variant<HandlerHead, HandlerData, HandlerDone, HandlerFailed>;

// Everything runs on one io_context thread.
class HandlerPool {
 public:
  enum class State : std::uint8_t { kLoading, kReady, kRestarting, kFailed, kStopped };
  using Sink = std::function<void(HandlerEvent)>;

  HandlerPool(boost::asio::io_context& io, HandlerOptions options);
  ~HandlerPool();
  HandlerPool(const HandlerPool&) = delete;
  HandlerPool& operator=(const HandlerPool&) = delete;

  void Start();
  // Ends the workers and fails what is unfinished.
  void Stop();

  State state() const;
  const std::string& status_text() const { return status_text_; }  // what it does, or why it failed
  const HandlerOptions& options() const { return options_; }
  // From now on. Where there are too few workers more are started; where there are too many, those end that
  // have nothing to do.
  struct Tuning {
    int batch_size;
    std::chrono::milliseconds max_batch_delay;
    int min_workers;
    int max_workers;
    std::chrono::milliseconds max_idle_time;
    int job_queue_size;
  };
  void Tune(const Tuning& tuning);
  bool was_ready() const { return was_ready_; }
  std::size_t queued() const { return queue_.size(); }
  std::size_t in_flight() const { return requests_.size(); }
  std::size_t workers() const { return workers_.size(); }
  std::int64_t restarts() const { return restarts_; }
  struct WorkerStatus {
    pid_t pid;
    bool serves;
  };
  // Of those that have a process.
  std::vector<WorkerStatus> worker_statuses() const;

  // `sink` gets the request's events on the io thread, from a later turn of the loop on, and is gone after
  // the last. Returns the id to cancel by. A full queue is kOverloaded.
  std::uint64_t Submit(HandlerRequest request, Sink sink);
  // No further events; unknown ids are ignored. A stream ends after its next piece; a handler that is at work
  // on something else goes on.
  void Cancel(std::uint64_t id);

 private:
  enum class Phase : std::uint8_t { kStarting, kIdle, kBusy, kEnding, kWaiting };
  struct Worker {
    explicit Worker(boost::asio::io_context& io) : timer(io) {}
    std::shared_ptr<HandlerProcess> process;
    Phase phase = Phase::kStarting;
    std::vector<std::uint64_t> call;  // the requests it works on
    boost::asio::steady_timer timer;  // of loading, of a call, of idleness, of waiting: one at a time
    std::shared_ptr<const bool> alive = std::make_shared<const bool>(true);  // while this object is
    std::chrono::milliseconds backoff{0};
    std::optional<std::string> load_failure;
  };
  struct Pending {
    HandlerRequest request;
    Sink sink;
    bool alone = false;  // not to be batched: a batch with it failed
    std::optional<boost::asio::steady_timer> deadline;
  };

  void AddWorker();
  void StartWorker(Worker& worker);
  void OnMessage(Worker& worker, HandlerMessage message);
  void OnReady(Worker& worker);
  void OnCalled(Worker& worker, CallOutcome outcome);
  void OnBroken(Worker& worker, const std::string& why);
  void OnGone(Worker& worker);
  void NoteFailedStart(const Worker& worker, const std::string& why);
  void BecomeIdle(Worker& worker);
  // `on_expiry` runs unless the timer was set again or the worker is gone.
  void Arm(Worker& worker, std::chrono::milliseconds wait, std::function<void()> on_expiry);
  void ArmStart(Worker& worker, std::chrono::milliseconds wait, const char* what);
  void ArmCall(Worker& worker);

  void Dispatch();
  bool WaitsForMore();
  std::vector<std::uint64_t> TakeCall();
  void SendCall(Worker& worker, std::vector<std::uint64_t> call);
  void TryAlone(const std::vector<std::uint64_t>& call);
  void WatchDeadline(std::uint64_t id, Pending& pending);
  void Grow();
  bool CanServe() const;
  int Staying() const;

  void Deliver(std::uint64_t id, HandlerEvent event);
  void FailCall(Worker& worker, const Error& error);
  void FailAll(const Error& error);
  void GiveUp(const std::string& why);

  boost::asio::io_context& io_;
  HandlerOptions options_;
  std::list<Worker> workers_;
  std::deque<std::uint64_t> queue_;
  std::map<std::uint64_t, Pending> requests_;  // queued and being worked on
  boost::asio::steady_timer gather_timer_;     // while a batch waits for company
  bool gathering_ = false;
  bool gathered_ = false;  // it has waited
  bool batches_ = true;    // until the handler turns out not to know batches
  bool was_ready_ = false;
  bool failed_ = false;
  bool stopped_ = false;
  int failed_starts_ = 0;
  std::int64_t restarts_ = 0;
  std::uint64_t next_id_ = 1;
  std::string status_text_ = "starting";
};

}  // namespace bloomery
