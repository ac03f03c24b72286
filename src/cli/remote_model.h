// Where models come from that are not on this host: S3, the Hugging Face hub, archives. Fetched once into a
// folder and used from there; or, as shards, from S3 straight into memory.
#pragma once

#include <filesystem>
#include <memory>

#include "base/result.h"
#include "cli/options.h"
#include "server/model_source.h"
#include "storage/download.h"
#include "storage/s3_client.h"

namespace bloomery {

// An S3 client with what it stands on, set up from the environment as AWS's tools are. Ctrl-C ends its
// requests where an InterruptGuard lives.
struct S3Session {
  std::unique_ptr<HttpClient> http;
  std::unique_ptr<CredentialChain> credentials;
  std::unique_ptr<S3Client> client;
};
Result<S3Session> OpenS3(bool anonymous);

// Where what was fetched, or is to be sent, is kept: --cache-dir, BLOOMERY_CACHE, ~/.cache/bloomery/models,
// or below /tmp where there is no home to write to.
Result<std::filesystem::path> CacheFolder(const ModelFlags& flags);

// A line on standard error with bytes, speed and the time that is left; false after Ctrl-C.
std::function<bool(const TransferProgress&)> TransferLine(std::string_view doing);

// Replaces a MODEL that is elsewhere by the directory it is fetched into: below CacheFolder; the hub's in its
// tools' own cache.
// Any other MODEL is left alone. With --load-format s3-stream only small files come to a folder, in memory.
// `progress`: instead of a line on the terminal, and of an end by Ctrl-C.
Status FetchModel(ModelFlags& flags, const LoadProgress& progress = nullptr);

// The same with what a deployment names.
Status FetchModel(ModelFlags& flags, const ModelSource& source, const LoadProgress& progress = nullptr);

// What a fetched model is called: the hub's id, or the last part of the key.
std::string NameOf(const ModelSource& source);

// MODEL is no file of this host, and could be "org/name".
bool NamesHubModel(const std::string& model);

// "1.5 GB"
std::string HumanBytes(std::uint64_t bytes);

}  // namespace bloomery
