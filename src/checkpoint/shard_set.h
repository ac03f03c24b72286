// A model's weights in the kernels' packed layout, cut for a number of ranks: files that are mapped and used
// as they are. Reading a set and writing one; what the tensors are is model/'s business. Format, byte by
// byte: docs/formats/shards.md.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/byte_source.h"
#include "base/read_ahead.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "checkpoint/fetched_file.h"
#include "checkpoint/tensor_map.h"

namespace bloomery {

inline constexpr std::string_view kShardManifestName = "manifest.json";

struct ShardTensor {
  std::string name;
  DType dtype = DType::kU8;  // U8 for packed bytes
  Shape shape;               // packed bytes: [count], whole pages
};

struct ShardFile {
  static constexpr int kEvery = -1;  // as tensor_rank: every rank reads it

  std::string name;
  int tensor_rank = kEvery;
  std::vector<ShardTensor> tensors;
  std::map<std::string, std::string> checksums{};  // by tensor; of a set that was read
};

// Opens a file of a set by its name, where the set is in no directory.
using OpenShardFile = std::function<Result<std::shared_ptr<const ByteSource>>(const std::string& name)>;

struct ShardManifest {
  std::string layout;  // Device::PackedLayout
  std::string dtype;   // of the linear layers
  int tensor_ranks = 1;
  int stages = 1;
  std::string source;  // what the set was made from: another source's halves are not taken for this one's
  std::vector<ShardFile> files;
};

// XXH3's 64 bits as 16 hexadecimal digits: what a set's tensors are checked with.
std::string ShardChecksum(std::span<const std::byte> bytes);

// Bytes of a packed tensor that holds `bytes`: whole pages, so that what follows begins on one.
std::uint64_t PaddedShardBytes(std::uint64_t bytes);

// Called with what is being done and the fraction done, in [0, 1]; false: stop (kCancelled).
using ShardProgress = std::function<bool(double fraction, std::string_view what)>;

// Writes a set tensor by tensor, in any order. What is written stays: a second writer with the same manifest
// goes on where the first was interrupted. The directory becomes a set with Finish and not before.
class ShardWriter {
 public:
  // kIo; kInvalidArgument for a directory that holds a finished set or something else's beginning.
  static Result<ShardWriter> Open(const std::filesystem::path& directory, ShardManifest manifest);

  bool Has(const std::string& file, const std::string& tensor) const;
  // `bytes` may be fewer than the tensor has, where it is packed: zeros follow.
  Status Write(const std::string& file, const std::string& tensor, std::span<const std::byte> bytes);

  std::uint64_t total_bytes() const { return total_bytes_; }
  std::uint64_t written_bytes() const { return written_bytes_; }

  // Reads every tensor back, compares it with what was written, and puts the manifest in place. kCorrupt
  // where the disk did not keep what it was given.
  Status Finish(const ShardProgress& progress);

 private:
  struct Place {
    std::size_t file = 0;
    std::uint64_t offset = 0;
    std::uint64_t bytes = 0;
    std::string checksum;  // empty: not written yet
  };

  ShardWriter(std::filesystem::path directory, ShardManifest manifest)
      : directory_(std::move(directory)), manifest_(std::move(manifest)) {}
  Status OpenFiles();
  Status OpenJournal();
  Status Verify(const ShardProgress& progress) const;
  Status WriteManifest() const;
  std::filesystem::path PathOf(std::size_t file) const { return directory_ / manifest_.files[file].name; }

  std::filesystem::path directory_;
  ShardManifest manifest_;
  std::vector<UniqueFd> files_;
  UniqueFd journal_;
  std::map<std::pair<std::string, std::string>, Place> places_;  // by file and tensor
  std::uint64_t total_bytes_ = 0;
  std::uint64_t written_bytes_ = 0;
};

// A tensor of a set: the tensor rank whose file it is in (kEvery), and its name.
using ShardTensorKey = std::pair<int, std::string>;

// A finished set. Immutable and thread safe; views stay valid as long as the set.
class ShardSet {
 public:
  // Whether a directory says that it is a set.
  static bool Exists(const std::filesystem::path& directory);

  // Maps the files of these tensor ranks and those that every rank reads. kCorrupt names the file and the
  // reason: of another size than was written, not what the manifest says.
  // With `open`, the directory holds the manifest alone, and files come from there into memory: at once what
  // is small, and with Populate what it is given; bytes of other tensors are zeros.
  static Result<std::shared_ptr<const ShardSet>> Open(const std::filesystem::path& directory,
                                                      std::span<const int> tensor_ranks,
                                                      const OpenShardFile& open = nullptr);
  // The manifest alone; files' tensors are not filled in.
  static Result<ShardManifest> ReadManifest(const std::filesystem::path& directory);

  const ShardManifest& manifest() const { return manifest_; }
  // kCorrupt where it is not there. `tensor_rank`: kEvery for what every rank reads.
  Result<TensorView> Find(int tensor_rank, const std::string& name) const;

  // Where a tensor that Find knows lies in its file, of paths().
  FileRange RangeOf(int tensor_rank, const std::string& name) const;
  const std::vector<std::filesystem::path>& paths() const { return paths_; }
  // Its files are elsewhere, and not at paths().
  bool is_fetched() const { return !fetched_.empty(); }

  // Brings the bytes of these tensors, which Find knows, into memory with several threads, in the order
  // given: from then on no step waits for the disk. kCorrupt where a file has been cut short meanwhile, or
  // what was fetched is not what was written.
  Status Populate(std::span<const ShardTensorKey> tensors, int threads, const ShardProgress& progress) const;

 private:
  ShardSet() = default;
  Status AddFile(const ShardFile& file, std::shared_ptr<const ByteSource> source);
  Status FetchSmall(const ShardFile& file, const FetchedFile& fetched);
  Status VerifyFetched(std::span<const ShardTensorKey> tensors, int threads) const;

  std::string directory_;
  ShardManifest manifest_;
  std::vector<std::filesystem::path> paths_;
  std::vector<std::shared_ptr<const ByteSource>> files_;     // by path, in memory all of them
  std::vector<std::shared_ptr<const FetchedFile>> fetched_;  // the same, where they are elsewhere
  struct Entry {
    TensorView view;
    std::size_t file = 0;
    std::string checksum;
  };
  std::map<ShardTensorKey, Entry> tensors_;
};

}  // namespace bloomery
