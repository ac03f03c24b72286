#include "engine/loader.h"

#include <algorithm>
#include <chrono>

#include "base/log.h"
#include "base/system.h"
#include "checkpoint/checkpoint.h"
#include "engine/scheduler.h"

namespace bloomery {
namespace {

constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;

// Weights are checked before a byte is allocated: a machine that starts to swap, or an OOM kill an hour into
// loading, helps nobody.
Status CheckMemory(const ModelSpec& spec, const Part& part, DType dtype, const Device& device) {
  const std::uint64_t needed = WeightFootprint(spec, part, dtype, device).weight_bytes;
  const std::uint64_t available = AvailableMemoryBytes();
  if (needed <= available) return {};
  return Fail(ErrorCode::kOutOfMemory,
              "the weights in {} take {:.1f} GiB and {:.1f} GiB of memory are free: {:.1f} GiB are missing; "
              "try a smaller --dtype (int8, int4), "
              "`bloomery shard` and --placement auto (layers from disk), or a larger machine",
              DTypeName(dtype), static_cast<double>(needed) / kGiB, static_cast<double>(available) / kGiB,
              static_cast<double>(needed - available) / kGiB);
}

DType KvDType(std::optional<DType> asked, DType weights) {
  if (asked) return *asked;
  if (weights == DType::kF32 || weights == DType::kBF16) return weights;
  return DType::kF16;
}

std::int64_t ContextOf(const LoadOptions& options, const ModelSpec& spec) {
  return options.max_context_tokens > 0 ? std::min(options.max_context_tokens, spec.max_positions)
                                        : spec.max_positions;
}

std::int64_t KvBlocks(const LoadOptions& options, const KvCacheShape& shape, std::int64_t context) {
  const std::uint64_t block_bytes = shape.BytesPerToken() * kKvBlockTokens;
  const std::int64_t per_sequence = (context + kKvBlockTokens - 1) / kKvBlockTokens;
  if (options.kv_cache_bytes > 0) return static_cast<std::int64_t>(options.kv_cache_bytes / block_bytes);
  const auto affordable = static_cast<std::int64_t>(AvailableMemoryBytes() / 2 / block_bytes);
  return std::max(per_sequence, std::min(per_sequence * options.max_batch_size, affordable));
}

ModelInfo Describe(const LoadOptions& options, const ModelSpec& spec, DType dtype, const Tokenizer* tokenizer,
                   std::int64_t context, const KvCache& cache) {
  ModelInfo info;
  info.name = !options.name.empty()    ? options.name
              : !options.shape.empty() ? options.shape
                                       : options.directory.filename().string();
  info.model_type = spec.architecture;
  info.dtype = DTypeName(dtype);
  info.parameters = spec.ParameterCount();
  info.vocab_size = spec.vocab_size;
  info.max_context_tokens = context;
  info.kv_cache_tokens = cache.blocks() * kKvBlockTokens;
  info.max_batch_size = options.max_batch_size;
  info.default_max_new_tokens = options.default_max_new_tokens;
  if (tokenizer != nullptr) {
    info.chat_template = tokenizer->chat_template();
    if (const auto bos = tokenizer->bos_id()) info.bos_token = tokenizer->TokenBytes(*bos);
    if (const auto eos = tokenizer->eos_id()) info.eos_token = tokenizer->TokenBytes(*eos);
  }
  return info;
}

Result<ModelWeights> Weights(const LoadOptions& options, const ModelSpec& spec, Grid grid, int rank,
                             Device& device, const LoadProgress& progress) {
  if (options.shape.empty() && ShardSet::Exists(options.directory)) {
    ASSIGN_OR_RETURN(const ShardedPart sharded, OpenShards(spec, grid, rank, options.dtype, device,
                                                           options.directory, options.open_shard_file));
    if (!options.placement) RETURN_IF_ERROR(CheckMemory(spec, sharded.part, sharded.dtype, device));
    return LoadShards(spec, sharded, device, options.placement.value_or(Placement()), progress);
  }
  ASSIGN_OR_RETURN(const Part part, CutModel(spec, grid, rank));
  const DType dtype = ResolveDType(options.dtype, spec);
  RETURN_IF_ERROR(CheckMemory(spec, part, dtype, device));
  if (!options.shape.empty()) return RandomWeights(spec, part, dtype, device, /*seed=*/1, progress);
  ASSIGN_OR_RETURN(const auto checkpoint, Checkpoint::Open(options.directory));
  return LoadWeights(spec, part, *checkpoint, dtype, device, progress);
}

// Everything but the KV cache, whose size the ranks have yet to agree on.
Result<LoadedModel> LoadPart(const LoadOptions& options, Device& device, const LoadProgress& progress,
                             const RankGroup* ranks) {
  ASSIGN_OR_RETURN(const ModelSpec spec, SpecOf(options));
  LoadedModel model;
  model.options = options;
  if (options.shape.empty()) {
    if (progress) progress(0, "tokenizer");
    auto tokenizer = Tokenizer::Load(options.directory);
    if (tokenizer) {
      model.tokenizer = *std::move(tokenizer);
    } else if (tokenizer.error().code == ErrorCode::kNotFound) {
      spdlog::warn("{}; prompts must be token ids", tokenizer.error().message);
    } else {
      return std::unexpected(std::move(tokenizer).error());
    }
  }
  const Grid grid = ranks != nullptr ? ranks->grid : Grid();
  const int rank = ranks != nullptr ? ranks->world->rank() : 0;
  ASSIGN_OR_RETURN(ModelWeights weights, Weights(options, spec, grid, rank, device, progress));
  model.max_batch_tokens = std::max<std::int64_t>(options.max_batch_tokens, options.max_batch_size);
  ASSIGN_OR_RETURN(model.transformer,
                   Transformer::Create(spec, std::move(weights), device,
                                       {.max_rows = model.max_batch_tokens,
                                        .max_logit_rows = std::max(options.max_batch_size, kDraftedStepRows)},
                                       ranks != nullptr ? ranks->peers() : Peers()));
  return model;
}

// The smallest of the ranks' numbers. Collective.
Result<std::int64_t> Smallest(Communicator& world, std::int64_t mine) {
  ASSIGN_OR_RETURN(const auto numbers, GatherTexts(world, std::to_string(mine)));
  std::int64_t smallest = mine;
  for (const std::string& number : numbers) smallest = std::min(smallest, std::int64_t{std::stoll(number)});
  return smallest;
}

}  // namespace

Result<ModelSpec> SpecOf(const LoadOptions& options) {
  return options.shape.empty() ? LoadSpec(options.directory, options.policy) : NamedShape(options.shape);
}

Result<MemoryNeed> NeededMemory(const LoadOptions& options, Grid grid, const Device& device) {
  ASSIGN_OR_RETURN(const ModelSpec spec, SpecOf(options));
  DType dtype = ResolveDType(options.dtype, spec);
  if (options.shape.empty() && ShardSet::Exists(options.directory)) {
    ASSIGN_OR_RETURN(const ShardManifest manifest, ShardSet::ReadManifest(options.directory));
    dtype = DTypeFromName(manifest.dtype).value_or(dtype);
  }
  MemoryNeed need;
  for (int rank = 0; rank < grid.size(); ++rank) {
    ASSIGN_OR_RETURN(const Part part, CutModel(spec, grid, rank));
    std::uint64_t weights = WeightFootprint(spec, part, dtype, device).weight_bytes;
    if (options.placement) weights = std::min(weights, options.placement->memory_bytes);
    need.weight_bytes += weights;
  }
  const KvCacheShape shape{static_cast<int>(spec.layers), static_cast<int>(spec.kv_heads),
                           static_cast<int>(spec.head_dim), KvDType(options.kv_dtype, dtype)};
  const std::int64_t per_sequence = (ContextOf(options, spec) + kKvBlockTokens - 1) / kKvBlockTokens;
  need.kv_bytes_per_sequence =
      shape.BytesPerToken() * kKvBlockTokens * static_cast<std::uint64_t>(per_sequence);
  need.kv_bytes = options.kv_cache_bytes > 0
                      ? options.kv_cache_bytes * static_cast<std::uint64_t>(grid.size())
                      : need.kv_bytes_per_sequence * static_cast<std::uint64_t>(options.max_batch_size);
  return need;
}

DType ResolveDType(std::optional<DType> asked, const ModelSpec& spec) {
  return asked.value_or(spec.checkpoint_dtype.value_or(DType::kF32));
}

Result<LoadedModel> LoadModel(const LoadOptions& options, Device& device, const LoadProgress& progress,
                              std::unique_ptr<RankGroup> ranks) {
  const auto started = std::chrono::steady_clock::now();
  const auto agree = [&ranks](const Status& mine) {
    return ranks ? AgreeOnStatus(*ranks->world, mine) : mine;
  };
  auto model = LoadPart(options, device, progress, ranks.get());
  RETURN_IF_ERROR(agree(model ? Status() : std::unexpected(model.error())));
  const ModelSpec& spec = model->transformer->spec();
  const DType dtype = model->transformer->weights().dtype;
  const std::int64_t context = ContextOf(options, spec);
  const KvCacheShape shape = model->transformer->kv_shape(KvDType(options.kv_dtype, dtype));
  std::int64_t blocks = KvBlocks(options, shape, context);
  if (ranks) {
    ASSIGN_OR_RETURN(blocks, Smallest(*ranks->world, blocks));
  }
  auto cache = device.AllocateKvCache(shape, blocks);
  RETURN_IF_ERROR(agree(cache ? Status() : std::unexpected(cache.error())));
  model->kv_cache = *std::move(cache);
  model->info = Describe(options, spec, dtype, model->tokenizer.get(), context, *model->kv_cache);
  model->ranks = std::move(ranks);
  model->load_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  return model;
}

}  // namespace bloomery
