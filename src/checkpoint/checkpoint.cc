#include "checkpoint/checkpoint.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <set>

#include "base/json.h"
#include "base/mapped_file.h"
#include "checkpoint/deepspeed.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/torch_file.h"

namespace bloomery {
namespace {

namespace fs = std::filesystem;

bool Exists(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

// One shard's place in a set, from its name: stem, separator, NNNNN-of-NNNNN, extension.
struct ShardName {
  int number = 0;
  int count = 0;
};

std::optional<ShardName> ParseShardName(std::string_view name, std::string_view stem,
                                        std::string_view extension) {
  static constexpr std::size_t kDigits = 5;
  static constexpr std::string_view kOf = "-of-";
  if (!name.starts_with(stem) || !name.ends_with(extension)) return std::nullopt;
  name.remove_prefix(stem.size());
  name.remove_suffix(std::min(name.size(), extension.size()));
  if (name.size() != 1 + 2 * kDigits + kOf.size() || (name[0] != '-' && name[0] != '_')) return std::nullopt;
  if (name.substr(1 + kDigits, kOf.size()) != kOf) return std::nullopt;
  ShardName shard;
  const auto number = [](std::string_view digits, int& out) {
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), out);
    return error == std::errc() && end == digits.data() + digits.size();
  };
  if (!number(name.substr(1, kDigits), shard.number) ||
      !number(name.substr(1 + kDigits + kOf.size()), shard.count))
    return std::nullopt;
  return shard;
}

// The shards of a set in order; empty when there is none, an error when one is missing.
Result<std::vector<fs::path>> FindShards(const fs::path& directory, std::string_view stem,
                                         std::string_view extension) {
  std::map<int, fs::path> shards;
  int count = 0;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error)) {
    const auto shard = ParseShardName(entry.path().filename().string(), stem, extension);
    if (!shard) continue;
    if (count != 0 && shard->count != count) {
      return Fail(ErrorCode::kCorrupt, "{}: shards of two sets, of {} and of {} files", directory.string(),
                  count, shard->count);
    }
    count = shard->count;
    shards[shard->number] = entry.path();
  }
  std::vector<fs::path> ordered;
  for (int number = 1; number <= count; ++number) {
    const auto found = shards.find(number);
    if (found == shards.end())
      return Fail(ErrorCode::kNotFound, "{}: shard {} of {} ({}…{}) is missing", directory.string(), number,
                  count, stem, extension);
    ordered.push_back(found->second);
  }
  return ordered;
}

// A shard's name in an index must be a plain file name: no folder, no way out of the directory.
bool IsPlainFileName(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
         name.find('\\') == std::string::npos;
}

std::string Listing(const fs::path& directory) {
  std::vector<std::string> names;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(directory, ignored))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  constexpr std::size_t kShown = 12;
  std::string list;
  for (std::size_t i = 0; i < std::min(names.size(), kShown); ++i) list += (i > 0 ? ", " : "") + names[i];
  return names.empty() ? "nothing" : names.size() > kShown ? list + ", …" : list;
}

// Length of the longest common tail: what differs between spellings of a tensor is its prefix.
std::size_t CommonSuffix(std::string_view a, std::string_view b) {
  std::size_t length = 0;
  while (length < a.size() && length < b.size() && a[a.size() - 1 - length] == b[b.size() - 1 - length])
    ++length;
  return length;
}

}  // namespace

Result<std::shared_ptr<const Checkpoint>> Checkpoint::Open(const fs::path& directory) {
  std::error_code ignored;
  if (!fs::is_directory(directory, ignored))
    return Fail(ErrorCode::kNotFound, "{}: no such directory", directory.string());
  std::shared_ptr<Checkpoint> checkpoint(new Checkpoint);
  checkpoint->directory_ = directory.string();
  if (Exists(directory / kDeepSpeedConfigName)) {
    RETURN_IF_ERROR(checkpoint->AddDeepSpeed(directory));
    return checkpoint;
  }
  for (const auto& [stem, extension] :
       {std::pair{"model", ".safetensors"}, std::pair{"pytorch_model", ".bin"}}) {
    const std::string whole = std::string(stem) + extension;
    if (Exists(directory / (whole + ".index.json"))) {
      RETURN_IF_ERROR(checkpoint->AddIndexed(directory, whole + ".index.json"));
      return checkpoint;
    }
    std::vector<fs::path> files;
    if (Exists(directory / whole)) {
      files.push_back(directory / whole);
    } else {
      ASSIGN_OR_RETURN(files, FindShards(directory, stem, extension));
    }
    for (const fs::path& file : files) RETURN_IF_ERROR(checkpoint->AddFile(file));
    if (!files.empty()) return checkpoint;
  }
  return Fail(ErrorCode::kNotFound,
              "{}: no weights; expected model.safetensors or pytorch_model.bin, whole or in shards, found {}",
              directory.string(), Listing(directory));
}

