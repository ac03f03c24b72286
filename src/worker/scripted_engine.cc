// An engine process that says what a script tells it to, for the tests of EngineClient: it computes nothing
// and understands nothing. Its first argument is a folder: the n-th start plays <folder>/<n>.script and keeps
// the frames it gets in <folder>/<n>.received, where the test reads them.
// Where the gateway expects ranks, it connects as rank 0 does.
//
//   send HEX    writes these bytes to the gateway
//   await N     waits until N messages have come since the start
//   hang        does nothing any more
//   die         ends as a crash does; without it the process stays until the gateway closes its end
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <string>

#include "worker/engine_client.h"
#include "worker/engine_worker.h"
#include "worker/protocol.h"

namespace bloomery {
namespace {

// Descriptor 3, or a connection to the path in the environment.
int GatewayFd() {
  const char* path = std::getenv(kEngineSocketVariable);
  if (path == nullptr) return 3;
  auto connected = ConnectToGateway(path);
  if (!connected) std::exit(5);
  return connected->Release();
}

std::string FromHex(std::string_view hex) {
  std::string bytes;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2) {
    unsigned byte = 0;
    std::from_chars(hex.data() + i, hex.data() + i + 2, byte, 16);
    bytes.push_back(static_cast<char>(byte));
  }
  return bytes;
}

class Process {
 public:
  explicit Process(const std::filesystem::path& received) : received_(received, std::ios::binary) {}

  void Send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) std::exit(1);
      bytes.remove_prefix(static_cast<std::size_t>(sent));
    }
  }

  // False when the gateway is gone first.
  bool Await(int messages) {
    std::array<char, 4096> buffer{};
    for (;;) {
      while (messages_ < messages) {
        const auto next = reader_.Next();
        if (!next) std::exit(2);
        if (!*next) break;
        ++messages_;
      }
      if (messages_ >= messages) return true;
      const ssize_t count = ::recv(fd_, buffer.data(), buffer.size(), 0);
      if (count <= 0) return false;
      reader_.Append({buffer.data(), static_cast<std::size_t>(count)});
      received_.write(buffer.data(), count).flush();
    }
  }

 private:
  const int fd_ = GatewayFd();
  std::ofstream received_;
  FrameReader reader_;
  int messages_ = 0;
};

int Play(const std::filesystem::path& folder) {
  int start = 1;
  while (std::filesystem::exists(folder / (std::to_string(start) + ".received"))) ++start;
  Process process(folder / (std::to_string(start) + ".received"));
  std::ifstream script(folder / (std::to_string(start) + ".script"));
  if (!script) {
    std::cerr << "no script for start " << start << "\n";
    return 3;
  }
  std::string verb;
  std::string argument;
  while (script >> verb) {
    if (verb == "die") std::raise(SIGKILL);
    if (verb == "hang") ::pause();
    script >> argument;
    if (verb == "send") process.Send(FromHex(argument));
    if (verb == "await" && !process.Await(std::stoi(argument))) return 0;
  }
  process.Await(1 << 30);
  return 0;
}

}  // namespace
}  // namespace bloomery

int main(int argc, char** argv) { return argc == 2 ? bloomery::Play(argv[1]) : 4; }
