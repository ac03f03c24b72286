#include "worker/child_output.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/utf8.h"

namespace bloomery {
namespace {

namespace asio = boost::asio;

constexpr std::size_t kMaxLineBytes = 4096;

}  // namespace

ChildOutput::ChildOutput(asio::io_context& io, std::function<void(std::string line)> on_line)
    : on_line_(std::move(on_line)), pipe_(io) {}

Result<UniqueFd> ChildOutput::Open() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0)
    return Fail(ErrorCode::kIo, "cannot make a pipe: {}", std::strerror(errno));
  pipe_.assign(ends[0]);
  pipe_.non_blocking(true);
  Read();
  return UniqueFd(ends[1]);
}

// Waits and then reads, instead of reading asynchronously: whatever order the loop runs its handlers in, no
// text is on its way to one of them when Close() takes the last.
void ChildOutput::Read() {
  pipe_.async_wait(asio::posix::stream_descriptor::wait_read,
                   [self = shared_from_this()](boost::system::error_code error) {
                     if (error || !self->pipe_.is_open()) return;
                     const boost::system::error_code end = self->TakeSome();
                     if (!end || end == asio::error::would_block) self->Read();
                   });
}

boost::system::error_code ChildOutput::TakeSome() {
  boost::system::error_code error;
  const std::size_t count = pipe_.read_some(asio::buffer(buffer_), error);
  Take({buffer_.data(), count});
  return error;
}

void ChildOutput::Take(std::string_view text) {
  for (const char c : text) {
    // Progress bars draw over their line with carriage returns.
    const bool ends = c == '\n' || c == '\r';
    if (!ends) line_ += c;
    if (ends || line_.size() >= kMaxLineBytes) EndLine();
  }
}

void ChildOutput::EndLine() {
  std::string line = ReplaceInvalidUtf8(std::exchange(line_, {}));
  std::erase_if(line, [](char c) { return static_cast<unsigned char>(c) < 0x20 && c != '\t'; });
  if (!line.empty()) on_line_(std::move(line));
}

void ChildOutput::Close() {
  if (!pipe_.is_open()) return;
  // Not for ever: a process that the child started may hold the pipe, and print.
  constexpr int kMostReads = 64;
  for (int i = 0; i < kMostReads && !TakeSome(); ++i) {
  }
  if (!line_.empty()) EndLine();
  boost::system::error_code ignored;
  pipe_.close(ignored);
}

}  // namespace bloomery
