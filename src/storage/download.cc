#include "storage/download.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/log.h"
#include "base/mapped_file.h"
#include "storage/download_journal.h"
#include "storage/download_plan.h"
#include "storage/download_record.h"
#include "storage/folder_lock.h"
#include "storage/part_file.h"
#include "storage/transfer_pool.h"

namespace bloomery {
namespace {

namespace fs = std::filesystem;

// A file that does not match its checksum is fetched again so often; more would not help against a store
// whose data is bad.
constexpr int kTriesPerFile = 3;
// A part that ends early and yet without an error of the connection.
constexpr int kTriesPerPart = 5;
constexpr std::size_t kReadBytes = 1U << 20U;
constexpr std::uint64_t kStatBlockBytes = 512;

std::unexpected<Error> IoError(const fs::path& path, std::string_view what) {
  return Fail(ErrorCode::kIo, "{}: cannot {}: {}", path.string(), what, std::strerror(errno));
}

// Writes the answer to one request at its place in the file.
class PartSink final : public BodySink {
 public:
  PartSink(PlannedFile& plan, const PartFile& file, S3Range range, std::atomic<std::uint64_t>& moved)
      : plan_(plan), file_(file), range_(range), moved_(moved), writer_(file, range.offset) {}
  ~PartSink() override { moved_ -= complete() ? 0 : received_; }
  PartSink(const PartSink&) = delete;
  PartSink& operator=(const PartSink&) = delete;

  Status Begin(const HttpResponse& head) override {
    if (plan_.in_one) {
      const S3Head known = ParseS3Head(head);
      if (!head.Header("content-length").empty() && known.size_bytes != range_.bytes)
        return Changed("has another size than its listing said");
      PlanVerification(plan_, known);
    } else if (head.status != 206 ||
               !head.Header("content-range")
                    .starts_with(fmt::format("bytes {}-{}/{}", range_.offset,
                                             range_.offset + range_.bytes - 1, plan_.size_bytes))) {
      return Changed("was not answered with the range that was asked for");
    }
    moved_ -= received_;
    received_ = 0;
    checksum_ = Checksum(plan_.kind);
    writer_ = PartWriter(file_, range_.offset);
    return {};
  }

  Status Write(std::span<const std::byte> bytes) override {
    if (bytes.size() > range_.bytes - received_) return Changed("sent more than was asked for");
    checksum_.Update(bytes);
    RETURN_IF_ERROR(writer_.Add(bytes));
    received_ += bytes.size();
    moved_ += bytes.size();
    return complete() ? writer_.Flush() : Status();
  }

  bool complete() const { return received_ == range_.bytes; }
  std::string Digest() { return checksum_.Finish(); }

 private:
  std::unexpected<Error> Changed(std::string_view what) const {
    return Fail(ErrorCode::kCorrupt, "{}: {}; start again", plan_.object.ToString(), what);
  }

  PlannedFile& plan_;
  const PartFile& file_;
  S3Range range_;
  std::atomic<std::uint64_t>& moved_;
  PartWriter writer_;
  std::uint64_t received_ = 0;
  Checksum checksum_{plan_.kind};
};

// A file while its parts arrive.
struct OpenFile {
  PlannedFile plan;
  fs::path path;
  std::mutex opening;
  PartFile file;                     // open from the first part to the last; guarded by opening until then
  std::vector<std::string> digests;  // of parts; each written by the thread that has the part
  std::atomic<std::size_t> parts_left{0};
  int tries = 0;  // of the thread that has the last part
};

class Download {
 public:
  Download(S3Client& s3, const fs::path& folder, DownloadJournal& journal, const DownloadOptions& options,
           std::vector<PlannedFile> files)
      : s3_(s3), journal_(journal), options_(options) {
    for (PlannedFile& plan : files) {
      auto file = std::make_unique<OpenFile>();
      file->path = folder / plan.name;
      total_bytes_ += plan.size_bytes;
      file->plan = std::move(plan);
      files_.push_back(std::move(file));
    }
    past_cache_ = total_bytes_ > options.max_cached_bytes;
  }

