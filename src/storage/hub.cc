#include "storage/hub.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <map>
#include <random>
#include <thread>

#include "base/json.h"
#include "base/log.h"
#include "base/mapped_file.h"
#include "storage/folder_lock.h"
#include "storage/hub_blob.h"
#include "storage/transfer_pool.h"

namespace bloomery {
namespace {

namespace fs = std::filesystem;

constexpr const char* kDefaultEndpoint = "https://huggingface.co";
constexpr int kAttempts = 6;
constexpr int kMaxRedirects = 5;
constexpr std::size_t kCommitDigits = 40;
constexpr std::size_t kSha256Digits = 64;
constexpr std::size_t kMaxFiles = 10'000;

bool IsTrue(std::string value) {
  std::transform(value.begin(), value.end(), value.begin(), [](unsigned char c) { return std::toupper(c); });
  return value == "1" || value == "ON" || value == "YES" || value == "TRUE";
}

bool IsHex(std::string_view text, std::size_t digits) {
  return text.size() == digits && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

bool IsCommit(std::string_view text) { return IsHex(text, kCommitDigits); }

// A branch, a tag or a commit, which becomes a path: "refs/pr/1" is one, "../x" is not.
bool IsRevision(std::string_view text) {
  return !text.empty() && text.size() < 256 && text.front() != '/' &&
         text.find("..") == std::string_view::npos &&
         std::all_of(
             text.begin(), text.end(),
             [](unsigned char c) {
               return std::isalnum(c) != 0 ||
                      std::string_view("-_./").find(static_cast<char>(c)) != std::string_view::npos;
             });
}

Status MakeFolder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) return Fail(ErrorCode::kIo, "{}: {}", folder.string(), error.message());
  return {};
}

struct HubFile {
  std::string name{};
  std::string etag{};
  std::uint64_t size_bytes = 0;
};

struct HubListing {
  std::string commit;
  std::vector<HubFile> files;
};

class Hub {
 public:
  Hub(HttpClient& http, std::string id, std::string revision, const HubOptions& options)
      : http_(http), id_(std::move(id)), revision_(std::move(revision)), options_(options) {
    std::string folder = "models--" + id_;
    if (const std::size_t slash = folder.find('/'); slash != std::string::npos)
      folder.replace(slash, 1, "--");
    root_ = options_.cache / folder;
    locks_ = options_.cache / ".locks" / folder;
  }

  Result<HubModel> Fetch() {
    if (options_.offline) return FromCache("the hub is not asked (HF_HUB_OFFLINE)");
    auto listing = List();
    if (!listing && listing.error().code == ErrorCode::kUnavailable) {
      auto cached = FromCache(listing.error().message);
      if (cached) spdlog::warn("{}; using what is in {}", listing.error().message, root_.string());
      return cached;
    }
    if (!listing) return std::unexpected(std::move(listing).error());
    RETURN_IF_ERROR(Download(*listing));
    RETURN_IF_ERROR(WriteRef(listing->commit));
    return HubModel{Snapshot(listing->commit), listing->commit, moved_bytes_};
  }

 private:
  fs::path Snapshot(const std::string& commit) const { return root_ / "snapshots" / commit; }

  // The snapshot of the revision as it was when it was last asked for. A snapshot of ours is whole; of one of
  // others, loading finds out.
  Result<HubModel> FromCache(const std::string& why) const {
    std::string commit = revision_;
    if (!IsCommit(commit)) {
      const auto ref = ReadFileToString(root_ / "refs" / revision_);
      commit = ref ? ref->substr(0, ref->find_last_not_of(" \r\n") + 1) : "";
    }
    std::error_code ignored;
    const fs::path snapshot = Snapshot(commit);
    if (!IsCommit(commit) || !fs::exists(snapshot / "config.json", ignored)) {
      return Fail(ErrorCode::kNotFound, "{} at {}: {}, and it is not in {}", id_, revision_, why,
                  options_.cache.string());
    }
    return HubModel{snapshot, commit, 0};
  }

