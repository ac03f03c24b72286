// One file's contents in a hub's cache: downloaded in order, so that an interrupted download, ours or
// huggingface_hub's, goes on from its length; hashed on the way; renamed when it is what its name says.
#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <string>

#include "base/result.h"
#include "storage/http_client.h"

namespace bloomery {

struct HubBlob {
  std::string url{};
  std::string etag{};  // git's SHA-1 of a blob, or a SHA-256: 40 or 64 hexadecimal digits
  std::uint64_t size_bytes = 0;
};

// Performs a request, again where that may help, with redirects followed. What `Perform` of the HTTP client
// does otherwise.
using HubRequest = std::function<Result<HttpResponse>(HttpRequest)>;

// Makes `folder`/ETAG. `moved` grows by what comes over the network, and by nothing in the end where it had
// to be fetched again.
Status FetchBlob(const HubBlob& blob, const std::filesystem::path& folder, const HubRequest& perform,
                 std::atomic<std::uint64_t>& moved);

}  // namespace bloomery
