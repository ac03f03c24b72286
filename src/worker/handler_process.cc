#include "worker/handler_process.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>

#include "base/log_event.h"
#include "base/unique_fd.h"

namespace bloomery {
namespace {

namespace asio = boost::asio;

// Between looks whether it has ended. Its socket tells sooner, unless a process that it forked holds that
// open.
constexpr std::chrono::milliseconds kWatchPoll{100};
// Between looks whether a killed process is gone: one that held much memory takes a while.
constexpr std::chrono::milliseconds kReapPoll{5};
constexpr std::size_t kLastLines = 20;

// A port that nobody listens on now: for MASTER_PORT, where rank 0 of the handler's own library will.
Result<int> FreePort() {
  const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  if (!fd || ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), size) != 0 ||
      ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0)
    return Fail(ErrorCode::kIo, "no free port for MASTER_PORT: {}", std::strerror(errno));
  return ntohs(address.sin_port);
}

// Its process ended; it may still be a zombie.
bool HasEnded(pid_t pid) {
  siginfo_t info{};
  return ::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOHANG | WNOWAIT) != 0 ||
         info.si_pid == pid;
}

}  // namespace

HandlerProcess::HandlerProcess(asio::io_context& io, HandlerLaunch launch, Callbacks callbacks)
    : io_(io), launch_(std::move(launch)), callbacks_(std::move(callbacks)), acceptor_(io), timer_(io) {}

HandlerProcess::~HandlerProcess() { Abandon(); }

Status HandlerProcess::Start() {
  ASSIGN_OR_RETURN(scratch_, ScratchFolder::Make());
  socket_path_ = (scratch_->path() / "handler.sock").string();
  boost::system::error_code error;
  acceptor_.open(Protocol(), error);
  if (!error) acceptor_.bind(Protocol::endpoint(socket_path_), error);
  if (!error) acceptor_.listen(launch_.ranks, error);
  if (error) return Fail(ErrorCode::kIo, "cannot listen on {}: {}", socket_path_, error.message());
  output_ = std::make_shared<ChildOutput>(io_, [weak = weak_from_this()](std::string line) {
    if (const auto self = weak.lock()) self->LogLine(std::move(line));
  });
  ASSIGN_OR_RETURN(const UniqueFd child_end, output_->Open());
  ASSIGN_OR_RETURN(std::vector<std::string> command, Command());
  ASSIGN_OR_RETURN(Variables variables, Environment());
  ASSIGN_OR_RETURN(
      pid_, SpawnProcess({.command = std::move(command),
                          .descriptors = {{child_end.get(), STDOUT_FILENO}, {child_end.get(), STDERR_FILENO}},
                          .variables = std::move(variables),
                          .directory = launch_.directory}));
  Accept();
  Watch();
  return {};
}

Result<std::vector<std::string>> HandlerProcess::Command() const {
  std::vector<std::string> command;
  if (launch_.ranks > 1) {
    // As the engine's own ranks on one host: over shared memory alone.
    command = {"mpirun",
               "-n",
               std::to_string(launch_.ranks),
               "--bind-to",
               "none",
               "--host",
               fmt::format("localhost:{}", launch_.ranks),
               "--mca",
               "btl",
               "self,vader",
               "--mca",
               "btl_vader_single_copy_mechanism",
               "none"};
  }
  command.insert(command.end(), {launch_.python, "-u", "-m", "djl_python.worker", "--socket", socket_path_,
                                 "--entry-point", launch_.entry_point, "--handler", launch_.handler});
  return command;
}