  Result<HubListing> List() {
    const std::string url =
        fmt::format("{}/api/models/{}/revision/{}?blobs=true", options_.endpoint, id_, AwsEncode(revision_));
    ASSIGN_OR_RETURN(const HttpResponse answer, Ask({.url = url}, nullptr));
    ASSIGN_OR_RETURN(const json::value parsed, ParseJson(answer.body, url));
    const auto corrupt = [&url](std::string_view what) {
      return Fail(ErrorCode::kCorrupt, "{}: {}", url, what);
    };
    if (!parsed.is_object()) return corrupt("is not an object");
    HubListing listing;
    ASSIGN_OR_RETURN(const auto commit, GetString(parsed.get_object(), "sha"));
    listing.commit = commit.value_or("");
    const json::value* siblings = parsed.get_object().if_contains("siblings");
    if (!IsCommit(listing.commit) || siblings == nullptr || !siblings->is_array() ||
        siblings->get_array().size() > kMaxFiles)
      return corrupt("has no commit or no list of files");
    std::vector<std::string> names;
    std::map<std::string, const json::object*> entries;
    for (const json::value& sibling : siblings->get_array()) {
      if (!sibling.is_object()) return corrupt("has a file that is not an object");
      ASSIGN_OR_RETURN(const auto name, GetString(sibling.get_object(), "rfilename"));
      if (!name) return corrupt("has a file without a name");
      entries[*name] = &sibling.get_object();
      names.push_back(*name);
    }
    for (const std::string& name : FilesToServe(names)) {
      ASSIGN_OR_RETURN(HubFile file, Describe(listing.commit, name, *entries.at(name)));
      listing.files.push_back(std::move(file));
    }
    if (listing.files.empty())
      return Fail(ErrorCode::kNotFound, "{} at {}: holds no file that a model could be read from", id_,
                  revision_);
    return listing;
  }

  // From the listing, or, where that says too little (older hubs, mirrors), from the file's own headers.
  Result<HubFile> Describe(const std::string& commit, const std::string& name, const json::object& entry) {
    HubFile file{.name = name};
    const json::value* lfs = entry.if_contains("lfs");
    const json::object& source = lfs != nullptr && lfs->is_object() ? lfs->get_object() : entry;
    const json::value* etag = source.if_contains(&source == &entry ? "blobId" : "sha256");
    const json::value* size = source.if_contains("size");
    if (etag != nullptr && etag->is_string() && size != nullptr && size->is_int64() &&
        size->get_int64() >= 0) {
      file.etag = etag->get_string();
      file.size_bytes = static_cast<std::uint64_t>(size->get_int64());
    } else {
      RETURN_IF_ERROR(AskFor(commit, file));
    }
    if (IsCommit(file.etag) || IsHex(file.etag, kSha256Digits)) return file;
    return Fail(ErrorCode::kCorrupt, "{}: the hub names {} by \"{}\", which is no digest", id_, name,
                file.etag);
  }

  Status AskFor(const std::string& commit, HubFile& file) {
    HttpRequest request{.method = "HEAD", .url = UrlOf(commit, file.name)};
    ASSIGN_OR_RETURN(const HttpResponse head, Ask(std::move(request), nullptr, /*follow=*/false));
    const auto either = [&head](std::string_view first, std::string_view second) {
      return std::string(head.Header(head.Header(first).empty() ? second : first));
    };
    file.etag = either("x-linked-etag", "etag");
    if (file.etag.starts_with("W/")) file.etag.erase(0, 2);
    std::erase(file.etag, '"');
    const std::string size = either("x-linked-size", "content-length");
    if (std::from_chars(size.data(), size.data() + size.size(), file.size_bytes).ec != std::errc())
      return Fail(ErrorCode::kCorrupt, "{}: the hub tells no size of {}", id_, file.name);
    return {};
  }

  std::string UrlOf(const std::string& commit, const std::string& name) const {
    return fmt::format("{}/{}/resolve/{}/{}", options_.endpoint, id_, commit, AwsEncode(name, true));
  }

  Status Download(const HubListing& listing) {
    RETURN_IF_ERROR(MakeFolder(root_ / "blobs"));
    RETURN_IF_ERROR(MakeFolder(locks_));
    RETURN_IF_ERROR(MakeFolder(Snapshot(listing.commit)));
    std::vector<const HubFile*> missing;
    std::uint64_t total = 0;
    for (const HubFile& file : listing.files) {
      std::error_code ignored;
      if (fs::exists(root_ / "blobs" / file.etag, ignored)) continue;
      missing.push_back(&file);
      total += file.size_bytes;
    }
    // The largest first, so that none is left alone at the end.
    std::sort(missing.begin(), missing.end(),
              [](const HubFile* a, const HubFile* b) { return a->size_bytes > b->size_bytes; });
    TransferPool pool;
    for (const HubFile* file : missing)
      pool.Add([this, &pool, &listing, file] { return DownloadFile(listing.commit, *file, pool.stop()); });
    RETURN_IF_ERROR(pool.Run(options_.connections, [this, total] {
      return !options_.progress ||
             options_.progress(
                 {.done_bytes = moved_bytes_, .total_bytes = total, .moved_bytes = moved_bytes_});
    }));
    for (const HubFile& file : listing.files) RETURN_IF_ERROR(Link(listing.commit, file));
    return {};
  }

