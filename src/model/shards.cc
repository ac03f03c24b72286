#include "model/shards.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <iterator>
#include <utility>

#include "model/layer_stream.h"
#include "model/linear_plan.h"
#include "model/weight_source.h"

namespace bloomery {
namespace {

constexpr const char* kEveryRanksFile = "every-rank.safetensors";
// Layers of a stream that are in memory at a time: one computed, the others being read.
constexpr std::size_t kStreamSlots = 3;

std::string FileOf(const Part& part) {
  return fmt::format("rank-{}-of-{}.stage-{}-of-{}.safetensors", part.tensor_rank, part.grid.tensor_ranks,
                     part.stage, part.grid.stages);
}

// Linear layers in the order in which a step goes through them, after the table that it begins with.
std::vector<LinearRole> RolesOf(const ModelSpec& spec, const Part& part) {
  std::vector<LinearRole> roles = StepRoles(spec, part);
  if (part.first_stage() && !TableIsHead(spec, part))
    roles.insert(roles.begin(), LinearRole{LinearKind::kEmbed});
  return roles;
}

bool IsReplicated(const ModelSpec& spec, const LinearRole& role) {
  return PlanOf(spec, WholeModel(spec), role.kind).cut == Cut::kNone;
}

std::vector<TableRole> LayerTables(const ModelSpec& spec, std::int64_t layer) {
  const std::string prefix = LayerPrefix(spec, layer);
  const std::string shard = fmt::format("layers.{}.", layer);
  std::vector<TableRole> tables =
      NormTables(spec, prefix + spec.names.attention_norm, shard + "attention_norm");
  for (TableRole& table : NormTables(spec, prefix + spec.names.ffn_norm, shard + "ffn_norm"))
    tables.push_back(std::move(table));
  return tables;
}

std::vector<TableRole> EndTables(const ModelSpec& spec) {
  std::vector<TableRole> tables;
  if (spec.positions == PositionKind::kLearned) tables.push_back(PositionsTable(spec));
  if (spec.embed_norm) {
    for (TableRole& table : NormTables(spec, spec.names.embed_norm, "embed_norm"))
      tables.push_back(std::move(table));
  }
  if (spec.final_norm) {
    for (TableRole& table : NormTables(spec, spec.names.final_norm, "final_norm"))
      tables.push_back(std::move(table));
  }
  return tables;
}

// --- writing

class Sharder {
 public:
  Sharder(const ModelSpec& spec, Grid grid, DType dtype, Device& device, const ShardProgress& progress)
      : spec_(spec),
        grid_(grid),
        dtype_(dtype),
        device_(device),
        progress_(progress),
        whole_(WholeModel(spec)) {}

  Status Run(const SourceOfPart& source, const std::string& name, const std::filesystem::path& directory) {
    for (int rank = 0; rank < grid_.size(); ++rank) {
      ASSIGN_OR_RETURN(Part part, CutModel(spec_, grid_, rank));
      parts_.push_back(part);
    }
    // A part may not move once a source refers to it.
    for (const Part& part : parts_) sources_.push_back(source(part));
    whole_source_ = source(whole_);
    ASSIGN_OR_RETURN(auto writer, ShardWriter::Open(directory, Manifest(name)));
    writer_ = &writer;
    RETURN_IF_ERROR(WriteEnds());
    for (std::int64_t layer = 0; layer < spec_.layers; ++layer) {
      RETURN_IF_ERROR(Report(fmt::format("layer {}/{}", layer + 1, spec_.layers)));
      RETURN_IF_ERROR(WriteLayer(layer));
    }
    return writer.Finish(progress_);
  }

 private:
  // Whole pages of packed bytes.
  ShardTensor Packed(const Part& part, const LinearRole& role) const {
    const LinearPlan plan = PlanOf(spec_, part, role.kind);
    const std::uint64_t bytes = device_.PackedBytes(plan.out_features, plan.in_features, plan.bias, dtype_);
    return {ShardName(role), DType::kU8, {static_cast<std::int64_t>(PaddedShardBytes(bytes))}};
  }

