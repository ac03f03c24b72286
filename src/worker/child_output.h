// What a child process prints, line by line, without ever waiting for it.
#pragma once

#include <boost/asio.hpp>

#include <array>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/unique_fd.h"

namespace bloomery {

// Runs on one io_context thread.
class ChildOutput : public std::enable_shared_from_this<ChildOutput> {
 public:
  // `on_line` gets each line that is not empty as valid UTF-8 without control characters but tabs: a terminal
  // must not be steered by what a child prints. Lines of more than 4 KiB come in pieces.
  ChildOutput(boost::asio::io_context& io, std::function<void(std::string line)> on_line);

  // Begins to read. What it returns is for the child's standard output and error. kIo.
  Result<UniqueFd> Open();
  // Takes what is there; nothing comes after.
  void Close();

 private:
  void Read();
  boost::system::error_code TakeSome();  // would_block: that was all for now
  void Take(std::string_view text);
  void EndLine();

  std::function<void(std::string line)> on_line_;
  boost::asio::posix::stream_descriptor pipe_;
  std::array<char, 16384> buffer_{};
  std::string line_;  // printed and not ended yet
};

}  // namespace bloomery
