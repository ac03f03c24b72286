// bloomery download and upload: models between a bucket and a directory.
#include "checkpoint/shard_set.h"
#include "cli/commands.h"
#include "cli/remote_model.h"
#include "cli/session.h"
#include "storage/upload.h"

namespace bloomery {
namespace {

struct TransferFlags {
  std::string from;
  std::string to;
  int connections = DownloadOptions().connections;
  std::string part_size = "16MiB";
  bool no_sign_request = false;
};

constexpr const char* kEnvironment =
    "Credentials, region and endpoint are found as by AWS's own tools: AWS_ACCESS_KEY_ID, AWS_PROFILE, the "
    "role of "
    "the pod, container or instance; AWS_REGION; AWS_ENDPOINT_URL_S3 for stores other than Amazon's.";

// Leaves with the shells' status after Ctrl-C, and says how to go on.
template <typename Report>
Result<Report> OrLeave(Result<Report> report) {
  if (const LoadProgress line = TerminalProgress("")) line(1, "");
  if (!report && report.error().code == ErrorCode::kCancelled) {
    PrintError(report.error().message);
    throw CLI::RuntimeError(kInterruptedStatus);
  }
  return report;
}

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::max(1e-3, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
}

std::string Speed(std::uint64_t bytes, double seconds) {
  return fmt::format("in {:.1f} s, {}/s", seconds,
                     HumanBytes(static_cast<std::uint64_t>(static_cast<double>(bytes) / seconds)));
}

Status Download(const TransferFlags& flags) {
  ASSIGN_OR_RETURN(const S3Uri uri, ParseS3Uri(flags.from));
  DownloadOptions options{.connections = flags.connections, .progress = TransferLine("downloading")};
  ASSIGN_OR_RETURN(options.part_bytes, ParseBytes(flags.part_size));
  const InterruptGuard guard;
  ASSIGN_OR_RETURN(const S3Session session, OpenS3(flags.no_sign_request));
  const auto start = std::chrono::steady_clock::now();
  ASSIGN_OR_RETURN(const DownloadReport report,
                   OrLeave(DownloadDirectory(*session.client, uri, flags.to, options)));
  if (report.was_there) {
    fmt::print("{}: as in {} already, {} files, {}\n", flags.to, flags.from, report.files,
               HumanBytes(report.total_bytes));
    return {};
  }
  fmt::print("{}: {} files, {} {}\n", flags.to, report.files, HumanBytes(report.total_bytes),
             Speed(report.moved_bytes, SecondsSince(start)));
  if (report.kept_bytes > 0)
    fmt::print("  {} were there from an interrupted download\n", HumanBytes(report.kept_bytes));
  if (report.unverified > 0) {
    fmt::print("  {} files are checked by their size alone: the store keeps no checksum of them\n",
               report.unverified);
  }
  return {};
}

Status Upload(const TransferFlags& flags) {
  ASSIGN_OR_RETURN(const S3Uri uri, ParseS3Uri(flags.to));
  UploadOptions options{.connections = flags.connections,
                        .last = std::string(kShardManifestName),
                        .progress = TransferLine("uploading")};
  ASSIGN_OR_RETURN(options.part_bytes, ParseBytes(flags.part_size));
  const InterruptGuard guard;
  ASSIGN_OR_RETURN(const S3Session session, OpenS3(flags.no_sign_request));
  const auto start = std::chrono::steady_clock::now();
  ASSIGN_OR_RETURN(const UploadReport report, OrLeave(UploadPath(*session.client, flags.from, uri, options)));
  fmt::print("{}: {} files, {} {}\n", flags.to, report.files, HumanBytes(report.total_bytes),
             Speed(report.moved_bytes, SecondsSince(start)));
  if (report.kept_files > 0) fmt::print("  {} of them were there already\n", report.kept_files);
  return {};
}

void AddTransferFlags(CLI::App& command, TransferFlags& flags) {
  command.add_option("--connections", flags.connections, "Requests in flight")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  command.add_option("--part-size", flags.part_size, "What one request of a large file moves; 5MiB at least")
      ->check([](const std::string& text) -> std::string {
        const auto bytes = ParseBytes(text);
        if (!bytes) return bytes.error().message;
        return *bytes >= (5U << 20U) && *bytes <= (5ULL << 30U) ? "" : "must be from 5MiB to 5GiB";
      })
      ->capture_default_str();
  command.add_flag("--no-sign-request", flags.no_sign_request, "Use no credentials: for public buckets");
}

}  // namespace

void AddDownload(CLI::App& app) {
  auto flags = std::make_shared<TransferFlags>();
  CLI::App* command = app.add_subcommand("download", "Fetch a model from S3 into a directory");
  command->add_option("uri", flags->from, "s3://BUCKET/PREFIX: all that lies under it, or one object")
      ->option_text("URI")
      ->required();
  command->add_option("directory", flags->to, "Directory to make; it appears when all of it is there")
      ->option_text("DIR")
      ->required();
  AddTransferFlags(*command, *flags);
  command->footer(fmt::format(
      "Interrupted or killed, the same command goes on where it was; done once, it fetches nothing "
      "unless the bucket has changed. Every file is checked against the checksum that the store keeps.\n{}\n"
      "  bloomery download s3://models/opt-30b opt-30b\n"
      "  bloomery serve s3://models/opt-30b            does both, by way of a cache",
      kEnvironment));
  command->callback([flags] { ExitOnError(Download(*flags)); });
}

void AddUpload(CLI::App& app) {
  auto flags = std::make_shared<TransferFlags>();
  CLI::App* command = app.add_subcommand("upload", "Put a model's directory, or a file, into S3");
  command->add_option("path", flags->from, "Directory (all files in it, at any depth) or file")
      ->option_text("PATH")
      ->required();
  command->add_option("uri", flags->to, "s3://BUCKET/PREFIX to put it under")->option_text("URI")->required();
  AddTransferFlags(*command, *flags);
  command->footer(fmt::format(
      "Files that are there already with the same bytes are left out, so the same command goes on after "
      "an interruption.\n{}\n"
      "  bloomery upload opt-30b s3://models/opt-30b",
      kEnvironment));
  command->callback([flags] { ExitOnError(Upload(*flags)); });
}

}  // namespace bloomery
