// A model.tar.gz or zip behind an http(s) URL, perhaps a signed one: fetched in one go on as few connections
// as it takes, and unpacked as archive.h does. Left out: credentials; whoever needs them signs the URL.
#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "storage/archive.h"
#include "storage/download.h"
#include "storage/http_client.h"

namespace bloomery {

// "http://" or "https://".
bool IsHttpUrl(std::string_view text);

// The directory below `folder` that holds what is in the archive: one for each URL (its query, which may be a
// signature, aside) and version (ETag, else Last-Modified), unpacked unless it is there. A connection that is
// cut is made again and goes on; redirects are followed, but not from https to http. Messages hold no query.
//
// kNotFound, kPermissionDenied, kUnavailable: as the server has it; kTooLarge: over `limits`; those of
// UnpackArchive.
Result<std::filesystem::path> FetchUrlArchive(HttpClient& http, const std::string& url,
                                              const std::filesystem::path& folder,
                                              const std::function<bool(const TransferProgress&)>& progress,
                                              const ArchiveLimits& limits = {},
                                              const std::atomic<bool>* cancel = nullptr);

}  // namespace bloomery
