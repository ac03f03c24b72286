#include "storage/http_client.h"

#include <curl/curl.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <cstring>
#include <mutex>

namespace bloomery {
namespace {

// libcurl's largest: a quarter of the calls and of the wake-ups that its default of 16 KiB would cost at 1
// GB/s.
constexpr long kReceiveBufferBytes = 512L << 10U;
constexpr long kStallBytesPerSecond = 1024;

struct EasyDeleter {
  void operator()(CURL* handle) const { ::curl_easy_cleanup(handle); }
};
using EasyHandle = std::unique_ptr<CURL, EasyDeleter>;

struct ListDeleter {
  void operator()(curl_slist* list) const { ::curl_slist_free_all(list); }
};
using HeaderList = std::unique_ptr<curl_slist, ListDeleter>;

// One transfer, as its callbacks see it.
struct Transfer {
  const HttpRequest& request;
  HttpResponse response{};
  std::size_t sent = 0;
  bool begun = false;  // the sink knows the head
  Status sink_status{};
};

std::string_view Trim(std::string_view text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.front())) != 0) text.remove_prefix(1);
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back())) != 0) text.remove_suffix(1);
  return text;
}

std::size_t OnHeader(char* data, std::size_t size, std::size_t count, void* context) {
  auto& transfer = *static_cast<Transfer*>(context);
  const std::string_view line = Trim({data, size * count});
  if (line.starts_with("HTTP/")) {  // of an interim answer (100) too: the last one counts
    transfer.response.headers.clear();
    const std::size_t space = line.find(' ');
    transfer.response.status = space == std::string_view::npos ? 0 : std::atoi(line.data() + space);
  } else if (const std::size_t colon = line.find(':'); colon != std::string_view::npos) {
    std::string name(line.substr(0, colon));
    std::transform(name.begin(), name.end(), name.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    transfer.response.headers.emplace_back(std::move(name), Trim(line.substr(colon + 1)));
  }
  return size * count;
}

bool TakenBySink(const Transfer& transfer) {
  return transfer.request.sink != nullptr && transfer.response.status >= 200 &&
         transfer.response.status < 300;
}

Status BeginOnce(Transfer& transfer) {
  if (std::exchange(transfer.begun, true)) return {};
  return transfer.request.sink->Begin(transfer.response);
}

std::size_t OnBody(char* data, std::size_t size, std::size_t count, void* context) {
  auto& transfer = *static_cast<Transfer*>(context);
  const std::size_t bytes = size * count;
  if (TakenBySink(transfer)) {
    transfer.sink_status = BeginOnce(transfer);
    if (transfer.sink_status)
      transfer.sink_status = transfer.request.sink->Write(std::as_bytes(std::span(data, bytes)));
  } else if (transfer.response.body.size() + bytes > HttpClient::kMaxBodyBytes) {
    transfer.sink_status = Fail(ErrorCode::kTooLarge, "{}: the answer is longer than {} bytes",
                                WithoutQuery(transfer.request.url), HttpClient::kMaxBodyBytes);
  } else {
    transfer.response.body.append(data, bytes);
  }
  return transfer.sink_status ? bytes : 0;  // fewer than given ends the transfer
}

std::size_t OnSend(char* buffer, std::size_t size, std::size_t count, void* context) {
  auto& transfer = *static_cast<Transfer*>(context);
  const std::span<const std::byte> rest = transfer.request.body.subspan(transfer.sent);
  const std::size_t bytes = std::min(rest.size(), size * count);
  if (bytes > 0) std::memcpy(buffer, rest.data(), bytes);
  transfer.sent += bytes;
  return bytes;
}

// A kept connection may turn out to be closed: libcurl then sends again on a new one.
int OnRewind(void* context, curl_off_t offset, int origin) {
  auto& transfer = *static_cast<Transfer*>(context);
  if (origin != SEEK_SET || offset < 0 || static_cast<std::size_t>(offset) > transfer.request.body.size())
    return CURL_SEEKFUNC_FAIL;
  transfer.sent = static_cast<std::size_t>(offset);
  return CURL_SEEKFUNC_OK;
}

int OnProgress(void* context, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  const std::atomic<bool>* cancel = static_cast<Transfer*>(context)->request.cancel;
  return cancel != nullptr && cancel->load(std::memory_order_relaxed) ? 1 : 0;
}

ErrorCode CodeOf(CURLcode code) {
  switch (code) {
    case CURLE_OPERATION_TIMEDOUT:
      return ErrorCode::kDeadlineExceeded;
    case CURLE_ABORTED_BY_CALLBACK:
      return ErrorCode::kCancelled;
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
      return ErrorCode::kPermissionDenied;
    case CURLE_URL_MALFORMAT:
      return ErrorCode::kInvalidArgument;
    case CURLE_OUT_OF_MEMORY:
      return ErrorCode::kOutOfMemory;
    default:
      return ErrorCode::kUnavailable;
  }
}

HeaderList MakeHeaders(const HttpRequest& request) {
  HeaderList list;
  const auto append = [&list](const std::string& line) {
    if (curl_slist* longer = ::curl_slist_append(list.get(), line.c_str()); longer != nullptr) {
      (void)list.release();
      list.reset(longer);
    }
  };
  // A header that ends in ";" is sent with no value; one that ends in ":" would be left out.
  for (const auto& [name, value] : request.headers)
    append(value.empty() ? name + ";" : fmt::format("{}: {}", name, value));
  append("Expect:");  // no round trip before a body
  return list;
}

class CurlClient final : public HttpClient {
 public:
  CurlClient() { ::curl_global_init(CURL_GLOBAL_DEFAULT); }

  Result<HttpResponse> Perform(const HttpRequest& request) override {
    EasyHandle handle = Take();
    if (!handle) return Fail(ErrorCode::kOutOfMemory, "cannot make a connection's handle");
    Transfer transfer{request};
    const HeaderList headers = MakeHeaders(request);
    Prepare(handle.get(), transfer, headers.get());
    const CURLcode code = ::curl_easy_perform(handle.get());
    Put(std::move(handle));
    if (!transfer.sink_status) return std::unexpected(transfer.sink_status.error());
    if (code == CURLE_ABORTED_BY_CALLBACK) return Fail(ErrorCode::kCancelled, "interrupted");
    if (code != CURLE_OK)
      return Fail(CodeOf(code), "{}: {}", WithoutQuery(request.url), ::curl_easy_strerror(code));
    if (TakenBySink(transfer)) RETURN_IF_ERROR(BeginOnce(transfer));  // an empty body
    return std::move(transfer.response);
  }

 private:
  static void Prepare(CURL* handle, Transfer& transfer, curl_slist* headers) {
    const HttpRequest& request = transfer.request;
    ::curl_easy_reset(handle);  // options only: connections stay
    ::curl_easy_setopt(handle, CURLOPT_URL, request.url.c_str());
    ::curl_easy_setopt(handle, CURLOPT_PROTOCOLS_STR, "http,https");
    ::curl_easy_setopt(handle, CURLOPT_PATH_AS_IS, 1L);  // "/../" is a key like any other
    ::curl_easy_setopt(handle, CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
    ::curl_easy_setopt(handle, CURLOPT_NOSIGNAL, 1L);
    ::curl_easy_setopt(handle, CURLOPT_BUFFERSIZE, kReceiveBufferBytes);
    ::curl_easy_setopt(handle, CURLOPT_CONNECTTIMEOUT, static_cast<long>(request.connect_timeout.count()));
    ::curl_easy_setopt(handle, CURLOPT_TIMEOUT, static_cast<long>(request.timeout.count()));
    ::curl_easy_setopt(handle, CURLOPT_LOW_SPEED_LIMIT, kStallBytesPerSecond);
    ::curl_easy_setopt(handle, CURLOPT_LOW_SPEED_TIME, static_cast<long>(request.stall_timeout.count()));
    ::curl_easy_setopt(handle, CURLOPT_HEADERFUNCTION, OnHeader);
    ::curl_easy_setopt(handle, CURLOPT_HEADERDATA, &transfer);
    ::curl_easy_setopt(handle, CURLOPT_WRITEFUNCTION, OnBody);
    ::curl_easy_setopt(handle, CURLOPT_WRITEDATA, &transfer);
    ::curl_easy_setopt(handle, CURLOPT_NOPROGRESS, 0L);
    ::curl_easy_setopt(handle, CURLOPT_XFERINFOFUNCTION, OnProgress);
    ::curl_easy_setopt(handle, CURLOPT_XFERINFODATA, &transfer);
    ::curl_easy_setopt(handle, CURLOPT_HTTPHEADER, headers);
    if (const char* bundle = std::getenv("AWS_CA_BUNDLE"); bundle != nullptr && *bundle != '\0')
      ::curl_easy_setopt(handle, CURLOPT_CAINFO, bundle);
    if (request.direct) ::curl_easy_setopt(handle, CURLOPT_NOPROXY, "*");
    if (request.method == "HEAD") {
      ::curl_easy_setopt(handle, CURLOPT_NOBODY, 1L);
    } else if (request.method == "PUT" || request.method == "POST") {
      ::curl_easy_setopt(handle, CURLOPT_UPLOAD, 1L);
      ::curl_easy_setopt(handle, CURLOPT_INFILESIZE_LARGE, static_cast<curl_off_t>(request.body.size()));
      ::curl_easy_setopt(handle, CURLOPT_UPLOAD_BUFFERSIZE, kReceiveBufferBytes);
      ::curl_easy_setopt(handle, CURLOPT_READFUNCTION, OnSend);
      ::curl_easy_setopt(handle, CURLOPT_READDATA, &transfer);
      ::curl_easy_setopt(handle, CURLOPT_SEEKFUNCTION, OnRewind);
      ::curl_easy_setopt(handle, CURLOPT_SEEKDATA, &transfer);
    }
    if (request.method != "HEAD") ::curl_easy_setopt(handle, CURLOPT_CUSTOMREQUEST, request.method.c_str());
  }

  // The last one put back comes first: its connection is the least likely to have been closed.
  EasyHandle Take() {
    const std::scoped_lock lock(mutex_);
    if (idle_.empty()) return EasyHandle(::curl_easy_init());
    EasyHandle handle = std::move(idle_.back());
    idle_.pop_back();
    return handle;
  }

  void Put(EasyHandle handle) {
    const std::scoped_lock lock(mutex_);
    idle_.push_back(std::move(handle));
  }

  std::mutex mutex_;
  std::vector<EasyHandle> idle_;  // guarded by mutex_
};

}  // namespace

std::string_view HttpResponse::Header(std::string_view lower_case_name) const {
  for (const auto& [name, value] : headers) {
    if (name == lower_case_name) return value;
  }
  return {};
}

std::string OriginOf(std::string_view url) {
  const std::size_t scheme = url.find("://");
  if (scheme == std::string_view::npos) return "";
  std::string origin(url.substr(0, url.find('/', scheme + 3)));
  std::transform(origin.begin(), origin.end(), origin.begin(),
                 [](unsigned char c) { return std::tolower(c); });
  return origin;
}

std::string WithoutQuery(std::string_view url) { return std::string(url.substr(0, url.find_first_of("?#"))); }

std::unique_ptr<HttpClient> MakeHttpClient() { return std::make_unique<CurlClient>(); }

}  // namespace bloomery
