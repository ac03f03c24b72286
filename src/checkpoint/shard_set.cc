#include "checkpoint/shard_set.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <xxhash.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <mutex>
#include <optional>
#include <thread>

#include "base/json.h"
#include "base/mapped_file.h"
#include "checkpoint/safetensors.h"

namespace bloomery {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kFormat = "bloomery-shards";
constexpr std::int64_t kVersion = 1;
constexpr std::uint64_t kPage = 4096;
constexpr const char* kJournalName = "shards.journal";
// What one thread brings into memory, or checks, at a time: long enough for the disk to read in sequence.
constexpr std::uint64_t kPieceBytes = 16U << 20U;

std::uint64_t RoundUp(std::uint64_t bytes, std::uint64_t step) { return (bytes + step - 1) / step * step; }

std::uint64_t BytesOf(const ShardTensor& tensor) {
  return static_cast<std::uint64_t>(ElementCount(tensor.shape)) * SizeOf(tensor.dtype);
}

// Of the bytes and zeros behind them.
std::string PaddedChecksum(std::span<const std::byte> bytes, std::uint64_t zeros) {
  XXH3_state_t* state = XXH3_createState();
  XXH3_64bits_reset(state);
  XXH3_64bits_update(state, bytes.data(), bytes.size());
  static constexpr std::array<std::byte, kPage> kZeros{};
  XXH3_64bits_update(state, kZeros.data(), zeros);
  const XXH64_hash_t digest = XXH3_64bits_digest(state);
  XXH3_freeState(state);
  return fmt::format("{:016x}", digest);
}

std::unexpected<Error> IoError(const fs::path& path, std::string_view what) {
  return Fail(ErrorCode::kIo, "{}: cannot {}: {}", path.string(), what, std::strerror(errno));
}

std::span<const std::byte> AsBytes(std::string_view text) { return std::as_bytes(std::span(text)); }

Status WriteAt(int fd, const fs::path& path, std::span<const std::byte> bytes, std::uint64_t offset) {
  while (!bytes.empty()) {
    const ssize_t written = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return IoError(path, "write");
    bytes = bytes.subspan(static_cast<std::size_t>(written));
    offset += static_cast<std::uint64_t>(written);
  }
  return {};
}

// The manifest as JSON, without checksums.
json::object ToJson(const ShardManifest& manifest) {
  json::array files;
  for (const ShardFile& file : manifest.files) {
    std::uint64_t bytes = 0;
    for (const ShardTensor& tensor : file.tensors) bytes += BytesOf(tensor);
    files.push_back({{"name", file.name}, {"tensor_rank", file.tensor_rank}, {"data_bytes", bytes}});
  }
  return {{"format", kFormat},
          {"version", kVersion},
          {"layout", manifest.layout},
          {"dtype", manifest.dtype},
          {"tensor_ranks", manifest.tensor_ranks},
          {"stages", manifest.stages},
          {"source", manifest.source},
          {"files", std::move(files)}};
}

Result<ShardManifest> ParseManifest(const json::value& parsed) {
  const auto corrupt = [](std::string_view what) { return Fail(ErrorCode::kCorrupt, "{}", what); };
  if (!parsed.is_object()) return corrupt("not a JSON object");
  const json::object& object = parsed.get_object();
  ASSIGN_OR_RETURN(const auto format, GetString(object, "format"));
  ASSIGN_OR_RETURN(const auto version, GetInt(object, "version"));
  if (format != kFormat) return corrupt("not a manifest of shards");
  if (version != kVersion) return corrupt("of another version; shard the model again");
  ShardManifest manifest;
  ASSIGN_OR_RETURN(const auto layout, GetString(object, "layout"));
  ASSIGN_OR_RETURN(const auto dtype, GetString(object, "dtype"));
  ASSIGN_OR_RETURN(const auto ranks, GetInt(object, "tensor_ranks"));
  ASSIGN_OR_RETURN(const auto stages, GetInt(object, "stages"));
  const json::value* files = object.if_contains("files");
  if (!layout || !dtype || !ranks || *ranks < 1 || *ranks > 1024 || files == nullptr || !files->is_array())
    return corrupt("layout, dtype, tensor_ranks and files are missing or wrong");
  manifest.layout = *layout;
  manifest.dtype = *dtype;
  manifest.tensor_ranks = static_cast<int>(*ranks);
  manifest.stages = static_cast<int>(stages.value_or(1));
  for (const json::value& entry : files->get_array()) {
    if (!entry.is_object()) return corrupt("files must be objects");
    ASSIGN_OR_RETURN(const auto name, GetString(entry.get_object(), "name"));
    ASSIGN_OR_RETURN(const auto rank, GetInt(entry.get_object(), "tensor_rank"));
    // A file beside the manifest, nowhere else.
    if (!name || name->empty() || name->find('/') != std::string::npos || !rank ||
        *rank < ShardFile::kEvery || *rank >= *ranks)
      return corrupt("a file's name or tensor_rank is wrong");
    ShardFile& file = manifest.files.emplace_back();
    file.name = *name;
    file.tensor_rank = static_cast<int>(*rank);
    if (const json::value* checksums = entry.get_object().if_contains("xxh3");
        checksums && checksums->is_object()) {
      for (const auto& [tensor, checksum] : checksums->get_object()) {
        if (checksum.is_string()) file.checksums[tensor] = checksum.get_string();
      }
    }
  }
  return manifest;
}

}  // namespace

