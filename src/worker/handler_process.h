// One worker of a model.py: a Python process, or mpirun with one a rank. Started, spoken to, listened to, and
// ended with everything that it started. Left out: what is sent when, and what follows its end (HandlerPool).
#pragma once

#include <sys/types.h>

#include <boost/asio.hpp>

#include <array>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "worker/child_output.h"
#include "worker/handler_protocol.h"
#include "worker/scratch_folder.h"
#include "worker/spawn.h"

namespace bloomery {

struct HandlerLaunch {
  std::filesystem::path directory;    // of the model; the process's working directory
  std::filesystem::path python_path;  // the folder that djl_python lies in
  std::string python = "python3";
  std::string entry_point = "model.py";
  std::string handler = "handle";
  std::string name;  // in the log, before each line it prints
  int ranks = 1;     // above 1: under mpirun, on this host
  Variables variables;
};

// Everything runs on one io_context thread.
class HandlerProcess : public std::enable_shared_from_this<HandlerProcess> {
 public:
  struct Callbacks {
    // Of several ranks: hello, ready and called when all have said so, pieces from rank 0 alone.
    std::function<void(HandlerMessage)> on_message;
    // It is gone or has been given up; no message follows. Not after End().
    std::function<void(const std::string& why)> on_broken;
    // After that, or after End(): none of its processes that we know is left.
    std::function<void()> on_gone;
  };

  HandlerProcess(boost::asio::io_context& io, HandlerLaunch launch, Callbacks callbacks);
  ~HandlerProcess();
  HandlerProcess(const HandlerProcess&) = delete;
  HandlerProcess& operator=(const HandlerProcess&) = delete;

  Status Start();
  // To every rank.
  void Send(const std::string& frame);
  // Kills it; on_gone follows.
  void End();
  // Kills it and waits; no callback follows.
  void Abandon();

  pid_t pid() const { return pid_; }
  // The last lines it printed, for errors.
  std::string last_words() const;

 private:
  using Protocol = boost::asio::local::stream_protocol;
  struct Rank {
    Rank(boost::asio::io_context& io) : socket(io) {}
    Protocol::socket socket;
    HandlerFrameReader reader;
    std::array<char, 65536> buffer{};
    std::deque<std::shared_ptr<const std::string>> outgoing;
    int number = -1;  // until it says hello
    pid_t pid = -1;
  };

  Result<std::vector<std::string>> Command() const;
  Result<Variables> Environment() const;
  void Accept();
  void ReadSome(const std::shared_ptr<Rank>& rank);
  void WriteNext(const std::shared_ptr<Rank>& rank);
  // False: not of the protocol.
  bool OnMessage(Rank& rank, HandlerMessage message);
  bool OnHello(Rank& rank, const HandlerHello& hello);
  void LogLine(std::string line);
  void Watch();
  void Broken(const std::string& why);
  void Kill();
  void CloseAll();
  void Reap();

  boost::asio::io_context& io_;
  const HandlerLaunch launch_;
  Callbacks callbacks_;
  std::optional<ScratchFolder> scratch_;
  std::string socket_path_;
  Protocol::acceptor acceptor_;
  std::shared_ptr<ChildOutput> output_;  // once started
  std::deque<std::string> last_lines_;
  boost::asio::steady_timer timer_;  // to look whether it has ended; then, whether it is gone
  std::vector<std::shared_ptr<Rank>> ranks_;
  pid_t pid_ = -1;
  bool ended_ = false;
  int met_ = 0;     // ranks that have said hello
  int ready_ = 0;   // ranks that are
  int called_ = 0;  // ranks that have ended the present call
  CallOutcome outcome_ = CallOutcome::kAnswered;
};

}  // namespace bloomery