Result<Variables> HandlerProcess::Environment() const {
  Variables variables = launch_.variables;
  std::string path = launch_.python_path.string();
  if (const char* theirs = std::getenv("PYTHONPATH"); theirs != nullptr && *theirs != '\0')
    path += std::string(":") + theirs;
  variables.emplace_back("PYTHONPATH", path);
  if (launch_.ranks == 1) return variables;
  ASSIGN_OR_RETURN(const int port, FreePort());
  for (Variables::value_type& one : OpenMpiFolder(scratch_->path())) variables.push_back(std::move(one));
  variables.emplace_back("MASTER_ADDR", "127.0.0.1");
  variables.emplace_back("MASTER_PORT", std::to_string(port));
  if (::geteuid() == 0) {  // Open MPI wants to be told twice
    variables.emplace_back("OMPI_ALLOW_RUN_AS_ROOT", "1");
    variables.emplace_back("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
  }
  return variables;
}

void HandlerProcess::Accept() {
  auto rank = std::make_shared<Rank>(io_);
  acceptor_.async_accept(rank->socket, [self = shared_from_this(), rank](boost::system::error_code error) {
    if (error || self->ended_) return;
    self->ranks_.push_back(rank);
    self->ReadSome(rank);
    if (self->ranks_.size() < static_cast<std::size_t>(self->launch_.ranks)) {
      self->Accept();
    } else {
      boost::system::error_code ignored;
      self->acceptor_.close(ignored);
    }
  });
}

void HandlerProcess::ReadSome(const std::shared_ptr<Rank>& rank) {
  rank->socket.async_read_some(
      asio::buffer(rank->buffer),
      [self = shared_from_this(), rank](boost::system::error_code error, std::size_t count) {
        if (self->ended_) return;
        if (error) {
          self->Broken("ended");
          return;
        }
        rank->reader.Append({rank->buffer.data(), count});
        for (;;) {
          auto message = rank->reader.Next();
          if (!message) {
            self->Broken(message.error().message);
            return;
          }
          if (!*message) break;
          if (!self->OnMessage(*rank, std::move(**message))) self->Broken("sent a message out of order");
          if (self->ended_) return;
        }
        self->ReadSome(rank);
      });
}

bool HandlerProcess::OnMessage(Rank& rank, HandlerMessage message) {
  if (const auto* hello = std::get_if<HandlerHello>(&message)) {
    if (!OnHello(rank, *hello)) return false;
    if (++met_ < launch_.ranks) return true;
  } else if (rank.number < 0) {
    return false;
  } else if (std::holds_alternative<HandlerReady>(message)) {
    if (++ready_ < launch_.ranks) return true;
  } else if (std::holds_alternative<HandlerPiece>(message)) {
    if (rank.number != 0) return false;
  } else if (const auto* called = std::get_if<HandlerCalled>(&message)) {
    if (rank.number == 0) outcome_ = called->outcome;
    if (++called_ < launch_.ranks) return true;
    called_ = 0;
    message = HandlerCalled{outcome_};
  }
  if (callbacks_.on_message) callbacks_.on_message(std::move(message));
  return true;
}

bool HandlerProcess::OnHello(Rank& rank, const HandlerHello& hello) {
  const bool known = std::any_of(ranks_.begin(), ranks_.end(),
                                 [&](const auto& other) { return other->number == hello.rank; });
  if (rank.number >= 0 || hello.rank >= launch_.ranks || known || hello.pid <= 1) return false;
  rank.number = hello.rank;
  rank.pid = hello.pid;
  return true;
}

void HandlerProcess::Send(const std::string& frame) {
  const auto shared = std::make_shared<const std::string>(frame);
  for (const std::shared_ptr<Rank>& rank : ranks_) {
    rank->outgoing.push_back(shared);
    if (rank->outgoing.size() == 1) WriteNext(rank);
  }
}

void HandlerProcess::WriteNext(const std::shared_ptr<Rank>& rank) {
  asio::async_write(
      rank->socket, asio::buffer(*rank->outgoing.front()),
      [self = shared_from_this(), rank](boost::system::error_code error, std::size_t /*count*/) {
        if (error || self->ended_) return;  // a broken socket shows on the reading side
        rank->outgoing.pop_front();
        if (!rank->outgoing.empty()) self->WriteNext(rank);
      });
}

// --- what it prints ---

void HandlerProcess::LogLine(std::string line) {
  LogEvent(spdlog::level::info, "output", {{"model", launch_.name}, {"worker", pid_}, {"message", line}},
           fmt::format("{}: {}", launch_.name, line));
  last_lines_.push_back(std::move(line));
  if (last_lines_.size() > kLastLines) last_lines_.pop_front();
}

std::string HandlerProcess::last_words() const {
  std::string words;
  for (const std::string& line : last_lines_) words += (words.empty() ? "" : "\n") + line;
  return words;
}

// --- its end ---

void HandlerProcess::Watch() {
  timer_.expires_after(kWatchPoll);
  timer_.async_wait([self = shared_from_this()](boost::system::error_code error) {
    if (error || self->ended_) return;
    if (HasEnded(self->pid_)) {
      self->Broken("ended");
    } else {
      self->Watch();
    }
  });
}

void HandlerProcess::Broken(const std::string& why) {
  if (ended_) return;
  const auto on_broken = callbacks_.on_broken;
  End();
  if (on_broken) on_broken(why);
}

void HandlerProcess::End() {
  if (ended_) return;
  ended_ = true;
  Kill();
  CloseAll();
  Reap();
}

void HandlerProcess::Kill() {
  if (pid_ <= 0) return;
  // The groups first, while their leaders' numbers cannot be anybody else's. mpirun's ranks lead groups of
  // their own.
  for (const std::shared_ptr<Rank>& rank : ranks_) {
    if (rank->pid > 1 && rank->pid != pid_) ::kill(-rank->pid, SIGKILL);
  }
  ::kill(-pid_, SIGKILL);
}

void HandlerProcess::CloseAll() {
  boost::system::error_code ignored;
  if (output_) output_->Close();
  acceptor_.close(ignored);
  for (const std::shared_ptr<Rank>& rank : ranks_) rank->socket.close(ignored);
  timer_.cancel();
}

void HandlerProcess::Reap() {
  if (pid_ > 0 && !HasEnded(pid_)) {
    timer_.expires_after(kReapPoll);
    timer_.async_wait([self = shared_from_this()](boost::system::error_code error) {
      if (!error && self->pid_ > 0) self->Reap();
    });
    return;
  }
  if (pid_ > 0) ::waitpid(pid_, nullptr, 0);
  pid_ = -1;
  scratch_.reset();
  // Posted: whoever ended it is still at it.
  asio::post(io_, [self = shared_from_this()] {
    const auto on_gone = std::exchange(self->callbacks_, {}).on_gone;
    if (on_gone) on_gone();
  });
}

void HandlerProcess::Abandon() {
  callbacks_ = {};
  ended_ = true;
  if (pid_ <= 0) return;
  Kill();
  CloseAll();
  ::waitpid(pid_, nullptr, 0);
  pid_ = -1;
  scratch_.reset();
}

}  // namespace bloomery
