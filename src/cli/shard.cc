// bloomery shard: a model cut and packed once, so that it loads in the time that reading it takes.
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/mapped_file.h"
#include "checkpoint/checkpoint.h"
#include "cli/commands.h"
#include "cli/remote_model.h"
#include "cli/session.h"
#include "model/shards.h"
#include "storage/upload.h"

namespace bloomery {
namespace {

namespace fs = std::filesystem;

struct ShardFlags {
  ModelFlags model;
  std::string output;  // a directory or s3://
};

// What is beside the weights and is needed to serve them: configuration, tokenizer, templates; and `policy`,
// if there is one, which describes the shards as it does the model.
Status CopySmallFiles(const fs::path& from, const fs::path& policy, const fs::path& to) {
  const auto copy = [](const fs::path& file, const fs::path& copied) -> Status {
    std::error_code error;
    fs::copy_file(file, copied, fs::copy_options::overwrite_existing, error);
    if (error) return Fail(ErrorCode::kIo, "{}: {}", copied.string(), error.message());
    return {};
  };
  for (const char* name : {"config.json", "generation_config.json", "architecture.json", "tokenizer.json",
                           "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
                           "vocab.json", "merges.txt", "chat_template.jinja", "serving.properties"}) {
    std::error_code error;
    if (fs::exists(from / name, error)) RETURN_IF_ERROR(copy(from / name, to / name));
  }
  return policy.empty() ? Status() : copy(policy, to / "architecture.json");
}

S3Uri ManifestAt(S3Uri uri) {
  while (uri.key.ends_with('/')) uri.key.pop_back();
  uri.key += (uri.key.empty() ? "" : "/") + std::string(kShardManifestName);
  return uri;
}

// What differs where another model, another version of it, or another description was sharded: of every
// tensor its name, type, shape and a few bytes in the middle, and of the description all.
Result<std::string> Fingerprint(const Checkpoint& checkpoint, const LoadOptions& options) {
  constexpr std::size_t kSample = 64;
  std::string text;
  for (const std::string& name : checkpoint.names()) {
    const TensorView& view = *checkpoint.Find(name);
    const std::span<const std::byte> bytes = view.pieces ? view.pieces->front().bytes : view.bytes;
    const auto sample =
        bytes.subspan(bytes.size() / 2).first(std::min(kSample, bytes.size() - bytes.size() / 2));
    text += fmt::format("{} {} {} ", name, DTypeName(view.dtype), ShapeString(view.shape));
    text.append(reinterpret_cast<const char*>(sample.data()), sample.size());
  }
  const fs::path own = options.directory / "architecture.json";
  std::error_code ignored;
  for (const fs::path& file :
       {options.directory / "config.json", options.policy.empty() ? own : options.policy}) {
    if (!fs::exists(file, ignored)) continue;
    ASSIGN_OR_RETURN(const std::string contents, ReadFileToString(file));
    text += contents;
  }
  return ShardChecksum(std::as_bytes(std::span(text)));
}

// Called before each layer: what was read of the checkpoint for the one before is not needed again.
ShardProgress Progress(std::shared_ptr<const Checkpoint> checkpoint) {
  const LoadProgress line = TerminalProgress("sharding");
  return [line, checkpoint = std::move(checkpoint)](double fraction, std::string_view what) {
    if (line) line(fraction, what);
    if (checkpoint) checkpoint->Forget();
    return !InterruptGuard::interrupted();
  };
}

// The configuration of a shape that has no directory.
Status WriteConfig(const std::string& shape, const fs::path& to) {
  ASSIGN_OR_RETURN(const json::object config, NamedShapeConfig(shape));
  std::ofstream file(to / "config.json");
  file << json::serialize(config) << "\n";
  if (!file.flush()) return Fail(ErrorCode::kIo, "{}: cannot write", (to / "config.json").string());
  return {};
}

// Leaves with the shells' status after Ctrl-C.
Status OrLeave(Status status) {
  if (status || status.error().code != ErrorCode::kCancelled) return status;
  if (const LoadProgress line = TerminalProgress("")) line(1, "");
  PrintError(status.error().message);
  throw CLI::RuntimeError(kInterruptedStatus);
}

// Said before the work and not after: whether the store can be reached, and has a set there.
Status CheckThere(const S3Session& session, const S3Uri& uri) {
  const auto found = session.client->List(uri.bucket, ManifestAt(uri).key, 1);
  if (!found) {
    // Whoever may write need not be allowed to list.
    return found.error().code == ErrorCode::kPermissionDenied && !uri.key.empty()
               ? Status()
               : std::unexpected(found.error());
  }
  if (found->empty()) return {};
  return Fail(ErrorCode::kInvalidArgument,
              "{} holds a set of shards, or of some; remove it, or choose another prefix", uri.ToString());
}

Status Send(const S3Session& session, const fs::path& set, const S3Uri& uri) {
  const UploadOptions options{.last = std::string(kShardManifestName), .progress = TransferLine("uploading")};
  const auto sent = UploadPath(*session.client, set, uri, options);
  if (const LoadProgress line = TerminalProgress("")) line(1, "");
  if (!sent) return OrLeave(std::unexpected(sent.error()));
  std::error_code ignored;
  fs::remove_all(set, ignored);
  return {};
}

Status Shard(const ShardFlags& flags) {
  ASSIGN_OR_RETURN(const LoadOptions options, ToLoadOptions(flags.model));
  const bool random = !options.shape.empty();
  if (!random && ShardSet::Exists(options.directory)) {
    return Fail(ErrorCode::kInvalidArgument, "{} is a set of shards; name the model it was made from",
                options.directory.string());
  }
  ASSIGN_OR_RETURN(const ModelSpec spec, SpecOf(options));
  const DType dtype = ResolveDType(options.dtype, spec);
  RETURN_IF_ERROR(CutModel(spec, flags.model.grid(), 0));
  ASSIGN_OR_RETURN(const auto device, MakeDevice(flags.model));
  std::shared_ptr<const Checkpoint> checkpoint;
  SourceOfPart source;
  std::string name = options.shape;
  if (random) {
    source = [&](const Part& part) { return MakeRandomSource(spec, part, dtype, *device, /*seed=*/1); };
  } else {
    ASSIGN_OR_RETURN(checkpoint, Checkpoint::Open(options.directory));
    source = [&](const Part& part) { return MakeCheckpointSource(spec, part, *checkpoint, dtype, *device); };
    ASSIGN_OR_RETURN(const std::string fingerprint, Fingerprint(*checkpoint, options));
    name = fmt::format("{}, {} tensors, {} bytes, {}", options.name, checkpoint->names().size(),
                       checkpoint->total_bytes(), fingerprint);
  }
  const InterruptGuard guard;
  fs::path directory = flags.output;
  S3Session session;
  S3Uri uri;
  if (IsS3Uri(flags.output)) {
    ASSIGN_OR_RETURN(uri, ParseS3Uri(flags.output));
    ASSIGN_OR_RETURN(session, OpenS3(flags.model.no_sign_request));
    RETURN_IF_ERROR(CheckThere(session, uri));
    ASSIGN_OR_RETURN(const fs::path cache, CacheFolder(flags.model));
    const std::string which = fmt::format("{} {} {} {} {}", flags.output, name, DTypeName(dtype),
                                          flags.model.tensor_ranks, flags.model.stages);
    directory = cache / "shards" / HexSha256(std::string_view(which));
  }
  // The directory is a set once its manifest is there: what goes with it comes before. One that is to be sent
  // may be finished, and its sending interrupted.
  if (session.client == nullptr || !ShardSet::Exists(directory)) {
    std::error_code error;
    fs::create_directories(directory, error);
    if (error) return Fail(ErrorCode::kIo, "{}: {}", directory.string(), error.message());
    RETURN_IF_ERROR(random ? WriteConfig(options.shape, directory)
                           : CopySmallFiles(options.directory, options.policy, directory));
    RETURN_IF_ERROR(OrLeave(WriteShards(spec, flags.model.grid(), source, name, dtype, *device, directory,
                                        Progress(checkpoint))));
  }
  if (session.client != nullptr) RETURN_IF_ERROR(Send(session, directory, uri));
  fmt::print("{}: {} shards for --tp {} --pp {}, written and verified\n", flags.output, DTypeName(dtype),
             flags.model.tensor_ranks, flags.model.stages);
  return {};
}

}  // namespace

void AddShard(CLI::App& app) {
  auto flags = std::make_shared<ShardFlags>();
  CLI::App* command =
      app.add_subcommand("shard", "Cut and pack a model into files that load at the speed of reading them");
  AddModelArgument(*command, flags->model);
  command
      ->add_option(
          "--shape", flags->model.shape,
          "Instead of MODEL: a published size with random weights, such as opt-30b, to measure loading")
      ->each([flags](const std::string&) { flags->model.load_format = "dummy"; });
  AddPolicyFlag(*command, flags->model);
  command
      ->add_option(
          "--output", flags->output,
          "Directory for the shards, made if it is not there; or s3://BUCKET/PREFIX: they are made in "
          "--cache-dir, sent, and removed there")
      ->required();
  command
      ->add_option("--tp", flags->model.tensor_ranks, "Tensor ranks to cut for; loads at every divisor of it")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command->add_option("--pp", flags->model.stages, "Files for so many stages; loads at any number")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command
      ->add_option("--dtype", flags->model.dtype, "auto (the checkpoint's own), f32, bf16, f16, int8 or int4")
      ->capture_default_str();
  command->add_option("--threads", flags->model.threads, "Threads; 0: every core this process may use")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  command->footer(
      "Interrupted, the same command goes on where it was. Serve the result with `bloomery serve DIR`, or "
      "from "
      "S3 with --load-format s3-stream.");
  command->callback([flags] {
    ExitOnError(FetchModel(flags->model));
    ExitOnError(Shard(*flags));
  });
}

}  // namespace bloomery