  Result<DownloadReport> Run() {
    RETURN_IF_ERROR(CheckSpace());
    for (const auto& file : files_) {
      if (file->plan.in_one) {
        AddParts(*file);
      } else {
        pool_.Add([this, &file = *file] { return Plan(file); });
      }
    }
    RETURN_IF_ERROR(pool_.Run(options_.connections,
                              [this] { return !options_.progress || options_.progress(Progress()); }));
    DownloadReport report{.files = files_.size(), .total_bytes = total_bytes_, .moved_bytes = moved_bytes_};
    report.kept_bytes = kept_bytes_;
    for (const auto& file : files_)
      report.unverified += file->plan.verification == Verification::kNone ? 1 : 0;
    return report;
  }

  // Of the finished download, for its record.
  std::vector<PlannedFile> files() const {
    std::vector<PlannedFile> plans;
    for (const auto& file : files_) plans.push_back(file->plan);
    return plans;
  }

 private:
  TransferProgress Progress() const {
    return {.done_bytes = moved_bytes_ + kept_bytes_ - wasted_bytes_,
            .total_bytes = total_bytes_,
            .moved_bytes = moved_bytes_};
  }

  // Said before hours of downloading, not after. What an interrupted download has reserved counts as free.
  Status CheckSpace() const {
    if (files_.empty()) return {};
    std::uint64_t needed = 0;
    for (const auto& file : files_) {
      struct stat info{};
      const std::uint64_t has = ::stat(file->path.c_str(), &info) == 0
                                    ? static_cast<std::uint64_t>(info.st_blocks) * kStatBlockBytes
                                    : 0;
      needed += file->plan.size_bytes - std::min(file->plan.size_bytes, has);
    }
    std::error_code error;
    const fs::path folder = journal_.folder();
    const fs::space_info space = fs::space(folder, error);
    if (error || space.available >= needed) return {};
    return Fail(ErrorCode::kIo, "{}: {} bytes are needed and {} are free on its disk", folder.string(),
                needed, space.available);
  }

  void AddParts(OpenFile& file) {
    file.digests.assign(file.plan.parts(), "");
    file.parts_left = file.plan.parts();
    for (std::size_t part = 0; part < file.plan.parts(); ++part)
      pool_.Add([this, &file, part] { return DoPart(file, part); });
  }

  Status Plan(OpenFile& file) {
    const std::uint64_t listed_bytes = file.plan.size_bytes;
    RETURN_IF_ERROR(PlanParts(s3_, file.plan, options_.part_bytes));
    if (file.plan.size_bytes != listed_bytes) {
      return Fail(ErrorCode::kCorrupt, "{}: was changed while it was listed; start again",
                  file.plan.object.ToString());
    }
    AddParts(file);
    return {};
  }

  Status Open(OpenFile& file) const {
    const std::scoped_lock lock(file.opening);
    if (file.file.is_open()) return {};
    // Parts that share a block would undo each other's.
    const bool apart = file.plan.in_one || file.plan.part_bytes % kDirectBlockBytes == 0;
    return file.file.Open(file.path, file.plan.size_bytes, past_cache_ && apart);
  }

  Status DoPart(OpenFile& file, std::size_t part) {
    RETURN_IF_ERROR(Open(file));
    const bool kept = file.tries == 0 && (file.plan.in_one ? KeepSmall(file) : KeepPart(file, part));
    if (!kept) RETURN_IF_ERROR(FetchPart(file, part));
    if (file.parts_left.fetch_sub(1) > 1) return {};
    ASSIGN_OR_RETURN(const bool whole, Verify(file));
    if (!whole) return FetchAgain(file);
    file.file.Close();
    return file.plan.in_one && !kept ? journal_.Add(file.plan, 0, file.digests[0]) : Status();
  }