  ShardManifest Manifest(const std::string& name) const {
    ShardManifest manifest{.layout = device_.PackedLayout(),
                           .dtype = std::string(DTypeName(dtype_)),
                           .tensor_ranks = grid_.tensor_ranks,
                           .stages = grid_.stages,
                           .source = name,
                           .files = {}};
    ShardFile every{.name = kEveryRanksFile, .tensor_rank = ShardFile::kEvery, .tensors = {}};
    for (const LinearRole& role : ReplicatedRoles()) every.tensors.push_back(Packed(whole_, role));
    std::vector<TableRole> tables = EndTables(spec_);
    for (std::int64_t layer = 0; layer < spec_.layers; ++layer) {
      for (TableRole& table : LayerTables(spec_, layer)) tables.push_back(std::move(table));
    }
    for (const TableRole& table : tables)
      every.tensors.push_back({table.shard, DType::kF32, {table.rows, table.cols}});
    manifest.files.push_back(std::move(every));
    for (const Part& part : parts_) {
      ShardFile file{.name = FileOf(part), .tensor_rank = part.tensor_rank, .tensors = {}};
      for (const LinearRole& role : RolesOf(spec_, part)) {
        if (!IsReplicated(spec_, role)) file.tensors.push_back(Packed(part, role));
      }
      manifest.files.push_back(std::move(file));
    }
    return manifest;
  }

  // Of all stages, each once: the embedding and the head may be one on one of them and two on two.
  std::vector<LinearRole> ReplicatedRoles() const {
    std::vector<LinearRole> roles;
    for (const Part& part : parts_) {
      if (part.tensor_rank > 0) continue;
      for (const LinearRole& role : RolesOf(spec_, part)) {
        if (IsReplicated(spec_, role)) roles.push_back(role);
      }
    }
    return roles;
  }

  Status Report(const std::string& what) const {
    const double fraction =
        static_cast<double>(writer_->written_bytes()) / static_cast<double>(writer_->total_bytes());
    if (!progress_ || progress_(fraction, what)) return {};
    return Fail(ErrorCode::kCancelled, "interrupted; the same command goes on from here");
  }

  Status WriteEnds() {
    RETURN_IF_ERROR(Report("embeddings"));
    for (const TableRole& role : EndTables(spec_)) {
      if (writer_->Has(kEveryRanksFile, role.shard)) continue;
      ASSIGN_OR_RETURN(const AlignedBuffer table, whole_source_->Table(role));
      RETURN_IF_ERROR(WriteTable(role.shard, table));
    }
    for (const LinearKind kind :
         {LinearKind::kEmbed, LinearKind::kProjectIn, LinearKind::kProjectOut, LinearKind::kHead})
      RETURN_IF_ERROR(WriteLinear({kind}, {}));
    return {};
  }

  Status WriteTable(const std::string& name, const AlignedBuffer& table) {
    return writer_->Write(kEveryRanksFile, name, {table.data(), table.size_bytes()});
  }

  Status WriteLayer(std::int64_t layer) {
    if (LayerIsThere(layer)) return {};
    // Factors come from the whole matrices, so that all parts share the norms.
    ASSIGN_OR_RETURN(const LayerBalance balance, BalanceLayer(spec_, *whole_source_, layer));
    const std::vector<TableRole> tables = LayerTables(spec_, layer);
    std::vector<const AlignedBuffer*> norms;  // as LayerTables has them: an RMS norm has no bias
    for (const NormWeights* norm : {&balance.attention_norm, &balance.ffn_norm}) {
      norms.push_back(&norm->gain);
      if (norm->bias.size_bytes() > 0) norms.push_back(&norm->bias);
    }
    for (std::size_t i = 0; i < tables.size(); ++i) {
      if (!writer_->Has(kEveryRanksFile, tables[i].shard))
        RETURN_IF_ERROR(WriteTable(tables[i].shard, *norms[i]));
    }
    RETURN_IF_ERROR(WriteLinear({LinearKind::kQkv, layer}, balance.qkv));
    RETURN_IF_ERROR(WriteLinear({LinearKind::kAttentionOut, layer}, balance.attention_out));
    RETURN_IF_ERROR(WriteLinear({LinearKind::kFfnUp, layer}, balance.ffn_up));
    return WriteLinear({LinearKind::kFfnDown, layer}, balance.ffn_down);
  }

  bool LayerIsThere(std::int64_t layer) const {
    for (const TableRole& table : LayerTables(spec_, layer)) {
      if (!writer_->Has(kEveryRanksFile, table.shard)) return false;
    }
    for (const Part& part : parts_) {
      if (layer < part.layers.begin || layer >= part.layers.end()) continue;
      for (const LinearKind kind : kLayerLinears) {
        if (!writer_->Has(FileHolding({kind, layer}, part), ShardName({kind, layer}))) return false;
      }
    }
    return true;
  }

