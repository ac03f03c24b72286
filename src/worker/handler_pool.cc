#include "worker/handler_pool.h"

#include <algorithm>
#include <filesystem>

#include "base/log.h"

namespace bloomery {
namespace {

namespace asio = boost::asio;

bool IsLast(const HandlerEvent& event) {
  return std::holds_alternative<HandlerDone>(event) || std::holds_alternative<HandlerFailed>(event);
}

double Seconds(std::chrono::milliseconds time) { return static_cast<double>(time.count()) / 1000; }

Error Died(const std::string& why) {
  return {ErrorCode::kUnavailable,
          fmt::format("the handler's process {} while it worked on this request", why)};
}

}  // namespace

HandlerPool::HandlerPool(asio::io_context& io, HandlerOptions options)
    : io_(io), options_(std::move(options)), gather_timer_(io) {}

HandlerPool::~HandlerPool() {
  for (Worker& worker : workers_) {
    if (worker.process) worker.process->Abandon();
  }
}

void HandlerPool::Start() {
  while (workers_.size() < static_cast<std::size_t>(options_.min_workers) && !failed_) AddWorker();
}

void HandlerPool::AddWorker() {
  Worker& worker = workers_.emplace_back(io_);
  worker.backoff = options_.first_backoff;
  StartWorker(worker);
}

void HandlerPool::Tune(const Tuning& tuning) {
  options_.batch_size = tuning.batch_size;
  options_.max_batch_delay = tuning.max_batch_delay;
  options_.min_workers = tuning.min_workers;
  options_.max_workers = tuning.max_workers;
  options_.max_idle_time = tuning.max_idle_time;
  options_.job_queue_size = tuning.job_queue_size;
  if (failed_ || stopped_) return;
  for (Worker& worker : workers_) {
    if (Staying() <= options_.max_workers) break;
    if (worker.phase != Phase::kIdle) continue;  // one that is at work ends when it is idle for long
    worker.phase = Phase::kEnding;
    worker.timer.cancel();
    worker.process->End();
  }
  for (Worker& worker : workers_) {
    if (worker.phase == Phase::kIdle) BecomeIdle(worker);  // how long it may be has changed
  }
  Start();
}

void HandlerPool::Stop() {
  stopped_ = true;
  status_text_ = "the model is being shut down";
  for (Worker& worker : workers_) {
    worker.timer.cancel();
    if (worker.process) worker.process->Abandon();
  }
  workers_.clear();
  gather_timer_.cancel();
  FailAll({ErrorCode::kUnavailable, status_text_});
}

HandlerPool::State HandlerPool::state() const {
  if (stopped_) return State::kStopped;
  if (failed_) return State::kFailed;
  if (CanServe()) return State::kReady;
  return was_ready_ ? State::kRestarting : State::kLoading;
}

bool HandlerPool::CanServe() const {
  return std::any_of(workers_.begin(), workers_.end(), [](const Worker& worker) {
    return worker.phase == Phase::kIdle || worker.phase == Phase::kBusy;
  });
}

// Workers that are not being ended.
int HandlerPool::Staying() const {
  return static_cast<int>(std::count_if(workers_.begin(), workers_.end(),
                                        [](const Worker& worker) { return worker.phase != Phase::kEnding; }));
}

std::vector<HandlerPool::WorkerStatus> HandlerPool::worker_statuses() const {
  std::vector<WorkerStatus> statuses;
  for (const Worker& worker : workers_) {
    if (!worker.process || worker.process->pid() <= 0) continue;
    statuses.push_back({worker.process->pid(), worker.phase == Phase::kIdle || worker.phase == Phase::kBusy});
  }
  return statuses;
}

// --- workers ---

void HandlerPool::StartWorker(Worker& worker) {
  worker.phase = Phase::kStarting;
  worker.load_failure.reset();
  HandlerProcess::Callbacks callbacks;
  callbacks.on_message = [this, &worker](HandlerMessage message) { OnMessage(worker, std::move(message)); };
  callbacks.on_broken = [this, &worker](const std::string& why) { OnBroken(worker, why); };
  callbacks.on_gone = [this, &worker] { OnGone(worker); };
  worker.process = std::make_shared<HandlerProcess>(io_, options_.launch, std::move(callbacks));
  if (const Status started = worker.process->Start(); !started) {
    worker.load_failure = started.error().message;
    OnBroken(worker, started.error().message);
    worker.process->End();
    return;
  }
  // With requirements, a worker says hello when they are installed.
  std::error_code ignored;
  if (std::filesystem::exists(options_.launch.directory / "requirements.txt", ignored)) {
    if (!was_ready_) status_text_ = "the handler's requirements.txt is being installed";
    ArmStart(worker, options_.install_timeout, "requirements.txt was not installed");
  } else {
    ArmStart(worker, options_.model_loading_timeout, "the model was not loaded");
  }
}

void HandlerPool::ArmStart(Worker& worker, std::chrono::milliseconds wait, const char* what) {
  Arm(worker, wait, [this, &worker, wait, what] {
    worker.load_failure = fmt::format("{} within {} s", what, Seconds(wait));
    OnBroken(worker, *worker.load_failure);
    worker.process->End();
  });
}

void HandlerPool::OnMessage(Worker& worker, HandlerMessage message) {
  if (worker.phase == Phase::kEnding) return;
  if (auto* piece = std::get_if<HandlerPiece>(&message)) {
    if (std::find(worker.call.begin(), worker.call.end(), piece->request_id) == worker.call.end()) return;
    ArmCall(worker);
    std::visit([&](auto& one) { Deliver(piece->request_id, std::move(one)); }, piece->piece);
  } else if (const auto* called = std::get_if<HandlerCalled>(&message)) {
    OnCalled(worker, called->outcome);
  } else if (std::holds_alternative<HandlerHello>(message)) {
    HandlerProperties properties = options_.properties;
    properties.emplace_back("model_dir", options_.launch.directory.string());
    properties.emplace_back("device_id", "-1");
    properties.emplace_back("tensor_parallel_degree", std::to_string(options_.launch.ranks));
    worker.process->Send(EncodeLoad(properties));
    ArmStart(worker, options_.model_loading_timeout, "the model was not loaded");
    if (!was_ready_) status_text_ = "the handler loads its model";
  } else if (std::holds_alternative<HandlerReady>(message)) {
    OnReady(worker);
  } else if (auto* failed = std::get_if<HandlerLoadFailed>(&message)) {
    worker.load_failure = std::move(failed->why);
    OnBroken(worker, *worker.load_failure);
    worker.process->End();
  }
}

void HandlerPool::OnReady(Worker& worker) {
  if (worker.phase != Phase::kStarting) return;
  if (!was_ready_) spdlog::info("model {} is ready", options_.launch.name);
  was_ready_ = true;
  failed_starts_ = 0;
  status_text_ = "ready";
  worker.backoff = options_.first_backoff;
  BecomeIdle(worker);
}

void HandlerPool::BecomeIdle(Worker& worker) {
  worker.phase = Phase::kIdle;
  worker.timer.cancel();
  if (workers_.size() > static_cast<std::size_t>(options_.min_workers)) {
    Arm(worker, options_.max_idle_time, [this, &worker] {
      if (Staying() <= options_.min_workers) return;
      spdlog::info("{}: a worker had nothing to do for {} s and is ended", options_.launch.name,
                   Seconds(options_.max_idle_time));
      worker.phase = Phase::kEnding;
      worker.process->End();
    });
  }
  Dispatch();
}

void HandlerPool::OnBroken(Worker& worker, const std::string& why) {
  if (worker.phase == Phase::kEnding) return;
  worker.timer.cancel();
  const bool starting = worker.phase == Phase::kStarting;
  worker.phase = Phase::kEnding;
  if (starting) {
    NoteFailedStart(worker, why);
  } else {
    spdlog::error("{}: worker {} {}; {} requests unfinished", options_.launch.name, worker.process->pid(),
                  why, worker.call.size());
    if (!CanServe()) status_text_ = "restarting";
  }
  FailCall(worker, Died(why));
}

void HandlerPool::NoteFailedStart(const Worker& worker, const std::string& why) {
  ++failed_starts_;
  spdlog::error("{}: a worker could not start: {}", options_.launch.name, why);
  if (was_ready_) return;  // it has been loaded before, so it may be again
  if (worker.load_failure) {
    GiveUp(*worker.load_failure);
  } else if (failed_starts_ >= options_.max_failed_starts) {
    GiveUp(fmt::format("the handler's process died {} times in a row while starting; its last words: {}",
                       failed_starts_, worker.process->last_words()));
  }
}

void HandlerPool::GiveUp(const std::string& why) {
  failed_ = true;
  status_text_ = why;
  spdlog::error("the model {} cannot be served: {}", options_.launch.name, why);
  for (Worker& worker : workers_) {
    if (worker.phase == Phase::kEnding) continue;
    worker.phase = Phase::kEnding;
    worker.timer.cancel();
    if (worker.process) worker.process->End();
  }
  FailAll({ErrorCode::kUnavailable, why});
}

// The worker's process is no more; its place is kept where there are not too many.
void HandlerPool::OnGone(Worker& worker) {
  worker.process.reset();
  if (failed_ || workers_.size() > static_cast<std::size_t>(options_.min_workers)) {
    workers_.remove_if([&](const Worker& one) { return &one == &worker; });
    return;
  }
  ++restarts_;
  worker.phase = Phase::kWaiting;
  Arm(worker, worker.backoff, [this, &worker] { StartWorker(worker); });
  worker.backoff = std::min(worker.backoff * 2, options_.max_backoff);
}

void HandlerPool::Arm(Worker& worker, std::chrono::milliseconds wait, std::function<void()> on_expiry) {
  worker.timer.expires_after(wait);
  const auto expiry = worker.timer.expiry();
  worker.timer.async_wait([&worker, alive = std::weak_ptr(worker.alive), expiry,
                           on_expiry = std::move(on_expiry)](boost::system::error_code error) {
    // An expiry that was already on its way comes without an error though the timer was set again.
    if (!error && !alive.expired() && worker.timer.expiry() == expiry) on_expiry();
  });
}

void HandlerPool::ArmCall(Worker& worker) {
  Arm(worker, options_.predict_timeout, [this, &worker] {
    if (worker.phase != Phase::kBusy) return;
    spdlog::error("{}: worker {} gave no sign for {} s and is ended; {} requests unfinished",
                  options_.launch.name, worker.process->pid(), Seconds(options_.predict_timeout),
                  worker.call.size());
    worker.phase = Phase::kEnding;
    if (!CanServe()) status_text_ = "restarting";
    worker.process->End();
    FailCall(worker, {ErrorCode::kDeadlineExceeded,
                      fmt::format("the handler gave no answer for {} s", Seconds(options_.predict_timeout))});
  });
}

// --- the queue ---

std::uint64_t HandlerPool::Submit(HandlerRequest request, Sink sink) {
  const std::uint64_t id = next_id_++;
  Error refusal;
  if (failed_ || stopped_) {
    refusal = {ErrorCode::kUnavailable, status_text_};
  } else if (queue_.size() >= static_cast<std::size_t>(options_.job_queue_size)) {
    refusal = {ErrorCode::kOverloaded,
               fmt::format("{} requests wait already; try again later", queue_.size())};
  } else if (request.bytes() > kMaxCallBytes) {
    refusal = {ErrorCode::kTooLarge, "the request is too large for a handler"};
  }
  Pending& pending = requests_[id];
  pending.request = std::move(request);
  pending.sink = std::move(sink);
  if (!refusal.message.empty()) {
    asio::post(io_, [this, id, refusal] { Deliver(id, HandlerFailed{refusal}); });
    return id;
  }
  WatchDeadline(id, pending);
  queue_.push_back(id);
  asio::post(io_, [this] {
    Dispatch();
    Grow();
  });
  return id;
}

void HandlerPool::WatchDeadline(std::uint64_t id, Pending& pending) {
  const std::chrono::milliseconds wait = pending.request.deadline_ms > 0
                                             ? std::chrono::milliseconds(pending.request.deadline_ms)
                                             : options_.predict_timeout;
  pending.deadline.emplace(io_, wait);
  pending.deadline->async_wait([this, id, wait](boost::system::error_code error) {
    const auto place = std::find(queue_.begin(), queue_.end(), id);
    if (error || place == queue_.end()) return;
    queue_.erase(place);
    Deliver(id,
            HandlerFailed{{ErrorCode::kDeadlineExceeded,
                           fmt::format("waited in the queue for {} s, which is the limit", Seconds(wait))}});
  });
}

void HandlerPool::Cancel(std::uint64_t id) {
  if (requests_.erase(id) == 0) return;
  if (const auto place = std::find(queue_.begin(), queue_.end(), id); place != queue_.end()) {
    queue_.erase(place);
    return;
  }
  if (options_.launch.ranks > 1) return;  // they would leave a stream at different pieces
  for (Worker& worker : workers_) {
    if (worker.phase == Phase::kBusy &&
        std::find(worker.call.begin(), worker.call.end(), id) != worker.call.end())
      worker.process->Send(EncodeCancel(id));
  }
}

void HandlerPool::Dispatch() {
  for (Worker& worker : workers_) {
    if (worker.phase != Phase::kIdle) continue;
    if (queue_.empty() || WaitsForMore()) return;
    SendCall(worker, TakeCall());
  }
}

// A batch that is not full waits for company once, from when a worker could take it.
bool HandlerPool::WaitsForMore() {
  const bool full = queue_.size() >= static_cast<std::size_t>(options_.batch_size);
  if (!batches_ || full || gathered_ || options_.max_batch_delay.count() == 0 ||
      requests_.at(queue_.front()).alone)
    return false;
  if (gathering_) return true;
  gathering_ = true;
  gather_timer_.expires_after(options_.max_batch_delay);
  gather_timer_.async_wait([this](boost::system::error_code error) {
    if (error || !gathering_) return;
    gathering_ = false;
    gathered_ = true;
    Dispatch();
  });
  return true;
}

std::vector<std::uint64_t> HandlerPool::TakeCall() {
  gathering_ = gathered_ = false;
  gather_timer_.cancel();
  const std::size_t most = batches_ ? static_cast<std::size_t>(options_.batch_size) : 1;
  std::vector<std::uint64_t> call;
  std::size_t bytes = 0;
  while (!queue_.empty() && call.size() < most) {
    const Pending& next = requests_.at(queue_.front());
    bytes += next.request.bytes();
    if (!call.empty() && (next.alone || bytes > kMaxCallBytes)) break;
    call.push_back(queue_.front());
    queue_.pop_front();
    if (next.alone) break;
  }
  return call;
}

void HandlerPool::SendCall(Worker& worker, std::vector<std::uint64_t> call) {
  std::vector<std::pair<std::uint64_t, const HandlerRequest*>> requests;
  for (const std::uint64_t id : call) {
    Pending& pending = requests_.at(id);
    pending.deadline.reset();
    requests.emplace_back(id, &pending.request);
  }
  worker.process->Send(EncodePredict(requests));
  // Only a batch may be sent again.
  if (call.size() == 1) requests_.at(call.front()).request = {};
  worker.phase = Phase::kBusy;
  worker.call = std::move(call);
  ArmCall(worker);
}

void HandlerPool::OnCalled(Worker& worker, CallOutcome outcome) {
  if (worker.phase != Phase::kBusy) return;
  const std::vector<std::uint64_t> call = std::exchange(worker.call, {});
  if (outcome == CallOutcome::kOneForMany && batches_) {
    batches_ = false;
    spdlog::warn("{}: the handler answered a batch of {} as one request; it gets single ones from now on",
                 options_.launch.name, call.size());
  }
  if (outcome != CallOutcome::kAnswered && call.size() > 1) {
    TryAlone(call);
  } else {
    for (const std::uint64_t id : call)
      Deliver(id, HandlerFailed{{ErrorCode::kInternal, "the handler gave no answer"}, true});
  }
  BecomeIdle(worker);
  Grow();
}

// Back to the head of the queue, in their order; those whose client left are forgotten already.
void HandlerPool::TryAlone(const std::vector<std::uint64_t>& call) {
  for (auto id = call.rbegin(); id != call.rend(); ++id) {
    const auto found = requests_.find(*id);
    if (found == requests_.end()) continue;
    found->second.alone = true;
    queue_.push_front(*id);
  }
}

void HandlerPool::Grow() {
  const bool starting = std::any_of(workers_.begin(), workers_.end(), [](const Worker& worker) {
    return worker.phase != Phase::kIdle && worker.phase != Phase::kBusy;
  });
  if (failed_ || stopped_ || starting || !was_ready_ ||
      workers_.size() >= static_cast<std::size_t>(options_.max_workers) ||
      queue_.size() <= 2 * static_cast<std::size_t>(options_.batch_size))
    return;
  spdlog::info("{}: {} requests wait; worker {} of at most {} is started", options_.launch.name,
               queue_.size(), workers_.size() + 1, options_.max_workers);
  AddWorker();
}

// --- events ---

void HandlerPool::Deliver(std::uint64_t id, HandlerEvent event) {
  const auto found = requests_.find(id);
  if (found == requests_.end()) return;  // cancelled meanwhile
  if (!IsLast(event)) {
    const Sink sink = found->second.sink;  // a copy: the sink may cancel
    sink(std::move(event));
    return;
  }
  const Sink sink = std::move(found->second.sink);
  requests_.erase(found);
  sink(std::move(event));
}

void HandlerPool::FailCall(Worker& worker, const Error& error) {
  for (const std::uint64_t id : std::exchange(worker.call, {})) Deliver(id, HandlerFailed{error, true});
}

void HandlerPool::FailAll(const Error& error) {
  queue_.clear();
  std::vector<std::uint64_t> ids;
  for (const auto& [id, pending] : requests_) ids.push_back(id);
  for (const std::uint64_t id : ids) Deliver(id, HandlerFailed{error});
}

}  // namespace bloomery
