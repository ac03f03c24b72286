#include "cli/remote_model.h"

#include <unistd.h>

#include <csignal>

#include "base/log.h"
#include "cli/session.h"

namespace bloomery {
namespace {

namespace fs = std::filesystem;

// A folder that this process can write to, made if it is not there.
bool MakeWritable(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  return !error && ::access(folder.c_str(), W_OK | X_OK) == 0;
}

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

}  // namespace

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

Status FetchModel(ModelFlags& flags) {
  if (!IsS3Uri(flags.model)) return {};
  ASSIGN_OR_RETURN(const S3Uri uri, ParseS3Uri(flags.model));
  ASSIGN_OR_RETURN(const fs::path cache, CacheFolder(flags));
  // One folder a URI: no key's name can leave it, since it is encoded. The last part is the model's name.
  std::string key = uri.key;
  while (key.ends_with('/')) key.pop_back();
  const std::size_t slash = key.rfind('/');
  const std::string name = key.empty() ? uri.bucket : key.substr(slash == std::string::npos ? 0 : slash + 1);
  const std::string above = slash == std::string::npos ? "" : AwsEncode(key.substr(0, slash));
  const fs::path directory = cache / "s3" / uri.bucket / ("_" + above) / AwsEncode(name);

  const InterruptGuard guard;
  ASSIGN_OR_RETURN(const S3Session session, OpenS3(flags.no_sign_request));
  const auto start = std::chrono::steady_clock::now();
  auto report = DownloadDirectory(*session.client, uri, directory, {.progress = TransferLine("downloading")});
  if (const LoadProgress line = TerminalProgress("")) line(1, "");
  if (!report && report.error().code == ErrorCode::kCancelled) {
    fmt::print(stderr, "bloomery: {}\n", report.error().message);
    throw CLI::RuntimeError(kInterruptedStatus);
  }
  if (!report) return std::unexpected(std::move(report).error());
  if (!report->was_there) {
    spdlog::info("downloaded {} ({}) in {:.1f} s into {}", flags.model, HumanBytes(report->total_bytes),
                 std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(),
                 directory.string());
  }
  flags.model = directory.string();
  return {};
}

}  // namespace bloomery
