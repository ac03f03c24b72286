// From a model's name to something that can compute: device, weights, tokenizer, and what there is to say
// about it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "base/result.h"
#include "engine/rank_group.h"
#include "engine/request.h"
#include "model/shards.h"
#include "model/transformer.h"
#include "tokenizer/tokenizer.h"

namespace bloomery {

struct LoadOptions {
  std::filesystem::path directory;  // a Hugging Face directory …
  OpenShardFile open_shard_file;    // set: the directory is a set whose files come from there
  std::filesystem::path policy;     // description of its architecture; empty: its own, or a built-in one
  std::string shape;                // … or a named shape with random weights, where this is not empty
  std::string name;                 // what the model calls itself; the directory's or shape's name by default
  std::optional<DType> dtype;       // absent ("auto"): the checkpoint's own
  std::optional<Placement> placement;  // of a set of shards; absent: all in memory, or loading fails
  std::optional<DType> kv_dtype;       // absent: f32 for f32 weights, bf16 for bf16, f16 otherwise
  std::uint64_t kv_cache_bytes =
      0;  // 0: room for every sequence at full context, within half of the free memory
  std::int64_t max_context_tokens = 0;  // 0: what the model was made for
  std::int64_t max_batch_tokens = 512;
  std::int64_t max_prefill_tokens =
      0;  // of them for prompts, beside running sequences; 0: Scheduler::PrefillRows chooses
  int max_batch_size = 64;
  int default_max_new_tokens = 128;
  // Prompt tokens that may wait; a request that would pass it is refused with kOverloaded.
  std::int64_t max_queued_tokens = 1 << 18U;
  bool prefix_cache = true;    // reuse what earlier requests with the same beginning have computed
  int speculative_tokens = 7;  // tokens guessed ahead and verified in one step, at most; 0: none
};

struct LoadedModel {
  std::unique_ptr<RankGroup> ranks;  // null for a model on one rank
  std::unique_ptr<Transformer> transformer;
  std::unique_ptr<KvCache> kv_cache;
  std::shared_ptr<const Tokenizer> tokenizer;  // null for shapes and directories without one
  ModelInfo info;
  LoadOptions options;  // as they were asked for
  std::int64_t max_batch_tokens = 0;
  double load_s = 0;
};

// Loads onto `device`, which must outlive the model. Refuses at once what memory cannot hold, and says how
// much is missing. With `ranks` (collective), each loads its part, and all fail where one does.
Result<LoadedModel> LoadModel(const LoadOptions& options, Device& device, const LoadProgress& progress,
                              std::unique_ptr<RankGroup> ranks = nullptr);

// What the model is, before anything of it is loaded.
Result<ModelSpec> SpecOf(const LoadOptions& options);

// What a model takes on all its ranks together, computed from its files' headers: nothing is loaded.
struct MemoryNeed {
  std::uint64_t weight_bytes = 0;
  std::uint64_t kv_bytes_per_sequence = 0;  // at full context; one has to fit
  std::uint64_t kv_bytes = 0;               // as many of them as run together, or what was asked for
};
Result<MemoryNeed> NeededMemory(const LoadOptions& options, Grid grid, const Device& device);

// The dtype "auto" stands for.
DType ResolveDType(std::optional<DType> asked, const ModelSpec& spec);

}  // namespace bloomery