std::string ShardChecksum(std::span<const std::byte> bytes) { return PaddedChecksum(bytes, 0); }

std::uint64_t PaddedShardBytes(std::uint64_t bytes) { return RoundUp(bytes, kPage); }

// --- writing

Result<ShardWriter> ShardWriter::Open(const fs::path& directory, ShardManifest manifest) {
  if (ShardSet::Exists(directory)) {
    return Fail(ErrorCode::kInvalidArgument,
                "{} holds a finished set already; remove it or choose another --output", directory.string());
  }
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) return Fail(ErrorCode::kIo, "{}: {}", directory.string(), error.message());
  ShardWriter writer(directory, std::move(manifest));
  RETURN_IF_ERROR(writer.OpenJournal());
  RETURN_IF_ERROR(writer.OpenFiles());
  return writer;
}

// Header and length first: then every tensor has its place.
Status ShardWriter::OpenFiles() {
  for (std::size_t f = 0; f < manifest_.files.size(); ++f) {
    const ShardFile& file = manifest_.files[f];
    std::vector<std::pair<std::string, TensorView>> views;
    for (const ShardTensor& tensor : file.tensors)
      views.emplace_back(tensor.name, TensorView{tensor.dtype, tensor.shape, {}});
    const std::string header = SafetensorsHeader(views, kPage);
    std::uint64_t offset = header.size();
    for (const ShardTensor& tensor : file.tensors) {
      Place& place = places_[{file.name, tensor.name}];
      place.file = f;
      place.offset = offset;
      place.bytes = BytesOf(tensor);
      offset += place.bytes;
      total_bytes_ += place.bytes;
      if (!place.checksum.empty()) written_bytes_ += place.bytes;
    }
    const fs::path path = PathOf(f);
    UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
    if (!fd) return IoError(path, "create");
    RETURN_IF_ERROR(WriteAt(fd.get(), path, AsBytes(header), 0));
    // Room for all of it, or a full disk said now; file systems that cannot reserve find out later.
    if (const int failed = ::posix_fallocate(fd.get(), 0, static_cast<off_t>(offset)); failed == ENOSPC)
      return Fail(ErrorCode::kIo, "{}: {} bytes do not fit on this disk", path.string(), offset);
    if (::ftruncate(fd.get(), static_cast<off_t>(offset)) != 0) return IoError(path, "resize");
    files_.push_back(std::move(fd));
  }
  return {};
}