  Status DownloadFile(const std::string& commit, const HubFile& file, const std::atomic<bool>& stop) {
    ASSIGN_OR_RETURN(
        const FolderLock lock,
        FolderLock::Take(locks_ / file.etag, [&stop] { return !stop; }, FolderLock::AfterUse::kKeep));
    std::error_code ignored;
    if (fs::exists(root_ / "blobs" / file.etag, ignored)) return {};  // another process has been quicker
    const auto perform = [this, &stop](HttpRequest request) { return Ask(std::move(request), &stop); };
    return FetchBlob({UrlOf(commit, file.name), file.etag, file.size_bytes}, root_ / "blobs", perform,
                     moved_bytes_);
  }

  Status Link(const std::string& commit, const HubFile& file) const {
    const fs::path link = Snapshot(commit) / file.name;
    const fs::path target = fs::path("../../blobs") / file.etag;
    std::error_code error;
    if (fs::is_symlink(link, error) && fs::read_symlink(link, error) == target) return {};
    // By rename: whoever reads the old one meanwhile sees either.
    const fs::path fresh = link.string() + fmt::format(".{}", ::getpid());
    fs::remove(fresh, error);
    fs::create_symlink(target, fresh, error);
    if (!error) fs::rename(fresh, link, error);
    if (error) return Fail(ErrorCode::kIo, "{}: {}", link.string(), error.message());
    return {};
  }

  Status WriteRef(const std::string& commit) const {
    if (IsCommit(revision_)) return {};
    const fs::path path = root_ / "refs" / revision_;
    RETURN_IF_ERROR(MakeFolder(path.parent_path()));
    const fs::path fresh = path.string() + fmt::format(".{}", ::getpid());
    std::ofstream file(fresh);
    file << commit;
    file.close();
    std::error_code error;
    fs::rename(fresh, path, error);
    if (!file || error) return Fail(ErrorCode::kIo, "{}: cannot write", path.string());
    return {};
  }

  // A request that ends in 2xx (or, not followed, 3xx), made again while that may help.
  Result<HttpResponse> Ask(HttpRequest request, const std::atomic<bool>* stop, bool follow = true) {
    request.cancel = stop;
    for (int attempt = 1;; ++attempt) {
      auto answer = AskOnce(request, follow);
      const bool busy = answer && (answer->status == 429 || answer->status >= 500);
      const bool cut = !answer && answer.error().code == ErrorCode::kUnavailable;
      if (attempt == kAttempts || (!busy && !cut)) return Judged(request, std::move(answer), follow);
      // Bytes that have arrived are the sink's, which alone knows from where to go on.
      if (cut && request.sink != nullptr) return answer;
      RETURN_IF_ERROR(Wait(attempt, stop));
    }
  }

  // The token goes to the hub alone: where large files lie, the address is the permission.
  Result<HttpResponse> AskOnce(HttpRequest request, bool follow) {
    const auto asked = request.headers;
    for (int hops = 0;; ++hops) {
      request.headers = asked;
      if (!options_.token.empty() && OriginOf(request.url) == OriginOf(options_.endpoint))
        request.headers.emplace_back("authorization", "Bearer " + options_.token);
      ASSIGN_OR_RETURN(HttpResponse answer, http_.Perform(request));
      const std::string location(answer.Header("location"));
      if (answer.status / 100 != 3 || location.empty() || (!follow && OriginOf(location) != ""))
        return answer;
      if (hops == kMaxRedirects)
        return Fail(ErrorCode::kUnavailable, "{}: too many redirects", WithoutQuery(request.url));
      const std::string next = location.starts_with("/") ? OriginOf(request.url) + location : location;
      const bool safe = next.starts_with("https://") ||
                        (next.starts_with("http://") && options_.endpoint.starts_with("http://"));
      if (!safe)
        return Fail(ErrorCode::kPermissionDenied, "{}: redirects to where no file may be taken from",
                    WithoutQuery(request.url));
      request.url = next;
    }
  }

  Result<HttpResponse> Judged(const HttpRequest& request, Result<HttpResponse> answer, bool follow) const {
    if (!answer) return answer;
    const int status = answer->status;
    if (status / 100 == 2 || (!follow && status / 100 == 3)) return answer;
    const std::string_view code = answer->Header("x-error-code");
    const std::string what = fmt::format("{} at {}", id_, revision_);
    if (code == "RevisionNotFound")
      return Fail(ErrorCode::kNotFound, "{}: there is no such branch, tag or commit", what);
    if (code == "GatedRepo" || status == 403) {
      return Fail(
          ErrorCode::kPermissionDenied,
          "{}: access must be asked for on the model's page, and HF_TOKEN be of an account that has it",
          what);
    }
    if (status == 401 || status == 404) {
      return Fail(
          options_.token.empty() && status == 401 ? ErrorCode::kPermissionDenied : ErrorCode::kNotFound,
          "{}: the hub ({}) has no such model{}", what, options_.endpoint,
          options_.token.empty() ? ", or it is private: set HF_TOKEN" : " that HF_TOKEN's account may read");
    }
    return Fail(ErrorCode::kUnavailable, "{}: {} was answered with status {}", what,
                WithoutQuery(request.url), status);
  }

