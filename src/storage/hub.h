// Models on a Hugging Face hub, or on what speaks its HTTP API, in the cache that its own tools keep: what
// transformers or huggingface_hub have downloaded is found there, and they find what is downloaded here.
//
//   CACHE/models--ORG--NAME/refs/main              the commit that a branch or tag is at
//                           blobs/ETAG             contents: named by git's SHA-1, large ones by SHA-256
//                           blobs/ETAG.incomplete  the first bytes of one
//                           snapshots/COMMIT/FILE  a link to ../../blobs/ETAG
//   CACHE/.locks/models--ORG--NAME/ETAG.lock       held while a blob is written
//
// The layout: "Understand caching" in huggingface_hub's documentation. Left out: uploads, datasets, and files
// in folders of a repository.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "storage/aws_config.h"
#include "storage/download.h"
#include "storage/http_client.h"

namespace bloomery {

struct HubOptions {
  std::string endpoint{};
  std::string token{};  // "" for none
  std::filesystem::path cache{};
  bool offline = false;                       // what is in the cache, or an error
  int connections = 8;                        // files at a time
  std::chrono::milliseconds first_wait{200};  // before a second try; twice as long before each further one
  // As DownloadOptions'.
  std::function<bool(const TransferProgress&)> progress{};
};

// HF_ENDPOINT; HF_TOKEN, HUGGING_FACE_HUB_TOKEN, or the file HF_TOKEN_PATH or HF_HOME/token; HF_HUB_CACHE,
// HUGGINGFACE_HUB_CACHE, TRANSFORMERS_CACHE, HF_HOME/hub, XDG_CACHE_HOME/huggingface/hub or
// ~/.cache/huggingface/hub; HF_HUB_OFFLINE, TRANSFORMERS_OFFLINE.
HubOptions HubOptionsFrom(const EnvReader& env);

// "name" or "org/name", of letters, digits, "-", "_" and ".".
bool IsHubId(std::string_view text);

// Of a repository's files those that a model is served from: weights of one kind (safetensors where there are
// some, else PyTorch's), configuration, tokenizer. None in folders.
std::vector<std::string> FilesToServe(const std::vector<std::string>& names);

struct HubModel {
  std::filesystem::path directory;  // the snapshot
  std::string commit;
  std::uint64_t moved_bytes = 0;  // over the network
};

// The model's files at `revision` (a branch, a tag or a commit), downloaded where they are not in the cache.
// Blobs are checked against the digest that names them, and are not seen under that name before. Where the
// hub cannot be reached, a revision that is in the cache is used, with a warning. kNotFound,
// kPermissionDenied (with what to set), kUnavailable, kCorrupt, kIo, kCancelled.
Result<HubModel> FetchFromHub(HttpClient& http, const std::string& id, const std::string& revision,
                              const HubOptions& options);

}  // namespace bloomery
