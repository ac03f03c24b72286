// Flags that several commands share, and what they resolve to.
#pragma once

#include <CLI/CLI.hpp>

#include <filesystem>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>

#include "base/result.h"
#include "engine/loader.h"
#include "tensor/device.h"

namespace bloomery {

// A set of shards goes from S3 straight into memory.
inline constexpr const char* kStreamFormat = "s3-stream";

// MODEL, --shape, --load-format, --dtype, --kv-dtype, --threads …: what to load and onto what.
struct ModelFlags {
  std::string model;              // directory or s3:// URI; empty: the demo model
  std::string policy;             // a description's file; empty: the model's own, or a built-in one
  std::string revision = "main";  // of a model on the hub
  std::string cache_dir;          // for models from S3 and archives; empty: chosen
  bool no_sign_request = false;   // to S3
  std::string shape;
  std::string load_format = "auto";
  std::string dtype = "auto";
  std::string kv_dtype = "auto";
  std::string placement = "memory";
  std::string max_memory;  // of weights, for each rank; "8GiB"
  int threads = 0;         // of each rank
  int tensor_ranks = 1;
  int stages = 1;
  std::string hostfile;                  // Open MPI's; empty: this host
  std::vector<std::string> mpirun_args;  // before the program
  std::string kv_cache_memory;           // "2GiB"; empty: chosen
  std::int64_t max_context_tokens = 0;
  std::int64_t max_batch_tokens = 512;
  std::int64_t max_prefill_tokens = 0;
  int max_batch_size = 64;
  std::int64_t max_queued_tokens = LoadOptions().max_queued_tokens;
  bool no_prefix_cache = false;
  int speculative_tokens = LoadOptions().speculative_tokens;

  // What fetching a MODEL from elsewhere leaves (remote_model.h).
  std::string known_as;           // its name there; empty: its directory's
  OpenShardFile open_shard_file;  // its shards are streamed

  Grid grid() const { return {tensor_ranks, stages}; }
};

// MODEL, and what goes with one that is not on this host.
void AddModelArgument(CLI::App& command, ModelFlags& flags);

// --policy alone.
void AddPolicyFlag(CLI::App& command, ModelFlags& flags);

// `with_shapes`: also --shape and --load-format.
void AddModelFlags(CLI::App& command, ModelFlags& flags, bool with_shapes);

// --tp, --pp and where their ranks are.
void AddRankFlags(CLI::App& command, ModelFlags& flags);

Result<LoadOptions> ToLoadOptions(const ModelFlags& flags);
Result<std::unique_ptr<Device>> MakeDevice(const ModelFlags& flags);

// "512MiB", "2g", "1.5GB" or plain bytes.
Result<std::uint64_t> ParseBytes(std::string_view text);

// The demo model's directory: $BLOOMERY_DEMO_MODEL, or demo/model beside or above the program.
Result<std::filesystem::path> DemoModel();

// The first of `places`, beside or above the program, that holds `file`.
std::optional<std::filesystem::path> FolderOfProgram(std::initializer_list<const char*> places,
                                                     const char* file);

// Set for ranks whose standard error mpirun passes on to a terminal.
inline constexpr const char* kTerminalVariable = "BLOOMERY_TERMINAL";

// A progress line on standard error, redrawn in place on a terminal, silent elsewhere.
LoadProgress TerminalProgress(std::string_view doing = "loading");

}  // namespace bloomery