  // What a file fetched in one request is checked against came with its answer; only what matched was written
  // down.
  bool KeepSmall(OpenFile& file) {
    for (const ChecksumKind kind : kChecksumKinds) {
      file.plan.kind = kind;
      if (!KeepPart(file, 0)) continue;
      file.plan.verification = Verification::kCombine;
      file.plan.expected = {kind, file.digests[0], 0};
      return true;
    }
    return false;
  }

  // True if the part is there from before.
  bool KeepPart(OpenFile& file, std::size_t part) {
    const auto digest = journal_.Find(file.plan, part);
    if (!digest || file.plan.size_bytes == 0) return false;
    const S3Range range = file.plan.part(part);
    Checksum checksum(file.plan.kind);
    std::vector<std::byte> buffer(std::min<std::uint64_t>(kReadBytes, range.bytes));
    for (std::uint64_t done = 0; done < range.bytes;) {
      if (pool_.stop()) return false;
      const std::size_t want = std::min<std::uint64_t>(buffer.size(), range.bytes - done);
      const auto piece = std::span(buffer).first(want);
      if (!file.file.ReadAt(range.offset + done, piece)) return false;
      checksum.Update(piece);
      done += want;
    }
    if (checksum.Finish() != *digest) return false;
    kept_bytes_ += range.bytes;
    file.digests[part] = *digest;
    return true;
  }

  Status FetchPart(OpenFile& file, std::size_t part) {
    const S3Range range = file.plan.size_bytes == 0 ? S3Range{0, 0} : file.plan.part(part);
    for (int tried = 1;; ++tried) {
      PartSink sink(file.plan, file.file, range, moved_bytes_);
      const auto asked = file.plan.in_one ? std::nullopt : std::optional(range);
      RETURN_IF_ERROR(s3_.Get(file.plan.object, asked, file.plan.etag, sink, &pool_.stop()));
      if (sink.complete()) {
        file.digests[part] = sink.Digest();
        return file.plan.in_one ? Status() : journal_.Add(file.plan, part, file.digests[part]);
      }
      if (tried == kTriesPerPart)
        return Fail(ErrorCode::kUnavailable, "{}: answers end too early", file.plan.object.ToString());
    }
  }

  // Whether the file is what the store says it is.
  Result<bool> Verify(OpenFile& file) {
    const PlannedFile& plan = file.plan;
    if (plan.verification == Verification::kNone) return true;
    std::string digest = file.digests.front();
    if (plan.verification == Verification::kCombine) {
      for (std::size_t part = 1; part < file.digests.size(); ++part)
        digest = CombineCrcs(plan.kind, digest, file.digests[part], plan.part(part).bytes);
    } else if (plan.verification == Verification::kNested) {
      std::string all;
      for (const std::string& part : file.digests) all += part;
      digest = ChecksumOf(plan.kind, std::as_bytes(std::span(all)));
    } else {
      ASSIGN_OR_RETURN(digest, Reread(file));
    }
    return digest == plan.expected.digest;
  }

  Result<std::string> Reread(const OpenFile& file) const {
    ASSIGN_OR_RETURN(const auto map, MappedFile::Open(file.path));
    Checksum checksum(file.plan.expected.kind);
    for (auto rest = map->bytes(); !rest.empty();) {
      if (pool_.stop()) return Fail(ErrorCode::kCancelled, "interrupted");
      const auto piece = rest.first(std::min(rest.size(), kReadBytes));
      checksum.Update(piece);
      rest = rest.subspan(piece.size());
    }
    return checksum.Finish();
  }

  Status FetchAgain(OpenFile& file) {
    spdlog::warn("{}: what arrived is not what the store has; fetching it again",
                 file.plan.object.ToString());
    if (++file.tries == kTriesPerFile) {
      return Fail(
          ErrorCode::kCorrupt,
          "{}: its {} is not the one that the store has, after {} downloads; something between here and "
          "there changes bytes, or the object is damaged",
          file.plan.object.ToString(), ChecksumName(file.plan.expected.kind), kTriesPerFile);
    }
    wasted_bytes_ += file.plan.size_bytes;
    AddParts(file);
    return {};
  }