  std::string FileHolding(const LinearRole& role, const Part& part) const {
    return IsReplicated(spec_, role) ? kEveryRanksFile : FileOf(part);
  }

  // Every part that holds some of the layer.
  Status WriteLinear(const LinearRole& role, const LinearScales& scales) {
    for (std::size_t p = 0; p < parts_.size(); ++p) {
      const std::vector<LinearRole> held = RolesOf(spec_, parts_[p]);
      const bool holds = std::any_of(held.begin(), held.end(), [&role](const LinearRole& other) {
        return other.kind == role.kind && other.layer == role.layer;
      });
      const std::string file = FileHolding(role, parts_[p]);
      if (!holds || writer_->Has(file, ShardName(role))) continue;
      ASSIGN_OR_RETURN(const auto packed, sources_[p]->Linear(role, PartOf(scales, parts_[p], role.kind)));
      RETURN_IF_ERROR(writer_->Write(file, ShardName(role), device_.Packed(*packed)));
    }
    return {};
  }

  // Of factors for the whole matrix, those of the part's inputs and outputs.
  LinearScales PartOf(const LinearScales& whole, const Part& part, LinearKind kind) const {
    const LinearPlan plan = PlanOf(spec_, part, kind);
    LinearScales mine;
    if (!whole.in.empty()) {
      const auto first = whole.in.begin() + plan.first_column;
      mine.in.assign(first, first + plan.in_features);
    }
    if (whole.out.empty()) return mine;
    auto begin = whole.out.begin();
    for (const OutputBlock& block : plan.outputs) {
      const auto first = begin + block.first_row;
      mine.out.insert(mine.out.end(), first, first + block.rows);
      begin += block.whole_rows;
    }
    return mine;
  }

  const ModelSpec& spec_;
  const Grid grid_;
  const DType dtype_;
  Device& device_;
  const ShardProgress& progress_;
  const Part whole_;
  std::vector<Part> parts_;
  std::vector<std::unique_ptr<WeightSource>> sources_;  // of parts_
  std::unique_ptr<WeightSource> whole_source_;
  ShardWriter* writer_ = nullptr;
};

// --- reading

// A rank takes the pieces of one or several ranks of the set.
class ShardSource final : public WeightSource {
 public:
  // The bytes of a tensor of the set.
  using BytesOf = std::function<Result<std::span<const std::byte>>(int rank, const std::string& name)>;

  // `streams`: by layer of the part.
  ShardSource(const ModelSpec& spec, const ShardedPart& sharded, Device& device, std::vector<bool> streams,
              BytesOf bytes_of)
      : spec_(spec),
        sharded_(sharded),
        device_(device),
        streams_(std::move(streams)),
        bytes_of_(std::move(bytes_of)) {}

  bool Streams(std::int64_t layer) const override {
    return streams_[static_cast<std::size_t>(layer - sharded_.part.layers.begin)];
  }

  Result<std::unique_ptr<LinearWeights>> Linear(const LinearRole& role,
                                                const LinearScales& /*scales*/) override {
    const LinearPlan mine = PlanOf(spec_, sharded_.part, role.kind);
    if (mine.cut == Cut::kNone) return Map(role, mine, ShardFile::kEvery, 0, mine.out_features);
    // q, k and v of one piece are followed by those of the next: they are put together one by one.
    const int pieces = sharded_.pieces();
    const std::size_t blocks = pieces > 1 ? mine.outputs.size() : 1;
    std::vector<std::unique_ptr<LinearWeights>> layers;
    for (std::size_t block = 0; block < blocks; ++block) {
      for (int piece = 0; piece < pieces; ++piece) {
        const int rank = sharded_.part.tensor_rank * pieces + piece;
        ASSIGN_OR_RETURN(const Part part, CutModel(spec_, {set().manifest().tensor_ranks, 1}, rank));
        const LinearPlan plan = PlanOf(spec_, part, role.kind);
        std::int64_t first_row = 0;
        for (std::size_t before = 0; before < block; ++before) first_row += plan.outputs[before].rows;
        const std::int64_t rows = blocks > 1 ? plan.outputs[block].rows : plan.out_features;
        ASSIGN_OR_RETURN(auto layer, Map(role, plan, rank, first_row, rows));
        layers.push_back(std::move(layer));
      }
    }
    return device_.JoinLinear(std::move(layers),
                              mine.cut == Cut::kInputs ? JoinedBy::kInputs : JoinedBy::kOutputs);
  }

