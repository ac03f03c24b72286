// An engine inside this process, for the commands that need no server: loads, submits, and hands the events
// to the calling thread.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "cli/options.h"
#include "engine/engine.h"

namespace bloomery {

// Events of any number of requests, in order of arrival. Thread safe.
class EventQueue final : public EventSink {
 public:
  using Item = std::pair<std::uint64_t, GenerationEvent>;

  void OnEvent(std::uint64_t request_id, const GenerationEvent& event) override;
  // The next event; nullopt when none comes within `timeout`.
  std::optional<Item> Next(std::chrono::milliseconds timeout);

 private:
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<Item> items_;  // guarded by mutex_
};

struct Session {
  std::unique_ptr<Device> device;
  std::unique_ptr<Engine> engine;
  double load_s = 0;
};

// Several ranks meet here. On others than rank 0 it does what rank 0 says, and leaves the program.
Result<Session> OpenSession(const ModelFlags& flags);

// From its construction on, SIGINT and SIGTERM set a flag instead of ending the process; a second one ends it
// at once with status 130.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;
  static bool interrupted();
  // As if a signal had come; for a server, which has handlers of its own.
  static void Interrupt();
  // The same, for requests to look at.
  static const std::atomic<bool>& flag();
};

inline constexpr int kInterruptedStatus = 130;  // 128 + SIGINT, the shells' convention

// Submits one request and collects it to the end; an interrupt cancels it and gives kCancelled.
struct Completed {
  PromptEvent prompt;
  std::vector<SequenceEvent> sequences;  // in order of their index
  DoneEvent done;
};
using OnToken = std::function<void(const TokenEvent&)>;
Result<Completed> RunRequest(Engine& engine, GenerationRequest request, const OnToken& on_token = nullptr);

}  // namespace bloomery
