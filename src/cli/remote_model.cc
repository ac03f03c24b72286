#include "cli/remote_model.h"

#include <unistd.h>

#include <csignal>
#include <fstream>
#include <optional>

#include "api/management.h"
#include "base/log.h"
#include "cli/commands.h"
#include "cli/session.h"
#include "storage/archive.h"
#include "storage/folder_lock.h"
#include "storage/hub.h"
#include "storage/s3_source.h"
#include "storage/url_archive.h"
#include "worker/scratch_folder.h"

namespace bloomery {
namespace {

namespace fs = std::filesystem;

// A folder that this process can write to, made if it is not there.
bool MakeWritable(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  return !error && ::access(folder.c_str(), W_OK | X_OK) == 0;
}

}  // namespace

Result<fs::path> CacheFolder(const ModelFlags& flags) {
  const std::string chosen = flags.cache_dir.empty() ? ProcessEnvironment("BLOOMERY_CACHE") : flags.cache_dir;
  if (!chosen.empty()) {
    if (MakeWritable(chosen)) return fs::path(chosen);
    return Fail(ErrorCode::kIo, "{}: downloaded models cannot be kept there: not a folder to write to",
                chosen);
  }
  const std::string home = ProcessEnvironment("HOME");
  if (const fs::path folder = fs::path(home) / ".cache/bloomery/models";
      !home.empty() && MakeWritable(folder))
    return folder;
  if (const fs::path folder = fmt::format("/tmp/bloomery-{}/models", ::getuid()); MakeWritable(folder))
    return folder;
  return Fail(ErrorCode::kIo,
              "no folder to keep downloaded models in: HOME and /tmp cannot be written to; name one with "
              "--cache-dir");
}

std::string HumanBytes(std::uint64_t bytes) {
  const auto value = static_cast<double>(bytes);
  if (value >= 1e9) return fmt::format("{:.2f} GB", value / 1e9);
  if (value >= 1e6) return fmt::format("{:.1f} MB", value / 1e6);
  if (value >= 1e3) return fmt::format("{:.1f} kB", value / 1e3);
  return fmt::format("{} bytes", bytes);
}

Result<S3Session> OpenS3(bool anonymous) {
  std::signal(SIGPIPE, SIG_IGN);  // a connection that breaks is an error, not the end
  S3Session session;
  session.http = MakeHttpClient();
  session.credentials = std::make_unique<CredentialChain>(*session.http, ProcessEnvironment, anonymous);
  S3Options options{.cancel = &InterruptGuard::flag()};
  ASSIGN_OR_RETURN(options.endpoint, FindS3Endpoint(*session.http, ProcessEnvironment));
  session.client = std::make_unique<S3Client>(*session.http, *session.credentials, std::move(options));
  return session;
}

std::function<bool(const TransferProgress&)> TransferLine(std::string_view doing) {
  const LoadProgress line = TerminalProgress(doing);
  const auto start = std::chrono::steady_clock::now();
  return [line, start](const TransferProgress& progress) {
    if (line && progress.waiting) {
      line(0, "waiting for another process that does the same");
    } else if (line) {
      const double seconds =
          std::max(1e-3, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
      const double speed = static_cast<double>(progress.moved_bytes) / seconds;
      const auto left = static_cast<double>(progress.total_bytes - progress.done_bytes);
      std::string what = fmt::format("of {}, {}/s", HumanBytes(progress.total_bytes),
                                     HumanBytes(static_cast<std::uint64_t>(speed)));
      if (speed > 0) what += fmt::format(", {:.0f} s left", left / speed);
      const double fraction = static_cast<double>(progress.done_bytes) /
                              static_cast<double>(std::max<std::uint64_t>(1, progress.total_bytes));
      line(std::min(fraction, 0.999), what);
    }
    return !InterruptGuard::interrupted();
  };
}

namespace {

// What is fetched for a server is told to whoever asks it.
std::function<bool(const TransferProgress&)> LineFor(const LoadProgress& progress) {
  if (!progress) return TransferLine("downloading");
  return [progress](const TransferProgress& transfer) {
    const auto total = static_cast<double>(std::max<std::uint64_t>(1, transfer.total_bytes));
    progress(std::min(static_cast<double>(transfer.done_bytes) / total, 0.999),
             transfer.waiting ? "waiting for another download of the same"
                              : fmt::format("downloading {}", HumanBytes(transfer.total_bytes)));
    return !InterruptGuard::interrupted();
  };
}

void EndLine(const LoadProgress& progress) {
  if (const LoadProgress line = progress ? nullptr : TerminalProgress("")) line(1, "");
}

// An interruption is no failure: it says how to go on.
Status Interrupted(const Error& error, const LoadProgress& progress) {
  if (error.code != ErrorCode::kCancelled || progress) return std::unexpected(error);
  PrintError(error.message);
  throw CLI::RuntimeError(kInterruptedStatus);
}

void LogFetched(std::string_view what, std::uint64_t bytes, std::chrono::steady_clock::time_point start,
                const fs::path& directory) {
  if (bytes == 0) return;
  spdlog::info("fetched {} ({}) in {:.1f} s into {}", what, HumanBytes(bytes),
               std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(),
               directory.string());
}

bool IsArchiveName(std::string_view name) {
  return name.ends_with(".tar.gz") || name.ends_with(".tgz") || name.ends_with(".tar") ||
         name.ends_with(".zip");
}

std::string WithoutArchiveSuffix(const std::string& name) {
  return IsArchiveName(name) ? name.substr(0, name.find('.')) : name;
}

// What lies above a key's last part, and that part.
std::pair<std::string, std::string> SplitKey(std::string key) {
  while (key.ends_with('/')) key.pop_back();
  const std::size_t slash = key.rfind('/');
  if (slash == std::string::npos) return {"", key};
  return {key.substr(0, slash), key.substr(slash + 1)};
}

std::string NameOf(const S3Uri& uri) { return uri.key.empty() ? uri.bucket : SplitKey(uri.key).second; }

// One folder a URI: no key's name can leave it, since it is encoded.
fs::path FolderOf(const fs::path& cache, const S3Uri& uri) {
  return cache / "s3" / uri.bucket / ("_" + AwsEncode(SplitKey(uri.key).first)) / AwsEncode(NameOf(uri));
}

// `unpack` into the folder that stands for this version of an archive, unless it is there.
Status UnpackOnce(const fs::path& folder, const std::function<Status()>& unpack) {
  std::error_code ignored;
  fs::create_directories(folder.parent_path(), ignored);
  ASSIGN_OR_RETURN(const FolderLock lock,
                   FolderLock::Take(folder, [] { return !InterruptGuard::interrupted(); }));
  return fs::exists(folder, ignored) ? Status() : unpack();
}

Status FetchS3(ModelFlags& flags, const S3Uri& uri, const LoadProgress& progress) {
  ASSIGN_OR_RETURN(const fs::path cache, CacheFolder(flags));
  ASSIGN_OR_RETURN(const S3Session session, OpenS3(flags.no_sign_request));
  fs::path directory = FolderOf(cache, uri);
  const auto start = std::chrono::steady_clock::now();
  if (IsArchiveName(uri.key)) {
    ASSIGN_OR_RETURN(const S3Head head, session.client->Head(uri));
    directory += "-" + AwsEncode(head.etag.substr(head.etag.starts_with('"') ? 1 : 0).substr(0, 32));
    RETURN_IF_ERROR(UnpackOnce(directory, [&] {
      return UnpackArchive(*session.client, uri, directory, {}, &InterruptGuard::flag());
    }));
  } else {
    // Loaded next: what half of the memory holds is still there then.
    const DownloadOptions options{.max_cached_bytes = AvailableMemoryBytes() / 2,
                                  .progress = LineFor(progress)};
    const auto report = DownloadDirectory(*session.client, uri, directory, options);
    EndLine(progress);
    if (!report) return Interrupted(report.error(), progress);
    LogFetched(uri.ToString(), report->moved_bytes, start, directory);
  }
  flags.model = directory.string();
  flags.known_as = WithoutArchiveSuffix(NameOf(uri));
  return {};
}

Status FetchHub(ModelFlags& flags, const ModelSource& source, const LoadProgress& progress) {
  std::signal(SIGPIPE, SIG_IGN);
  const auto http = MakeHttpClient();
  HubOptions options = HubOptionsFrom(ProcessEnvironment);
  options.progress = LineFor(progress);
  const auto start = std::chrono::steady_clock::now();
  const auto model =
      FetchFromHub(*http, source.text, source.revision.empty() ? "main" : source.revision, options);
  EndLine(progress);
  if (!model) return Interrupted(model.error(), progress);
  LogFetched(source.text, model->moved_bytes, start, model->directory);
  flags.model = model->directory.string();
  flags.known_as = source.text;
  return {};
}

Status UnpackLocal(ModelFlags& flags) {
  const fs::path archive = flags.model;
  ASSIGN_OR_RETURN(const fs::path cache, CacheFolder(flags));
  std::error_code error;
  const auto size = fs::file_size(archive, error);
  const auto time = fs::last_write_time(archive, error).time_since_epoch().count();
  const fs::path whole = fs::canonical(archive, error);
  if (error) return Fail(ErrorCode::kIo, "{}: {}", archive.string(), error.message());
  const std::string version = fmt::format("{}-{}-{}", whole.string(), size, time);
  const fs::path directory = cache / "archives" / HexSha256(std::string_view(version));
  RETURN_IF_ERROR(
      UnpackOnce(directory, [&] { return UnpackArchive(archive, directory, {}, &InterruptGuard::flag()); }));
  flags.model = directory.string();
  flags.known_as = WithoutArchiveSuffix(archive.filename().string());
  return {};
}

Status FetchUrl(ModelFlags& flags, const LoadProgress& progress) {
  std::signal(SIGPIPE, SIG_IGN);
  ASSIGN_OR_RETURN(const fs::path cache, CacheFolder(flags));
  const auto http = MakeHttpClient();
  const auto directory =
      FetchUrlArchive(*http, flags.model, cache / "http", LineFor(progress), {}, &InterruptGuard::flag());
  EndLine(progress);
  if (!directory) return Interrupted(directory.error(), progress);
  flags.known_as = ModelNameOf(flags.model);
  flags.model = directory->string();
  return {};
}

// Larger objects beside a set's shards are not read by anybody.
constexpr std::uint64_t kMaxSmallBytes = 64U << 20U;

// What is small of a set (its manifest, configuration, tokenizer) into a folder in memory; its shards are
// read where they are, by each rank its own.
Status StreamS3(ModelFlags& flags, const S3Uri& uri) {
  ASSIGN_OR_RETURN(S3Session opened, OpenS3(flags.no_sign_request));
  const auto session = std::make_shared<const S3Session>(std::move(opened));
  const std::string prefix = uri.key.empty() || uri.key.ends_with('/') ? uri.key : uri.key + "/";
  ASSIGN_OR_RETURN(const std::vector<S3Object> objects, session->client->List(uri.bucket, prefix));
  ASSIGN_OR_RETURN(auto made, ScratchFolder::Make());
  const auto folder = std::make_shared<const ScratchFolder>(std::move(made));
  for (const S3Object& object : objects) {
    const std::string name = object.key.substr(prefix.size());
    if (name.empty() || name.find('/') != std::string::npos || name.ends_with(".safetensors") ||
        object.size_bytes > kMaxSmallBytes)
      continue;
    ASSIGN_OR_RETURN(const auto source, OpenS3Object(*session->client, {uri.bucket, object.key}));
    std::string text(source->size_bytes(), '\0');
    RETURN_IF_ERROR(source->ReadAt(0, std::as_writable_bytes(std::span(text))));
    std::ofstream(folder->path() / name, std::ios::binary) << text;
  }
  if (!ShardSet::Exists(folder->path())) {
    return Fail(ErrorCode::kNotFound,
                "{}: no set of shards (it has no {}); make one with `bloomery shard` and `bloomery upload`, "
                "or leave --load-format {} out",
                uri.ToString(), kShardManifestName, kStreamFormat);
  }
  flags.model = folder->path().string();
  flags.known_as = NameOf(uri);
  flags.open_shard_file = [session, folder, uri, prefix](const std::string& name) {
    return OpenS3Object(*session->client, {uri.bucket, prefix + name});
  };
  return {};
}

}  // namespace

Status FetchModel(ModelFlags& flags, const LoadProgress& progress) {
  std::error_code ignored;
  if (IsS3Uri(flags.model)) return FetchModel(flags, {SourceKind::kS3, flags.model, {}}, progress);
  if (flags.load_format == kStreamFormat)
    return Fail(ErrorCode::kInvalidArgument, "--load-format {} goes with a MODEL s3://BUCKET/PREFIX",
                kStreamFormat);
  if (IsHttpUrl(flags.model)) {
    std::optional<InterruptGuard> guard;
    if (!progress) guard.emplace();
    return FetchUrl(flags, progress);
  }
  if (IsArchiveName(flags.model) && fs::is_regular_file(flags.model, ignored)) {
    std::optional<InterruptGuard> guard;
    if (!progress) guard.emplace();
    return UnpackLocal(flags);
  }
  return NamesHubModel(flags.model)
             ? FetchModel(flags, {SourceKind::kHub, flags.model, flags.revision}, progress)
             : Status();
}

std::string NameOf(const ModelSource& source) {
  const auto uri = ParseS3Uri(source.text);
  return source.kind == SourceKind::kS3 && uri ? NameOf(*uri) : source.text;
}

bool NamesHubModel(const std::string& model) {
  std::error_code ignored;
  return model.find('/') != std::string::npos && IsHubId(model) && !fs::exists(model, ignored);
}

Status FetchModel(ModelFlags& flags, const ModelSource& source, const LoadProgress& progress) {
  if (source.kind == SourceKind::kDirectory) {
    flags.model = source.text;
    return {};
  }
  std::optional<InterruptGuard> guard;
  if (!progress) guard.emplace();
  if (source.kind == SourceKind::kHub) return FetchHub(flags, source, progress);
  ASSIGN_OR_RETURN(const S3Uri uri, ParseS3Uri(source.text));
  return flags.load_format == kStreamFormat ? StreamS3(flags, uri) : FetchS3(flags, uri, progress);
}

}  // namespace bloomery
