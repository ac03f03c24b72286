// libcurl behind our interface, against a server of a few lines that does what real ones do on bad days.
#include "storage/http_client.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <sys/socket.h>

#include <thread>

#include "base/unique_fd.h"

namespace bloomery {
namespace {

using testing::HasSubstr;
using testing::Not;

// Answers the requests of each connection with the next of the given bytes, word for word; "" never answers,
// and a connection is closed after the last.
class ScriptedServer {
 public:
  explicit ScriptedServer(std::vector<std::string> answers) : answers_(std::move(answers)) {
    listener_.Reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = ::htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    auto* generic = reinterpret_cast<sockaddr*>(&address);
    EXPECT_EQ(::bind(listener_.get(), generic, size), 0);
    EXPECT_EQ(::listen(listener_.get(), 8), 0);
    EXPECT_EQ(::getsockname(listener_.get(), generic, &size), 0);
    url_ = fmt::format("http://127.0.0.1:{}/path", ::ntohs(address.sin_port));
    thread_ = std::thread([this] { Serve(); });
  }
  ~ScriptedServer() {
    ::shutdown(listener_.get(), SHUT_RDWR);
    thread_.join();
  }

  const std::string& url() const { return url_; }
  int connections() const { return connections_; }
  // Of a server whose client is done.
  const std::string& received() const { return received_; }

 private:
  void Serve() {
    for (std::size_t next = 0; next < answers_.size();) {
      const UniqueFd connection(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (!connection) return;
      ++connections_;
      while (next < answers_.size() && ReadRequest(connection.get())) {
        const std::string& answer = answers_[next++];
        if (answer.empty()) {
          char byte = 0;
          ::recv(connection.get(), &byte, 1, 0);  // until the client gives up
          break;
        }
        ::send(connection.get(), answer.data(), answer.size(), MSG_NOSIGNAL);
        if (answer.find("content-length: 100\r\n") != std::string::npos) break;  // more than is sent
      }
    }
  }

  bool ReadRequest(int fd) {
    std::string request;
    std::size_t body = 0;
    for (;;) {
      const std::size_t end = request.find("\r\n\r\n");
      if (end != std::string::npos) {
        if (const std::size_t at = request.find("Content-Length: "); at != std::string::npos)
          body = std::stoul(request.substr(at + 16));
        if (request.size() >= end + 4 + body) break;
      }
      char buffer[4096];
      const ssize_t got = ::recv(fd, buffer, sizeof(buffer), 0);
      if (got <= 0) return false;
      request.append(buffer, static_cast<std::size_t>(got));
    }
    received_ += request;
    return true;
  }

  std::vector<std::string> answers_;
  UniqueFd listener_;
  std::string url_;
  std::string received_;
  std::atomic<int> connections_{0};
  std::thread thread_;
};

struct Collect final : BodySink {
  Status Begin(const HttpResponse& head) override {
    status = head.status;
    return {};
  }
  Status Write(std::span<const std::byte> bytes) override {
    text.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    if (text.size() > full) return Fail(ErrorCode::kIo, "the disk is full");
    return {};
  }
  int status = 0;
  std::string text;
  std::size_t full = 1000;
};

constexpr const char* kOk = "HTTP/1.1 200 OK\r\nETag: \"x\"\r\ncontent-length: 5\r\n\r\nhello";

TEST(HttpClientTest, KeepsItsConnection) {
  ScriptedServer server({kOk, "HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\ngone", kOk});
  const auto http = MakeHttpClient();
  const auto plain = http->Perform({.url = server.url()});
  ASSERT_TRUE(plain) << plain.error().message;
  EXPECT_EQ(plain->body, "hello");
  EXPECT_EQ(plain->Header("etag"), "\"x\"");
  Collect sink;
  const auto missing = http->Perform({.url = server.url(), .sink = &sink});
  EXPECT_EQ(missing->body, "gone") << "an error's body is not the sink's";
  EXPECT_EQ(sink.status, 0);
  ASSERT_TRUE(http->Perform({.url = server.url(), .sink = &sink}));
  EXPECT_EQ(sink.text, "hello");
  EXPECT_EQ(server.connections(), 1);
}

TEST(HttpClientTest, SendsBodiesAndHeadersAsGiven) {
  std::string received;
  {
    ScriptedServer server({kOk});
    const std::string body = "the body";
    ASSERT_TRUE(MakeHttpClient()->Perform({.method = "PUT",
                                           .url = server.url() + "/a/../b%20c?x=%2B",
                                           .headers = {{"host", "signed.example"}, {"x-amz-date", "now"}},
                                           .body = std::as_bytes(std::span(body))}));
    received = server.received();
  }
  EXPECT_THAT(received, testing::StartsWith("PUT /path/a/../b%20c?x=%2B HTTP/1.1\r\n"));
  EXPECT_THAT(received, HasSubstr("\r\nHost: signed.example\r\n"));
  EXPECT_THAT(received, HasSubstr("\r\nx-amz-date: now\r\n"));
  EXPECT_THAT(received, Not(HasSubstr("Expect:")));
  EXPECT_THAT(received, testing::EndsWith("\r\n\r\nthe body"));
}

TEST(HttpClientTest, BodiesCutShortAndSilence) {
  ScriptedServer server({"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this", "", ""});
  const auto http = MakeHttpClient();
  EXPECT_EQ(http->Perform({.url = server.url() + "?secret=1"}).error().code, ErrorCode::kUnavailable);
  const auto stalled = http->Perform({.url = server.url(), .stall_timeout = std::chrono::seconds(1)});
  EXPECT_EQ(stalled.error().code, ErrorCode::kDeadlineExceeded);
  const auto late = http->Perform({.url = server.url() + "?secret=1", .timeout = std::chrono::seconds(1)});
  EXPECT_EQ(late.error().code, ErrorCode::kDeadlineExceeded);
  EXPECT_THAT(late.error().message, Not(HasSubstr("secret")));
  EXPECT_EQ(http->Perform({.url = "http://127.0.0.1:1/"}).error().code, ErrorCode::kUnavailable);
}

TEST(HttpClientTest, EndsWhenCancelledOrTheSinkFails) {
  ScriptedServer server({kOk, ""});
  const auto http = MakeHttpClient();
  Collect full;
  full.full = 3;
  const auto failed = http->Perform({.url = server.url(), .sink = &full});
  EXPECT_EQ(failed.error().message, "the disk is full");

  std::atomic<bool> cancel{false};
  std::thread canceller([&cancel] {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    cancel = true;
  });
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(http->Perform({.url = server.url(), .cancel = &cancel}).error().code, ErrorCode::kCancelled);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
  canceller.join();
}

// A redirect is an answer: following it would send a signature to another host.
TEST(HttpClientTest, DoesNotFollowRedirects) {
  ScriptedServer server(
      {"HTTP/1.1 307 Temporary Redirect\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"});
  const auto answer = MakeHttpClient()->Perform({.url = server.url()});
  ASSERT_TRUE(answer) << answer.error().message;
  EXPECT_EQ(answer->status, 307);
}

}  // namespace
}  // namespace bloomery