  Result<std::optional<LinearPeaks>> Peaks(const LinearRole& /*role*/) override { return std::nullopt; }

  Result<AlignedBuffer> Table(const TableRole& role) override {
    ASSIGN_OR_RETURN(const TensorView view, set().Find(ShardFile::kEvery, role.shard));
    const std::int64_t count = role.rows * role.cols;
    if (view.dtype != DType::kF32 || ElementCount(view.shape) != count) {
      return Fail(ErrorCode::kCorrupt, "shard tensor \"{}\" is {} {}, config.json asks for {} f32",
                  role.shard, ShapeString(view.shape), DTypeName(view.dtype), count);
    }
    ASSIGN_OR_RETURN(AlignedBuffer buffer, device_.Allocate(static_cast<std::size_t>(count) * sizeof(float)));
    std::memcpy(buffer.data(), view.bytes.data(), view.bytes.size());
    return buffer;
  }

 private:
  const ShardSet& set() const { return *sharded_.set; }

  // Outputs [first_row, first_row + rows) of what rank `rank` of the set holds, which is as `plan` says.
  Result<std::unique_ptr<LinearWeights>> Map(const LinearRole& role, const LinearPlan& plan, int rank,
                                             std::int64_t first_row, std::int64_t rows) {
    ASSIGN_OR_RETURN(const std::span<const std::byte> bytes, bytes_of_(rank, ShardName(role)));
    auto mapped = device_.MapLinear({.out_features = plan.out_features,
                                     .in_features = plan.in_features,
                                     .has_bias = plan.bias,
                                     .dtype = sharded_.dtype,
                                     .bytes = bytes,
                                     .first_row = first_row,
                                     .rows = rows,
                                     .owner = sharded_.set});
    if (!mapped) return WithContext(std::move(mapped).error(), ShardName(role));
    return mapped;
  }