  Status Wait(int attempt, const std::atomic<bool>* stop) const {
    thread_local std::mt19937 random{std::random_device{}()};
    const auto longest = options_.first_wait * (1L << attempt);
    std::uniform_int_distribution<std::int64_t> share(longest.count() / 4, longest.count());
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(share(random));
    while (std::chrono::steady_clock::now() < end) {
      if (stop != nullptr && *stop) return Fail(ErrorCode::kCancelled, "interrupted");
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    return {};
  }

  // Constant after construction.
  HttpClient& http_;
  const std::string id_;
  const std::string revision_;
  const HubOptions& options_;
  fs::path root_;
  fs::path locks_;

  std::atomic<std::uint64_t> moved_bytes_{0};
};

}  // namespace

HubOptions HubOptionsFrom(const EnvReader& env) {
  const auto first = [&env](std::initializer_list<const char*> names) {
    for (const char* name : names) {
      if (std::string value = env(name); !value.empty()) return value;
    }
    return std::string();
  };
  HubOptions options;
  options.endpoint = first({"HF_ENDPOINT"});
  if (options.endpoint.empty()) options.endpoint = kDefaultEndpoint;
  while (options.endpoint.ends_with('/')) options.endpoint.pop_back();
  fs::path home = first({"HF_HOME"});
  if (home.empty()) {
    const std::string cache = env("XDG_CACHE_HOME");
    home = (cache.empty() ? fs::path(env("HOME")) / ".cache" : fs::path(cache)) / "huggingface";
  }
  options.cache = first({"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE"});
  if (options.cache.empty()) options.cache = home / "hub";
  options.token = first({"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"});
  if (options.token.empty()) {
    const std::string path = env("HF_TOKEN_PATH");
    options.token = ReadFileToString(path.empty() ? home / "token" : fs::path(path), 4096).value_or("");
  }
  std::erase_if(options.token, [](unsigned char c) { return std::isspace(c) != 0; });
  options.offline = IsTrue(env("HF_HUB_OFFLINE")) || IsTrue(env("TRANSFORMERS_OFFLINE"));
  return options;
}

bool IsHubId(std::string_view text) {
  const std::size_t slash = text.find('/');
  const auto is_name = [](std::string_view name) {
    return !name.empty() && name.size() <= 96 && name.front() != '.' && name.front() != '-' &&
           name.back() != '.' && name.back() != '-' && name.find("--") == std::string_view::npos &&
           name.find("..") == std::string_view::npos &&
           std::all_of(name.begin(), name.end(), [](unsigned char c) {
             return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.';
           });
  };
  if (slash == std::string_view::npos) return is_name(text);
  return is_name(text.substr(0, slash)) && is_name(text.substr(slash + 1));
}

std::vector<std::string> FilesToServe(const std::vector<std::string>& names) {
  const auto ends = [](std::string_view name, std::initializer_list<std::string_view> with) {
    return std::any_of(with.begin(), with.end(), [&](std::string_view end) { return name.ends_with(end); });
  };
  const auto weights = [&](std::string_view name, std::string_view kind) {
    // Not adapters, nor the same weights in their makers' own form (consolidated.*).
    return (name.starts_with("model") || name.starts_with("pytorch_model")) &&
           (name.ends_with(kind) || name.ends_with(std::string(kind) + ".index.json"));
  };
  const bool safetensors = std::any_of(names.begin(), names.end(), [&](const std::string& name) {
    return name.find('/') == std::string::npos && weights(name, ".safetensors");
  });
  std::vector<std::string> files;
  for (const std::string& name : names) {
    if (name.empty() || name.find('/') != std::string::npos || name.find('\\') != std::string::npos ||
        name.front() == '.')
      continue;
    const bool other = ends(name, {".safetensors", ".bin", ".index.json"});
    if (other ? weights(name, safetensors ? ".safetensors" : ".bin")
              : ends(name, {".json", ".txt", ".model", ".jinja", ".properties"}))
      files.push_back(name);
  }
  return files;
}

Result<HubModel> FetchFromHub(HttpClient& http, const std::string& id, const std::string& revision,
                              const HubOptions& options) {
  if (!IsHubId(id))
    return Fail(ErrorCode::kInvalidArgument, "\"{}\" is no model's name on the hub (org/name)", id);
  if (!IsRevision(revision))
    return Fail(ErrorCode::kInvalidArgument, "\"{}\" is no branch, tag or commit", revision);
  return Hub(http, id, revision, options).Fetch();
}

}  // namespace bloomery