// One line for the manifest it belongs to, one for each tensor written: file, tensor, checksum. A line that
// was cut short counts for nothing.
Status ShardWriter::OpenJournal() {
  const fs::path path = directory_ / kJournalName;
  const std::string first = json::serialize(ToJson(manifest_));
  std::error_code ignored;
  if (std::ifstream file(path); file) {
    std::string line;
    if (!std::getline(file, line) || line != first) {
      return Fail(
          ErrorCode::kInvalidArgument,
          "{} holds an unfinished set of another model or other flags; remove it or choose another --output",
          directory_.string());
    }
    while (std::getline(file, line) && !file.eof()) {
      const std::size_t a = line.find('\t');
      const std::size_t b = line.find('\t', a + 1);
      if (a == std::string::npos || b == std::string::npos) break;
      places_[{line.substr(0, a), line.substr(a + 1, b - a - 1)}].checksum = line.substr(b + 1);
    }
  }
  const bool fresh = !fs::exists(path, ignored);
  journal_ = UniqueFd(::open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  if (!journal_) return IoError(path, "create");
  if (!fresh) return {};
  return WriteAt(journal_.get(), path, AsBytes(first + "\n"), 0);
}

bool ShardWriter::Has(const std::string& file, const std::string& tensor) const {
  const auto found = places_.find({file, tensor});
  return found != places_.end() && !found->second.checksum.empty();
}

Status ShardWriter::Write(const std::string& file, const std::string& tensor,
                          std::span<const std::byte> bytes) {
  const auto found = places_.find({file, tensor});
  if (found == places_.end() || bytes.size() > found->second.bytes)
    return Fail(ErrorCode::kInternal, "{}: no room for {} bytes of {}", file, bytes.size(), tensor);
  Place& place = found->second;
  RETURN_IF_ERROR(WriteAt(files_[place.file].get(), PathOf(place.file), bytes, place.offset));
  place.checksum = PaddedChecksum(bytes, place.bytes - bytes.size());
  written_bytes_ += place.bytes;
  const std::string line = fmt::format("{}\t{}\t{}\n", file, tensor, place.checksum);
  return WriteAt(journal_.get(), directory_ / kJournalName, AsBytes(line), 0);
}

Status ShardWriter::Finish(const ShardProgress& progress) {
  for (const auto& [name, place] : places_) {
    if (place.checksum.empty())
      return Fail(ErrorCode::kInternal, "{}: {} was not written", name.first, name.second);
  }
  RETURN_IF_ERROR(Verify(progress));
  RETURN_IF_ERROR(WriteManifest());
  std::error_code ignored;
  fs::remove(directory_ / kJournalName, ignored);
  return {};
}

Status ShardWriter::Verify(const ShardProgress& progress) const {
  std::vector<std::shared_ptr<const MappedFile>> maps;
  for (std::size_t f = 0; f < files_.size(); ++f) {
    if (::fsync(files_[f].get()) != 0) return IoError(PathOf(f), "write");
    ASSIGN_OR_RETURN(auto map, MappedFile::Open(PathOf(f)));
    maps.push_back(std::move(map));
  }
  std::uint64_t done = 0;
  for (const auto& [name, place] : places_) {
    if (progress && !progress(static_cast<double>(done) / static_cast<double>(total_bytes_), "verifying"))
      return Fail(ErrorCode::kCancelled, "interrupted; the same command goes on from here");
    if (ShardChecksum(maps[place.file]->bytes().subspan(place.offset, place.bytes)) != place.checksum) {
      return Fail(ErrorCode::kCorrupt, "{}: {} is not what was written; remove {} and start again",
                  PathOf(place.file).string(), name.second, directory_.string());
    }
    maps[place.file]->Forget();
    done += place.bytes;
  }
  return {};
}

Status ShardWriter::WriteManifest() const {
  json::object manifest = ToJson(manifest_);
  for (std::size_t f = 0; f < manifest_.files.size(); ++f) {
    json::object checksums;
    for (const ShardTensor& tensor : manifest_.files[f].tensors)
      checksums[tensor.name] = places_.at({manifest_.files[f].name, tensor.name}).checksum;
    manifest["files"].as_array()[f].as_object()["xxh3"] = std::move(checksums);
  }
  const fs::path path = directory_ / kShardManifestName;
  const fs::path partial = path.string() + ".partial";
  {
    std::ofstream file(partial, std::ios::trunc);
    file << json::serialize(manifest) << "\n";
    if (!file.flush()) return IoError(partial, "write");
  }
  std::error_code error;
  fs::rename(partial, path, error);
  if (error) return Fail(ErrorCode::kIo, "{}: {}", path.string(), error.message());
  return {};
}

// --- reading

bool ShardSet::Exists(const fs::path& directory) {
  std::error_code ignored;
  return fs::exists(directory / kShardManifestName, ignored);
}

Result<ShardManifest> ShardSet::ReadManifest(const fs::path& directory) {
  const std::string path = (directory / kShardManifestName).string();
  ASSIGN_OR_RETURN(const std::string text, ReadFileToString(path));
  ASSIGN_OR_RETURN(const json::value parsed, ParseJson(text, path));
  auto manifest = ParseManifest(parsed);
  if (manifest) return manifest;
  Error error = std::move(manifest).error();
  error.code = ErrorCode::kCorrupt;
  return WithContext(std::move(error), path);
}

namespace {

// The header of a safetensors file, whose first 8 bytes tell its length.
Status FetchHeader(const FetchedFile& file) {
  const std::span<const std::byte> bytes = *file.mapped();
  std::uint64_t length = 0;
  if (bytes.size() < sizeof(length)) return {};  // parsing says what is wrong
  RETURN_IF_ERROR(file.Fetch(bytes.first(sizeof(length))));
  std::memcpy(&length, bytes.data(), sizeof(length));
  if (length > bytes.size() - sizeof(length)) return {};
  return file.Fetch(bytes.subspan(sizeof(length), length));
}

}  // namespace

Result<std::shared_ptr<const ShardSet>> ShardSet::Open(const fs::path& directory,
                                                       std::span<const int> tensor_ranks,
                                                       const OpenShardFile& open) {
  std::shared_ptr<ShardSet> set(new ShardSet());
  set->directory_ = directory.string();
  ASSIGN_OR_RETURN(set->manifest_, ReadManifest(directory));
  for (const ShardFile& file : set->manifest_.files) {
    if (file.tensor_rank != ShardFile::kEvery &&
        std::find(tensor_ranks.begin(), tensor_ranks.end(), file.tensor_rank) == tensor_ranks.end())
      continue;
    set->paths_.push_back(directory / file.name);
    if (open) {
      ASSIGN_OR_RETURN(auto source, open(file.name));
      ASSIGN_OR_RETURN(auto fetched, FetchedFile::Make(std::move(source)));
      RETURN_IF_ERROR(FetchHeader(*fetched));
      RETURN_IF_ERROR(set->AddFile(file, fetched));
      RETURN_IF_ERROR(set->FetchSmall(file, *fetched));
      set->fetched_.push_back(std::move(fetched));
    } else {
      ASSIGN_OR_RETURN(auto map, MappedFile::Open(directory / file.name));
      RETURN_IF_ERROR(set->AddFile(file, std::move(map)));
    }
  }
  return set;
}

Status ShardSet::AddFile(const ShardFile& file, std::shared_ptr<const ByteSource> source) {
  ASSIGN_OR_RETURN(const TensorMap tensors, ParseSafetensors(*source));
  for (const auto& [name, view] : tensors) {
    const auto checksum = file.checksums.find(name);
    tensors_.emplace(ShardTensorKey(file.tensor_rank, name),
                     Entry{view, files_.size(), checksum == file.checksums.end() ? "" : checksum->second});
  }
  files_.push_back(std::move(source));
  return {};
}

// All that is not packed: norms and positions, which loading copies.
Status ShardSet::FetchSmall(const ShardFile& file, const FetchedFile& fetched) {
  std::vector<ShardTensorKey> keys;
  for (const auto& [key, entry] : tensors_) {
    if (entry.file + 1 != files_.size() || entry.view.dtype == DType::kU8) continue;
    RETURN_IF_ERROR(fetched.Fetch(entry.view.bytes));
    keys.emplace_back(file.tensor_rank, key.second);
  }
  return VerifyFetched(keys, 1);
}

Result<TensorView> ShardSet::Find(int tensor_rank, const std::string& name) const {
  const auto found = tensors_.find({tensor_rank, name});
  if (found == tensors_.end()) {
    return Fail(ErrorCode::kCorrupt, "{}: no tensor \"{}\" {}; shard the model again", directory_, name,
                tensor_rank == ShardFile::kEvery ? "for every rank" : fmt::format("of rank {}", tensor_rank));
  }
  return found->second.view;
}

FileRange ShardSet::RangeOf(int tensor_rank, const std::string& name) const {
  const Entry& entry = tensors_.at({tensor_rank, name});
  const auto offset = entry.view.bytes.data() - files_[entry.file]->mapped()->data();
  return {entry.file, static_cast<std::uint64_t>(offset), entry.view.bytes.size()};
}

namespace {

// Requests in flight: each waits for the network most of its time.
constexpr int kFetchThreads = 16;

// Runs `work` for every index below `count` on `threads` threads, until one fails; `report` on the first.
Status InParallel(std::size_t count, int threads, const std::function<Status(std::size_t)>& work,
                  const std::function<bool()>& report) {
  std::atomic<std::size_t> next{0};
  std::mutex mutex;
  std::optional<Error> failed;
  const auto stop = [&](Error error) {
    const std::scoped_lock lock(mutex);
    if (!failed) failed = std::move(error);
    next = count;
  };
  const auto run = [&](bool reports) {
    for (std::size_t i = 0; (i = next.fetch_add(1)) < count;) {
      if (Status done = work(i); !done) stop(std::move(done).error());
      if (reports && !report()) stop({ErrorCode::kCancelled, "interrupted"});
    }
  };
  {
    std::vector<std::jthread> workers;
    for (int thread = 1; thread < threads; ++thread) workers.emplace_back([&run] { run(false); });
    run(true);
  }
  return failed ? Status(std::unexpected(*failed)) : Status();
}

// Of a mapped file. One that was cut short meanwhile shows here, and not by a signal in the first step.
Status ReadPages(std::span<const std::byte> piece) {
  const auto begin = reinterpret_cast<std::uintptr_t>(piece.data()) / kPage * kPage;
  const auto end = reinterpret_cast<std::uintptr_t>(piece.data()) + piece.size();
  if (::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_POPULATE_READ) == 0) return {};
  if (errno == EFAULT || errno == EHWPOISON || errno == EIO)
    return Fail(ErrorCode::kCorrupt, "a shard file cannot be read to its end: {}", std::strerror(errno));
  return {};  // EINVAL: a kernel before 5.14; pages then come with the first step
}

}  // namespace

