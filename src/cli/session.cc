#include "cli/session.h"

#include <unistd.h>

#include <algorithm>
#include <csignal>

#include "cli/ranks.h"

namespace bloomery {
namespace {

// How often a waiting command looks whether Ctrl-C was pressed.
constexpr std::chrono::milliseconds kInterruptPoll{20};

std::atomic<int> g_signals{0};
std::atomic<bool> g_interrupted{false};

void OnSignal(int /*signal*/) {
  if (g_signals.fetch_add(1) > 0) ::_exit(kInterruptedStatus);
  g_interrupted = true;
}

}  // namespace

void EventQueue::OnEvent(std::uint64_t request_id, const GenerationEvent& event) {
  {
    const std::scoped_lock lock(mutex_);
    items_.emplace_back(request_id, event);
  }
  arrived_.notify_one();
}

std::optional<EventQueue::Item> EventQueue::Next(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  if (!arrived_.wait_for(lock, timeout, [this] { return !items_.empty(); })) return std::nullopt;
  Item item = std::move(items_.front());
  items_.pop_front();
  return item;
}

Result<Session> OpenSession(const ModelFlags& flags) {
  ASSIGN_OR_RETURN(const LoadOptions options, ToLoadOptions(flags));
  Session session;
  ASSIGN_OR_RETURN(auto ranks, JoinRanks(flags));
  const bool follows = ranks && ranks->world->rank() > 0;
  ASSIGN_OR_RETURN(session.device, MakeDevice(flags));
  ASSIGN_OR_RETURN(LoadedModel model, LoadModel(options, *session.device,
                                                follows ? nullptr : TerminalProgress(), std::move(ranks)));
  if (follows) {
    RETURN_IF_ERROR(FollowRankZero(std::move(model)));
    throw CLI::Success();
  }
  session.load_s = model.load_s;
  session.engine = std::make_unique<Engine>(std::move(model));
  return session;
}

InterruptGuard::InterruptGuard() {
  g_signals = 0;
  g_interrupted = false;
  std::signal(SIGINT, OnSignal);
  std::signal(SIGTERM, OnSignal);
}

InterruptGuard::~InterruptGuard() {
  std::signal(SIGINT, SIG_DFL);
  std::signal(SIGTERM, SIG_DFL);
}

bool InterruptGuard::interrupted() { return g_interrupted; }

void InterruptGuard::Interrupt() { g_interrupted = true; }

const std::atomic<bool>& InterruptGuard::flag() { return g_interrupted; }

Result<Completed> RunRequest(Engine& engine, GenerationRequest request, const OnToken& on_token) {
  const auto queue = std::make_shared<EventQueue>();
  const std::uint64_t id = request.id;
  engine.Submit(std::move(request), queue);
  Completed completed;
  for (bool cancelled = false;;) {
    if (InterruptGuard::interrupted() && !std::exchange(cancelled, true)) engine.Cancel(id);
    auto item = queue->Next(kInterruptPoll);
    if (!item) continue;
    GenerationEvent& event = item->second;
    if (auto* prompt = std::get_if<PromptEvent>(&event)) {
      completed.prompt = std::move(*prompt);
    } else if (const auto* token = std::get_if<TokenEvent>(&event)) {
      if (on_token) on_token(*token);
    } else if (auto* sequence = std::get_if<SequenceEvent>(&event)) {
      completed.sequences.push_back(std::move(*sequence));
    } else if (auto* failed = std::get_if<FailedEvent>(&event)) {
      return std::unexpected(std::move(failed->error));
    } else if (const auto* done = std::get_if<DoneEvent>(&event)) {
      completed.done = *done;
      std::sort(completed.sequences.begin(), completed.sequences.end(),
                [](const SequenceEvent& a, const SequenceEvent& b) { return a.sequence < b.sequence; });
      return completed;
    }
  }
}

}  // namespace bloomery