  // Constant after construction.
  S3Client& s3_;
  DownloadJournal& journal_;
  const DownloadOptions& options_;
  std::vector<std::unique_ptr<OpenFile>> files_;
  std::uint64_t total_bytes_ = 0;
  bool past_cache_ = false;

  std::atomic<std::uint64_t> moved_bytes_{0};
  std::atomic<std::uint64_t> kept_bytes_{0};
  std::atomic<std::uint64_t> wasted_bytes_{0};  // of moved and kept ones: files that did not match
  TransferPool pool_;
};

// Puts the finished folder into its place; what was there is gone for new readers, and kept for those who
// have its files open.
Status Show(const fs::path& partial, const fs::path& directory, bool replaces) {
  const unsigned int flags = replaces ? RENAME_EXCHANGE : 0;
  std::error_code ignored;
  bool shown = ::renameat2(AT_FDCWD, partial.c_str(), AT_FDCWD, directory.c_str(), flags) == 0;
  // File systems that cannot exchange (NFS, some of containers): for a moment there is no directory.
  if (!shown && replaces && errno == EINVAL) {
    const fs::path old = directory.string() + ".old";
    fs::remove_all(old, ignored);
    shown =
        ::rename(directory.c_str(), old.c_str()) == 0 && ::rename(partial.c_str(), directory.c_str()) == 0;
    if (shown) fs::remove_all(old, ignored);
  }
  if (!shown) return IoError(directory, "put the download into its place");
  if (replaces) fs::remove_all(partial, ignored);
  return {};
}

std::unexpected<Error> Explained(Error error, const fs::path& partial) {
  if (error.code == ErrorCode::kCancelled)
    error.message = fmt::format("interrupted; the same command goes on from here ({})", partial.string());
  if (error.code == ErrorCode::kUnavailable || error.code == ErrorCode::kDeadlineExceeded)
    error.message += "; what has arrived is kept: the same command goes on from here";
  return std::unexpected(std::move(error));
}

}  // namespace

Result<DownloadReport> DownloadDirectory(S3Client& s3, const S3Uri& uri, const fs::path& asked,
                                         const DownloadOptions& options) {
  fs::path directory = fs::absolute(asked).lexically_normal();
  if (directory.filename().empty()) directory = directory.parent_path();
  std::error_code error;
  fs::create_directories(directory.parent_path(), error);
  if (error) return Fail(ErrorCode::kIo, "{}: {}", directory.parent_path().string(), error.message());
  ASSIGN_OR_RETURN(const FolderLock lock, FolderLock::Take(directory, [&] {
                     return !options.progress || options.progress({.waiting = true});
                   }));

  ASSIGN_OR_RETURN(std::vector<PlannedFile> files, ListFiles(s3, uri, options.part_bytes));
  // Of a directory that was downloaded, and uploaded again.
  std::erase_if(files, [](const PlannedFile& file) { return IsDownloadFile(file.name); });
  // "opt" and "opt/" are the same download.
  S3Uri label = uri;
  while (label.key.ends_with('/')) label.key.pop_back();
  ASSIGN_OR_RETURN(const DirectoryState state, StateOf(directory, label, files));
  if (state == DirectoryState::kSame) {
    DownloadReport report{.files = files.size(), .was_there = true};
    for (const PlannedFile& file : files) report.total_bytes += file.size_bytes;
    return report;
  }
  const fs::path partial = directory.string() + ".partial";
  ASSIGN_OR_RETURN(const auto journal, DownloadJournal::Open(partial, label));
  Download download(s3, partial, *journal, options, std::move(files));
  auto report = download.Run();
  if (!report) return Explained(std::move(report).error(), partial);
  RETURN_IF_ERROR(WriteRecord(partial, label, download.files()));
  RETURN_IF_ERROR(Show(partial, directory, state == DirectoryState::kOlder));
  fs::remove(directory / DownloadJournal::kName, error);
  return report;
}

}  // namespace bloomery