Status ShardSet::Populate(std::span<const ShardTensorKey> tensors, int threads,
                          const ShardProgress& progress) const {
  std::vector<std::pair<std::size_t, std::span<const std::byte>>> pieces;  // by file
  std::uint64_t total = 0;
  for (const ShardTensorKey& key : tensors) {
    const Entry& entry = tensors_.at(key);
    std::span<const std::byte> rest = entry.view.bytes;
    total += rest.size();
    for (; !rest.empty(); rest = rest.subspan(std::min<std::size_t>(kPieceBytes, rest.size())))
      pieces.emplace_back(entry.file, rest.first(std::min<std::size_t>(kPieceBytes, rest.size())));
  }
  std::atomic<std::uint64_t> done{0};
  const auto bring = [&](std::size_t i) -> Status {
    const auto& [file, piece] = pieces[i];
    RETURN_IF_ERROR(is_fetched() ? fetched_[file]->Fetch(piece) : ReadPages(piece));
    done += piece.size();
    return {};
  };
  const auto report = [&] {
    return !progress || progress(static_cast<double>(done) / static_cast<double>(total),
                                 is_fetched() ? "fetching shards" : "reading shards");
  };
  if (!is_fetched()) return InParallel(pieces.size(), threads, bring, report);
  RETURN_IF_ERROR(InParallel(pieces.size(), std::max(threads, kFetchThreads), bring, report));
  return VerifyFetched(tensors, threads);
}

Status ShardSet::VerifyFetched(std::span<const ShardTensorKey> tensors, int threads) const {
  const auto verify = [&](std::size_t i) -> Status {
    const Entry& entry = tensors_.at(tensors[i]);
    if (ShardChecksum(entry.view.bytes) == entry.checksum) return {};
    return Fail(ErrorCode::kCorrupt, "{}: {} is not what was written", files_[entry.file]->name(),
                tensors[i].second);
  };
  return InParallel(tensors.size(), threads, verify, [] { return true; });
}

}  // namespace bloomery
