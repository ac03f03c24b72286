// HTTP requests to object stores and credential endpoints, behind one small interface: libcurl is included by
// http_client.cc alone. Connections are kept and used again. Left out: retries, signatures, and what a status
// means, which are the callers' business.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace bloomery {

struct HttpResponse {
  int status = 0;
  std::vector<std::pair<std::string, std::string>> headers{};  // names in lower case
  std::string body{};  // of an answer that no sink took; cut at kMaxBodyBytes

  // The value of a header, "" where there is none.
  std::string_view Header(std::string_view lower_case_name) const;
};

// Where the body of a successful answer (2xx) goes as it arrives. Called from the thread in Perform.
class BodySink {
 public:
  virtual ~BodySink() = default;
  // Status and headers are there, and no byte of the body yet. An error ends the transfer and is Perform's.
  virtual Status Begin(const HttpResponse& head) = 0;
  virtual Status Write(std::span<const std::byte> bytes) = 0;
};

struct HttpRequest {
  std::string method = "GET";
  std::string url{};
  std::vector<std::pair<std::string, std::string>> headers{};
  std::span<const std::byte> body{};  // must live as long as Perform
  BodySink* sink = nullptr;           // null: the body goes into the response
  // A transfer slower than 1 KiB/s for so long has stalled.
  std::chrono::seconds stall_timeout{20};
  std::chrono::seconds connect_timeout{10};
  bool direct = false;  // no proxy: for addresses of this host and its link
  // Of all of it; zero: none.
  std::chrono::seconds timeout{0};
  // When it turns true, Perform ends within a second with kCancelled.
  const std::atomic<bool>* cancel = nullptr;
};

// Thread safe: each thread in Perform has a connection of its own.
class HttpClient {
 public:
  // No answer without a sink is longer: a page of a listing has some hundred KB.
  static constexpr std::size_t kMaxBodyBytes = 8U << 20U;

  virtual ~HttpClient() = default;

  // Any status is an answer. Errors: kUnavailable (no connection, a reset, a body cut short),
  // kDeadlineExceeded, kCancelled, kPermissionDenied (a certificate that cannot be trusted), kTooLarge, or
  // the sink's. Redirects are answers too: whoever follows one signs it anew. Messages hold scheme, host and
  // path of the URL, not its query.
  virtual Result<HttpResponse> Perform(const HttpRequest& request) = 0;
};

// "https://host:8080", in lower case; empty where the text is no URL.
std::string OriginOf(std::string_view url);

// For messages and names: a query may be a signature.
std::string WithoutQuery(std::string_view url);

// Certificates are checked against the system's store, or AWS_CA_BUNDLE. Proxies come from the usual
// variables.
std::unique_ptr<HttpClient> MakeHttpClient();

}  // namespace bloomery