  const ModelSpec& spec_;
  const ShardedPart& sharded_;
  Device& device_;
  const std::vector<bool> streams_;
  const BytesOf bytes_of_;
};

// A packed tensor of the set.
struct PackedTensor {
  int rank = 0;
  std::string name;
  std::span<const std::byte> bytes;
};

// What a part has of a linear layer.
Result<std::vector<PackedTensor>> TensorsOf(const ModelSpec& spec, const ShardedPart& sharded,
                                            const LinearRole& role) {
  std::vector<PackedTensor> tensors;
  const bool every = IsReplicated(spec, role);
  const int pieces = every ? 1 : sharded.pieces();
  for (int piece = 0; piece < pieces; ++piece) {
    const int rank = every ? ShardFile::kEvery : sharded.part.tensor_rank * pieces + piece;
    ASSIGN_OR_RETURN(const TensorView view, sharded.set->Find(rank, ShardName(role)));
    tensors.push_back({rank, ShardName(role), view.bytes});
  }
  return tensors;
}

Result<std::vector<PackedTensor>> TensorsOfLayer(const ModelSpec& spec, const ShardedPart& sharded,
                                                 std::int64_t layer) {
  std::vector<PackedTensor> all;
  for (const LinearKind kind : kLayerLinears) {
    ASSIGN_OR_RETURN(std::vector<PackedTensor> tensors, TensorsOf(spec, sharded, {kind, layer}));
    std::move(tensors.begin(), tensors.end(), std::back_inserter(all));
  }
  return all;
}

std::uint64_t TotalBytes(std::span<const PackedTensor> tensors) {
  std::uint64_t bytes = 0;
  for (const PackedTensor& tensor : tensors) bytes += tensor.bytes.size();
  return bytes;
}

// Which layers are streamed: spread evenly, so that the disk works while the layers between are computed.
Result<std::vector<bool>> ChooseStreams(const ModelSpec& spec, const ShardedPart& sharded,
                                        const Placement& placement) {
  const std::int64_t layers = sharded.part.layers.size;
  std::uint64_t always = 0;
  for (const LinearRole& role : RolesOf(spec, sharded.part)) {
    if (InLayer(role.kind)) continue;
    ASSIGN_OR_RETURN(const std::vector<PackedTensor> tensors, TensorsOf(spec, sharded, role));
    always += TotalBytes(tensors);
  }
  ASSIGN_OR_RETURN(const auto first, TensorsOfLayer(spec, sharded, sharded.part.layers.begin));
  const std::uint64_t layer_bytes = TotalBytes(first);
  const auto all = static_cast<std::uint64_t>(layers) * layer_bytes;
  std::vector<bool> streams(static_cast<std::size_t>(layers), placement.layers_on_disk);
  if (placement.layers_on_disk) return streams;
  if (placement.memory_bytes >= always && placement.memory_bytes - always >= all) return streams;
  const std::uint64_t needed = always + kStreamSlots * layer_bytes;
  if (placement.memory_bytes < needed) {
    return Fail(
        ErrorCode::kOutOfMemory,
        "{} bytes are too few: embeddings, head and the layers in flight take {}; raise --max-memory or "
        "cut the model over more ranks",
        placement.memory_bytes, needed);
  }
  const auto stay = static_cast<std::int64_t>((placement.memory_bytes - needed) / layer_bytes);
  const std::int64_t go = std::max<std::int64_t>(layers - stay, 1);
  for (std::int64_t i = 0; i < layers; ++i)
    streams[static_cast<std::size_t>(i)] = (i + 1) * go / layers > i * go / layers;
  return streams;
}

// Slots with the linears that lie in them. All layers are of the same sizes: those of one name the places.
Result<std::unique_ptr<LayerStream>> MakeStream(const ModelSpec& spec, const ShardedPart& sharded,
                                                Device& device, const std::vector<bool>& streams) {
  std::vector<std::vector<FileRange>> items;
  std::vector<PackedTensor> places;
  std::uint64_t bytes_per_pass = 0;
  std::int64_t named = 0;
  for (std::int64_t i = 0; i < sharded.part.layers.size; ++i) {
    if (!streams[static_cast<std::size_t>(i)]) continue;
    named = sharded.part.layers.begin + i;
    ASSIGN_OR_RETURN(places, TensorsOfLayer(spec, sharded, named));
    std::vector<FileRange>& ranges = items.emplace_back();
    for (const PackedTensor& tensor : places)
      ranges.push_back(sharded.set->RangeOf(tensor.rank, tensor.name));
    bytes_per_pass += TotalBytes(places);
  }
  std::vector<AlignedBuffer> memory;
  std::vector<LayerLinears> linears;
  for (std::size_t slot = 0; slot < kStreamSlots; ++slot) {
    ASSIGN_OR_RETURN(AlignedBuffer buffer, device.Allocate(TotalBytes(places)));
    const auto in_slot = [&](int rank, const std::string& name) -> Result<std::span<const std::byte>> {
      std::uint64_t at = 0;
      for (const PackedTensor& place : places) {
        if (place.rank == rank && place.name == name)
          return std::span<const std::byte>(buffer.data() + at, place.bytes.size());
        at += place.bytes.size();
      }
      return Fail(ErrorCode::kInternal, "{} is not streamed", name);
    };
    ShardSource source(spec, sharded, device, streams, in_slot);
    ASSIGN_OR_RETURN(LayerLinears of_slot, BuildLinears(source, named, {}));
    linears.push_back(std::move(of_slot));
    memory.push_back(std::move(buffer));
  }
  auto stream = std::make_unique<LayerStream>(std::move(memory), std::move(linears), streams, bytes_per_pass);
  RETURN_IF_ERROR(stream->Start(sharded.set->paths(), std::move(items)));
  return stream;
}

// Of the matrices that stand for several (q, k and v; a gated FFN's first), the size of a block that ends in
// the middle of a step of the packed layout, where the model is cut for so many ranks; 0 where none does.
std::int64_t UnevenBlock(const ModelSpec& spec, int tensor_ranks) {
  const auto part = CutModel(spec, {tensor_ranks, 1}, 0);
  if (!part) return 0;
  for (const LinearKind kind : {LinearKind::kQkv, LinearKind::kFfnUp}) {
    const LinearPlan plan = PlanOf(spec, *part, kind);
    for (const OutputBlock& block : plan.outputs) {
      if (plan.outputs.size() > 1 && block.rows % Device::kRowStep != 0) return block.rows;
    }
  }
  return 0;
}

}  // namespace

bool ShardsJoin(const ModelSpec& spec, int tensor_ranks) { return UnevenBlock(spec, tensor_ranks) == 0; }

Status WriteShards(const ModelSpec& spec, Grid grid, const SourceOfPart& source, const std::string& name,
                   DType dtype, Device& device, const std::filesystem::path& directory,
                   const ShardProgress& progress) {
  return Sharder(spec, grid, dtype, device, progress).Run(source, name, directory);
}

Result<ShardedPart> OpenShards(const ModelSpec& spec, Grid grid, int rank, std::optional<DType> dtype,
                               const Device& device, const std::filesystem::path& directory,
                               const OpenShardFile& open) {
  ASSIGN_OR_RETURN(const ShardManifest manifest, ShardSet::ReadManifest(directory));
  const auto set_dtype = DTypeFromName(manifest.dtype);
  if (!set_dtype) return Fail(ErrorCode::kCorrupt, "{}: dtype \"{}\"", directory.string(), manifest.dtype);
  if (dtype && *dtype != *set_dtype) {
    return Fail(ErrorCode::kInvalidArgument,
                "{} is a set of {} shards; --dtype {} needs `bloomery shard` again", directory.string(),
                manifest.dtype, DTypeName(*dtype));
  }
  if (manifest.layout != device.PackedLayout()) {
    return Fail(ErrorCode::kUnsupported,
                "{} is laid out as \"{}\", this device takes \"{}\"; shard the model again",
                directory.string(), manifest.layout, device.PackedLayout());
  }
  if (manifest.tensor_ranks % grid.tensor_ranks != 0) {
    return Fail(ErrorCode::kInvalidArgument, "{} was cut for --tp {}: --tp must divide that, {} does not",
                directory.string(), manifest.tensor_ranks, grid.tensor_ranks);
  }
  const int pieces = manifest.tensor_ranks / grid.tensor_ranks;
  const std::int64_t uneven = pieces > 1 ? UnevenBlock(spec, manifest.tensor_ranks) : 0;
  if (uneven > 0) {
    return Fail(ErrorCode::kUnsupported,
                "{} was cut for --tp {} into blocks of {} features, which join in steps of {} only: use "
                "--tp {}, or shard the model for --tp {}",
                directory.string(), manifest.tensor_ranks, uneven, Device::kRowStep, manifest.tensor_ranks,
                grid.tensor_ranks);
  }
  ShardedPart sharded;
  sharded.dtype = *set_dtype;
  ASSIGN_OR_RETURN(sharded.part, CutModel(spec, grid, rank, manifest.tensor_ranks));
  std::vector<int> ranks;
  for (int piece = 0; piece < pieces; ++piece) ranks.push_back(sharded.part.tensor_rank * pieces + piece);
  ASSIGN_OR_RETURN(sharded.set, ShardSet::Open(directory, ranks, open));
  return sharded;
}

Result<ModelWeights> LoadShards(const ModelSpec& spec, const ShardedPart& sharded, Device& device,
                                const Placement& placement, const LoadProgress& progress) {
  ASSIGN_OR_RETURN(const std::vector<bool> streams, ChooseStreams(spec, sharded, placement));
  const bool any_streams = std::find(streams.begin(), streams.end(), true) != streams.end();
  if (any_streams && sharded.set->is_fetched())
    return Fail(ErrorCode::kUnsupported, "layers can be read in every step from shards on a disk only");
  std::vector<ShardTensorKey> keys;  // as a step goes through them
  for (const LinearRole& role : RolesOf(spec, sharded.part)) {
    if (InLayer(role.kind) && streams[static_cast<std::size_t>(role.layer - sharded.part.layers.begin)])
      continue;
    ASSIGN_OR_RETURN(const std::vector<PackedTensor> tensors, TensorsOf(spec, sharded, role));
    for (const PackedTensor& tensor : tensors) keys.emplace_back(tensor.rank, tensor.name);
  }
  RETURN_IF_ERROR(sharded.set->Populate(keys, device.threads(), [&](double fraction, std::string_view what) {
    if (progress) progress(fraction, what);
    return true;
  }));
  const auto in_file = [&](int rank, const std::string& name) -> Result<std::span<const std::byte>> {
    ASSIGN_OR_RETURN(const TensorView view, sharded.set->Find(rank, name));
    return view.bytes;
  };
  ShardSource source(spec, sharded, device, streams, in_file);
  ASSIGN_OR_RETURN(ModelWeights weights, BuildWeights(spec, sharded.part, sharded.dtype, source, nullptr));
  if (any_streams) {
    ASSIGN_OR_RETURN(weights.stream, MakeStream(spec, sharded, device, streams));
  }
  return weights;
}

}  // namespace bloomery
