// For tests: an HTTP client that asks a function instead of a network, with the network's faults to inject.
#pragma once

#include <algorithm>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "storage/http_client.h"

namespace bloomery {

// Thread safe, where the function is.
class FakeHttp final : public HttpClient {
 public:
  struct Answer {
    HttpResponse response;
    std::size_t cut_after = std::string::npos;  // the connection is reset after so many bytes of the body
  };
  using Respond = std::function<Answer(const HttpRequest&)>;

  explicit FakeHttp(Respond respond) : respond_(std::move(respond)) {}

  Result<HttpResponse> Perform(const HttpRequest& request) override {
    if (request.cancel != nullptr && *request.cancel) return Fail(ErrorCode::kCancelled, "interrupted");
    Answer answer;
    {
      const std::scoped_lock lock(mutex_);
      seen_.push_back(request);
      answer = respond_(request);
    }
    HttpResponse& response = answer.response;
    const std::size_t sent = std::min(answer.cut_after, response.body.size());
    if (request.sink != nullptr && response.status / 100 == 2) {
      HttpResponse head = response;
      head.body.clear();
      RETURN_IF_ERROR(request.sink->Begin(head));
      constexpr std::size_t kPiece = 1000;  // a body comes in pieces
      for (std::size_t at = 0; at < sent; at += kPiece) {
        const std::string_view piece =
            std::string_view(response.body).substr(at, std::min(kPiece, sent - at));
        RETURN_IF_ERROR(request.sink->Write(std::as_bytes(std::span(piece))));
      }
      response.body.clear();
    }
    if (answer.cut_after != std::string::npos) return Fail(ErrorCode::kUnavailable, "connection reset");
    return std::move(response);
  }

  // Of tests that have ended their threads.
  const std::vector<HttpRequest>& seen() const { return seen_; }

  static std::string HeaderOf(const HttpRequest& request, std::string_view name) {
    for (const auto& [key, value] : request.headers) {
      if (key == name) return value;
    }
    return "";
  }

 private:
  Respond respond_;
  std::mutex mutex_;
  std::vector<HttpRequest> seen_;  // guarded by mutex_
};

}  // namespace bloomery
