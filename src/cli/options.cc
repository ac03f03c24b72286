#include "cli/options.h"

#include <unistd.h>

#include <charconv>
#include <cmath>
#include <cstdlib>

#include "base/log.h"
#include "base/system.h"
#include "kernels/cpu_device.h"

namespace bloomery {
namespace {

Result<std::optional<DType>> DTypeFlag(const std::string& name) {
  if (name == "auto") return std::nullopt;
  const auto dtype = DTypeFromName(name);
  if (!dtype)
    return Fail(ErrorCode::kInvalidArgument, "--dtype {}: expected auto, f32, bf16, f16, int8 or int4", name);
  return dtype;
}

Result<std::optional<Placement>> PlacementFlags(const ModelFlags& flags) {
  if (flags.placement != "auto" && !flags.max_memory.empty())
    return Fail(ErrorCode::kInvalidArgument, "--max-memory goes with --placement auto");
  if (flags.placement == "memory") return std::nullopt;
  if (!ShardSet::Exists(flags.model)) {
    return Fail(
        ErrorCode::kInvalidArgument,
        "--placement {} needs packed weights: make them with `bloomery shard`, and name their directory",
        flags.placement);
  }
  Placement placement;
  placement.layers_on_disk = flags.placement == "disk";
  if (!flags.max_memory.empty()) {
    ASSIGN_OR_RETURN(placement.memory_bytes, ParseBytes(flags.max_memory));
  } else if (flags.placement == "auto") {
    placement.memory_bytes =
        AvailableMemoryBytes() / 10 * 9 / static_cast<std::uint64_t>(flags.grid().size());
  }
  return placement;
}

}  // namespace

void AddModelArgument(CLI::App& command, ModelFlags& flags) {
  command
      .add_option("model", flags.model,
                  "Model directory (Hugging Face layout), s3://BUCKET/PREFIX of one, a .tar.gz or .zip (also "
                  "http(s)://) of "
                  "one, or ORG/NAME "
                  "on the Hugging Face hub; without, the built-in demo model")
      ->option_text("[MODEL]");
  command
      .add_option("--revision", flags.revision,
                  "Branch, tag or commit of a MODEL on the hub; HF_TOKEN, HF_ENDPOINT, HF_HOME and "
                  "HF_HUB_OFFLINE mean what they do to its own tools")
      ->capture_default_str();
  command.add_option("--cache-dir", flags.cache_dir,
                     "Where a MODEL from S3 or an archive is kept; default: $BLOOMERY_CACHE, or "
                     "~/.cache/bloomery/models");
  command.add_flag("--no-sign-request", flags.no_sign_request,
                   "Fetch a MODEL from S3 without credentials: for public buckets");
}

void AddPolicyFlag(CLI::App& command, ModelFlags& flags) {
  command.add_option(
      "--policy", flags.policy,
      "JSON description of MODEL's architecture: tensor names, layout, how it splits over ranks; "
      "default: architecture.json beside its config.json, or what is built in");
}

void AddModelFlags(CLI::App& command, ModelFlags& flags, bool with_shapes) {
  AddModelArgument(command, flags);
  AddPolicyFlag(command, flags);
  std::vector<std::string> formats = {"auto", kStreamFormat};
  std::string meaning =
      "auto: read MODEL; s3-stream: shards at s3://BUCKET/PREFIX straight into memory, each rank its own";
  if (with_shapes) {
    command.add_option(
        "--shape", flags.shape,
        "Instead of MODEL: a published size with random weights, such as opt-1.3b or bloom-176b");
    formats.emplace_back("dummy");
    meaning += "; dummy: random weights made in place (with --shape)";
  }
  command.add_option("--load-format", flags.load_format, meaning)
      ->check(CLI::IsMember(formats))
      ->capture_default_str();
  command
      .add_option("--dtype", flags.dtype,
                  "Weights in memory: auto (the checkpoint's own), f32, bf16, f16, int8 or int4")
      ->capture_default_str();
  command.add_option("--kv-dtype", flags.kv_dtype, "KV cache: auto, f32, bf16, f16 or int8")
      ->capture_default_str();
  command
      .add_option(
          "--placement", flags.placement,
          "Of shards: memory: all weights, or fail; auto: layers beyond --max-memory are read from disk in "
          "every step; disk: all layers")
      ->check(CLI::IsMember({"memory", "auto", "disk"}))
      ->capture_default_str();
  command.add_option(
      "--max-memory", flags.max_memory,
      "With --placement auto: memory for the weights of each rank, such as 12GiB; default: nine "
      "tenths of what is free, shared by the ranks");
  command.add_option("--threads", flags.threads, "Compute threads of each rank; 0: every core it may use")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  command.add_option("--kv-cache-memory", flags.kv_cache_memory,
                     "Memory for the KV cache, such as 2GiB; default: within half of what is free");
  command
      .add_option("--max-context-tokens", flags.max_context_tokens,
                  "Longest prompt and answer together; 0: what the model was made for")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command
      .add_option("--max-batch-tokens", flags.max_batch_tokens,
                  "Tokens computed in one step; long prompts are cut to fit")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  command
      .add_option(
          "--max-prefill-tokens", flags.max_prefill_tokens,
          "Prompt tokens read in a step beside running sequences; 0: as many as there are of these, 16 at "
          "least, or all that wait where they fit into one step and are many times the requests that run")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command.add_option("--max-batch-size", flags.max_batch_size, "Sequences computed together")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command
      .add_option("--max-queued-tokens", flags.max_queued_tokens,
                  "Prompt tokens that may wait for their turn; requests beyond are refused")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command.add_flag("--no-prefix-cache", flags.no_prefix_cache,
                   "Compute every prompt whole, whatever earlier ones began with");
  command
      .add_option("--speculative-tokens", flags.speculative_tokens,
                  "Tokens guessed from the text so far and verified in one step, at most; 0: none. The "
                  "tokens that come out are the same")
      ->check(CLI::Range(0, 64))
      ->capture_default_str();
}

void AddRankFlags(CLI::App& command, ModelFlags& flags) {
  command
      .add_option("--tp", flags.tensor_ranks,
                  "Tensor parallelism: ranks that share every layer; started by mpirun")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command
      .add_option("--pp", flags.stages,
                  "Pipeline parallelism: stages of consecutive layers, of --tp ranks each")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command.add_option("--hostfile", flags.hostfile,
                     "Open MPI's list of hosts for the ranks; default: this host");
  command
      .add_option("--mpirun-arg", flags.mpirun_args,
                  "A word for mpirun before the program; may be given several times")
      ->allow_extra_args(false);
}

Result<LoadOptions> ToLoadOptions(const ModelFlags& flags) {
  LoadOptions options;
  if (flags.shape.empty() != (flags.load_format != "dummy")) {
    return Fail(ErrorCode::kInvalidArgument,
                "--shape and --load-format dummy go together: a shape has no weights to read");
  }
  if (!flags.shape.empty() && !flags.model.empty())
    return Fail(ErrorCode::kInvalidArgument, "give MODEL or --shape, not both");
  if (!flags.policy.empty() && !flags.shape.empty())
    return Fail(ErrorCode::kInvalidArgument, "--policy describes a MODEL; a --shape is described already");
  options.shape = flags.shape;
  options.directory = flags.model;
  options.policy = flags.policy;
  if (flags.model.empty() && flags.shape.empty()) {
    ASSIGN_OR_RETURN(options.directory, DemoModel());
    options.name = "bloomery-demo";
  } else if (!flags.model.empty()) {
    std::error_code ignored;
    const auto canonical = std::filesystem::canonical(flags.model, ignored);
    options.name = (canonical.empty() ? std::filesystem::path(flags.model) : canonical).filename().string();
  }
  if (!flags.known_as.empty()) options.name = flags.known_as;
  options.open_shard_file = flags.open_shard_file;
  ASSIGN_OR_RETURN(options.dtype, DTypeFlag(flags.dtype));
  ASSIGN_OR_RETURN(options.kv_dtype, DTypeFlag(flags.kv_dtype));
  if (options.kv_dtype == DType::kI4)
    return Fail(ErrorCode::kInvalidArgument, "--kv-dtype must be auto, f32, bf16, f16 or int8");
  if (!flags.kv_cache_memory.empty()) {
    ASSIGN_OR_RETURN(options.kv_cache_bytes, ParseBytes(flags.kv_cache_memory));
  }
  ASSIGN_OR_RETURN(options.placement, PlacementFlags(flags));
  options.max_context_tokens = flags.max_context_tokens;
  options.max_batch_tokens = flags.max_batch_tokens;
  options.max_prefill_tokens = flags.max_prefill_tokens;
  options.max_batch_size = flags.max_batch_size;
  options.max_queued_tokens = flags.max_queued_tokens;
  options.prefix_cache = !flags.no_prefix_cache;
  options.speculative_tokens = flags.speculative_tokens;
  return options;
}

Result<std::unique_ptr<Device>> MakeDevice(const ModelFlags& flags) {
  return MakeCpuDevice({.threads = flags.threads, .isa = std::nullopt});
}

Result<std::uint64_t> ParseBytes(std::string_view text) {
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  std::string unit(end, text.data() + text.size());
  for (char& c : unit) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  static constexpr std::array<std::pair<std::string_view, double>, 12> kUnits = {{{"", 1},
                                                                                  {"b", 1},
                                                                                  {"k", 0x1p10},
                                                                                  {"kib", 0x1p10},
                                                                                  {"kb", 1e3},
                                                                                  {"m", 0x1p20},
                                                                                  {"mib", 0x1p20},
                                                                                  {"mb", 1e6},
                                                                                  {"g", 0x1p30},
                                                                                  {"gib", 0x1p30},
                                                                                  {"gb", 1e9},
                                                                                  {"tib", 0x1p40}}};
  for (const auto& [name, factor] : kUnits) {
    if (error == std::errc() && name == unit && number > 0 && number * factor < 0x1p60)
      return static_cast<std::uint64_t>(number * factor);
  }
  return Fail(ErrorCode::kInvalidArgument, "\"{}\" is not a size: write 512MiB, 2GiB or 2e9", text);
}

std::optional<std::filesystem::path> FolderOfProgram(std::initializer_list<const char*> places,
                                                     const char* file) {
  std::error_code ignored;
  const auto program = std::filesystem::read_symlink("/proc/self/exe", ignored);
  for (auto folder = program.parent_path();; folder = folder.parent_path()) {
    for (const char* place : places) {
      if (std::filesystem::exists(folder / place / file, ignored)) return folder / place;
    }
    if (folder == folder.root_path()) return std::nullopt;
  }
}

Result<std::filesystem::path> DemoModel() {
  if (const char* chosen = std::getenv("BLOOMERY_DEMO_MODEL"); chosen != nullptr)
    return std::filesystem::path(chosen);
  if (auto found = FolderOfProgram({"demo/model", "share/bloomery/demo/model"}, "config.json"))
    return *std::move(found);
  return Fail(ErrorCode::kNotFound,
              "the demo model (demo/model) is not beside the program; name a MODEL directory or set "
              "BLOOMERY_DEMO_MODEL");
}

LoadProgress TerminalProgress(std::string_view doing) {
  if (CurrentLogFormat() == LogFormat::kJson) return nullptr;
  if (::isatty(STDERR_FILENO) == 0 && std::getenv(kTerminalVariable) == nullptr) return nullptr;
  return [doing = std::string(doing)](double fraction, std::string_view what) {
    if (fraction >= 1) {
      fmt::print(stderr, "\r\x1b[K");
      return;
    }
    fmt::print(stderr, "\r{} {:3.0f}% {}\x1b[K", doing, 100 * fraction, what);
    std::fflush(stderr);
  };
}

}  // namespace bloomery