Status Checkpoint::AddFile(const fs::path& path) {
  ASSIGN_OR_RETURN(std::shared_ptr<const ByteSource> source, MappedFile::Open(path));
  ASSIGN_OR_RETURN(TensorMap parsed,
                   path.extension() == ".safetensors" ? ParseSafetensors(*source) : ParseTorchFile(*source));
  files_.push_back(std::move(source));
  return AddTensors(std::move(parsed), files_.size() - 1);
}

Status Checkpoint::AddTensors(TensorMap tensors, std::size_t file) {
  for (auto& [name, view] : tensors) {
    const auto [entry, fresh] = tensors_.emplace(name, Entry{std::move(view), file});
    if (!fresh) {
      return Fail(ErrorCode::kCorrupt, "{}: tensor \"{}\" is in {} too", files_[file]->name(), name,
                  files_[entry->second.file]->name());
    }
  }
  return {};
}

Status Checkpoint::AddDeepSpeed(const fs::path& directory) {
  ASSIGN_OR_RETURN(const DeepSpeedSet set, ReadDeepSpeedConfig(directory));
  for (const fs::path& file : set.whole) RETURN_IF_ERROR(AddFile(file));
  for (const std::vector<fs::path>& part : set.parts) {
    const std::size_t first_file = files_.size();
    std::vector<RankFile> ranks;
    for (const fs::path& file : part) {
      ASSIGN_OR_RETURN(std::shared_ptr<const ByteSource> source, MappedFile::Open(file));
      ASSIGN_OR_RETURN(ScaledTensorMap tensors, ParseScaledTorchFile(*source));
      files_.push_back(std::move(source));
      ranks.push_back({files_.back()->name(), std::move(tensors)});
    }
    ASSIGN_OR_RETURN(TensorMap joined, JoinRanks(set.family, ranks));
    RETURN_IF_ERROR(AddTensors(std::move(joined), first_file));
  }
  return {};
}

Status Checkpoint::AddIndexed(const fs::path& directory, const std::string& index_name) {
  const std::string index = (directory / index_name).string();
  ASSIGN_OR_RETURN(const std::string text, ReadFileToString(index));
  ASSIGN_OR_RETURN(const json::value parsed, ParseJson(text, index));
  const json::value* map = parsed.is_object() ? parsed.get_object().if_contains("weight_map") : nullptr;
  if (map == nullptr || !map->is_object()) return Fail(ErrorCode::kCorrupt, "{}: no \"weight_map\"", index);
  std::set<std::string> files;
  for (const auto& [tensor, file] : map->get_object()) {
    const std::string name = file.is_string() ? std::string(file.get_string()) : "";
    if (!IsPlainFileName(name)) {
      return Fail(ErrorCode::kCorrupt,
                  "{}: tensor \"{}\" is mapped to \"{}\", which is no file beside the index", index,
                  std::string_view(tensor), name);
    }
    files.insert(name);
  }
  for (const std::string& file : files) {
    if (!Exists(directory / file))
      return Fail(ErrorCode::kNotFound, "{}: {} is missing, and {} promises it", directory.string(), file,
                  index_name);
    RETURN_IF_ERROR(AddFile(directory / file));
  }
  for (const auto& [tensor, file] : map->get_object()) {
    const std::string promised = (directory / std::string_view(file.get_string())).string();
    if (FileOf(tensor) != promised) {
      return Fail(ErrorCode::kCorrupt, "{}: tensor \"{}\" is not in it, and {} promises it", promised,
                  std::string_view(tensor), index_name);
    }
  }
  return {};
}

const TensorView* Checkpoint::Find(std::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second.view;
}

Result<TensorView> Checkpoint::Get(std::string_view name) const {
  if (const TensorView* view = Find(name)) return *view;
  std::string_view nearest;
  for (const auto& [known, entry] : tensors_) {
    if (CommonSuffix(known, name) > CommonSuffix(nearest, name)) nearest = known;
  }
  const std::string hint = nearest.empty() ? std::string() : fmt::format("; nearest: \"{}\"", nearest);
  return Fail(ErrorCode::kNotFound, "{}: tensor \"{}\" is missing ({} tensors in {} files{})", directory_,
              name, tensors_.size(), files_.size(), hint);
}

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> names;
  for (const auto& [name, entry] : tensors_) names.push_back(name);
  return names;
}

void Checkpoint::Forget() const {
  for (const auto& file : files_) file->Forget();
}

std::uint64_t Checkpoint::total_bytes() const {
  std::uint64_t total = 0;
  for (const auto& [name, entry] : tensors_) total += entry.view.stored_bytes();
  return total;
}

std::string_view Checkpoint::FileOf(std::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? std::string_view() : files_[found->second.file]->name();
}

}  // namespace bloomery
