#include "worker/engine_worker.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <string>
#include <thread>

#include "base/log.h"
#include "worker/protocol.h"

namespace bloomery {
namespace {

// How often load figures go to the gateway: fresh enough for a metrics scrape, cheap enough for an idle
// server.
constexpr std::chrono::milliseconds kStatsInterval{250};

// Sends frames from any thread in order. A thread of its own writes, so that a slow gateway never holds up a
// step.
class FrameWriter {
 public:
  explicit FrameWriter(int fd)
      : fd_(fd), thread_([this](const std::stop_token& stop) { ThreadMain(stop); }) {}

  void Send(const WorkerMessage& message) {
    const std::string frame = EncodeFrame(message);
    const std::scoped_lock lock(mutex_);
    queued_ += frame;
    wake_.notify_one();
  }

  // Waits until everything sent so far has been written or the gateway is gone.
  void Flush() {
    std::unique_lock lock(mutex_);
    flushed_.wait(lock, [this] { return (queued_.empty() && !writing_) || broken_; });
  }

 private:
  void ThreadMain(const std::stop_token& stop) {
    std::unique_lock lock(mutex_);
    while (wake_.wait(lock, stop, [this] { return !queued_.empty(); })) {
      std::string batch;
      batch.swap(queued_);
      writing_ = true;
      lock.unlock();
      const bool written = WriteAll(batch);
      lock.lock();
      writing_ = false;
      broken_ = broken_ || !written;
      flushed_.notify_all();
    }
  }

  bool WriteAll(std::string_view bytes) const {
    while (!bytes.empty()) {
      const ssize_t written = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) return false;
      bytes.remove_prefix(static_cast<std::size_t>(written));
    }
    return true;
  }

  const int fd_;
  std::mutex mutex_;
  std::condition_variable_any wake_;
  std::condition_variable_any flushed_;
  std::string queued_;    // guarded by mutex_
  bool writing_ = false;  // guarded by mutex_
  bool broken_ = false;   // guarded by mutex_
  std::jthread thread_;   // last: joins before the rest goes
};

class ForwardingSink final : public EventSink {
 public:
  explicit ForwardingSink(FrameWriter& writer) : writer_(writer) {}
  void OnEvent(std::uint64_t request_id, const GenerationEvent& event) override {
    writer_.Send(EventMessage{request_id, event});
  }

 private:
  FrameWriter& writer_;
};

void ReportStats(const std::stop_token& stop, const Engine& engine, FrameWriter& writer) {
  std::mutex mutex;
  std::condition_variable_any timer;
  std::unique_lock lock(mutex);
  while (!stop.stop_requested()) {
    writer.Send(StatsMessage{engine.stats()});
    timer.wait_for(lock, stop, kStatsInterval, [] { return false; });
  }
}

void Handle(WorkerMessage message, Engine& engine, const std::shared_ptr<ForwardingSink>& sink) {
  if (auto* submit = std::get_if<SubmitMessage>(&message)) {
    engine.Submit(std::move(submit->request), sink);
  } else if (const auto* cancel = std::get_if<CancelMessage>(&message)) {
    engine.Cancel(cancel->request_id);
  }
}

// Reads until the gateway closes its end or breaks the protocol.
Status ServeSocket(int fd, Engine& engine, FrameWriter& writer) {
  const auto sink = std::make_shared<ForwardingSink>(writer);
  FrameReader reader;
  std::array<char, 65536> buffer{};
  for (;;) {
    const ssize_t received = ::recv(fd, buffer.data(), buffer.size(), 0);
    if (received < 0 && errno == EINTR) continue;
    if (received < 0 && errno != ECONNRESET)
      return Fail(ErrorCode::kIo, "gateway socket: {}", std::strerror(errno));
    if (received <= 0) return {};
    reader.Append({buffer.data(), static_cast<std::size_t>(received)});
    for (;;) {
      ASSIGN_OR_RETURN(auto message, reader.Next());
      if (!message) break;
      Handle(*std::move(message), engine, sink);
    }
  }
}

}  // namespace

Result<UniqueFd> ConnectToGateway(const std::string& path) {
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path))
    return Fail(ErrorCode::kInvalidArgument, "{}: too long for a socket's path", path);
  std::memcpy(address.sun_path, path.data(), path.size());
  if (!fd || ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0)
    return Fail(ErrorCode::kUnavailable, "cannot connect to the gateway at {}: {}", path,
                std::strerror(errno));
  return fd;
}

Status RunEngineWorker(int fd, const LoadEngine& load) {
  FrameWriter writer(fd);
  auto engine = load([&writer](double fraction, std::string_view what) {
    writer.Send(ProgressMessage{fraction, std::string(what)});
  });
  if (!engine) {
    writer.Send(LoadFailedMessage{engine.error()});
    writer.Flush();
    return std::unexpected(std::move(engine).error());
  }
  writer.Send(ReadyMessage{(*engine)->info(), 0});
  Status served;
  {
    const std::jthread stats([&](const std::stop_token& stop) { ReportStats(stop, **engine, writer); });
    served = ServeSocket(fd, **engine, writer);
  }
  return served;
}

}  // namespace bloomery
