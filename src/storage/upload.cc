#include "storage/upload.h"

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "base/log.h"
#include "base/mapped_file.h"
#include "storage/download_record.h"
#include "storage/transfer_pool.h"

namespace bloomery {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kMaxParts = 10'000;
constexpr std::uint64_t kMiB = 1U << 20U;

struct UploadFile {
  fs::path path;
  S3Uri object;
  std::uint64_t size_bytes = 0;
  std::uint64_t part_bytes = 0;

  // While it goes up.
  std::shared_ptr<const MappedFile> bytes{};
  std::string upload{};         // of a file in parts
  std::vector<S3Part> parts{};  // each written by the thread that has the part
  std::atomic<std::size_t> parts_left{0};

  std::size_t part_count() const { return (size_bytes + part_bytes - 1) / part_bytes; }
  std::span<const std::byte> part(std::size_t index) const {
    const std::uint64_t offset = index * part_bytes;
    return bytes->bytes().subspan(offset, std::min(part_bytes, size_bytes - offset));
  }
};

using Files = std::vector<std::unique_ptr<UploadFile>>;

Status AddFile(Files& files, const fs::path& path, S3Uri object, const UploadOptions& options) {
  std::error_code error;
  auto file = std::make_unique<UploadFile>();
  file->size_bytes = fs::file_size(path, error);
  if (error) return Fail(ErrorCode::kIo, "{}: {}", path.string(), error.message());
  file->path = path;
  file->object = std::move(object);
  const std::uint64_t least = (file->size_bytes / kMaxParts / kMiB + 1) * kMiB;
  file->part_bytes = file->size_bytes / options.part_bytes < kMaxParts ? options.part_bytes : least;
  files.push_back(std::move(file));
  return {};
}

Result<Files> FindFiles(const fs::path& path, const S3Uri& uri, const UploadOptions& options) {
  Files files;
  std::error_code error;
  if (fs::is_regular_file(path, error)) {
    S3Uri object = uri;
    if (object.key.empty() || object.key.ends_with('/')) object.key += path.filename().string();
    RETURN_IF_ERROR(AddFile(files, path, std::move(object), options));
    return files;
  }
  if (!fs::is_directory(path, error))
    return Fail(ErrorCode::kNotFound, "{}: there is no such file or directory", path.string());
  const std::string prefix = uri.key.empty() || uri.key.ends_with('/') ? uri.key : uri.key + "/";
  for (fs::recursive_directory_iterator it(path, fs::directory_options::follow_directory_symlink, error), end;
       !error && it != end; it.increment(error)) {
    const std::string name = it->path().lexically_relative(path).generic_string();
    if (it->is_directory(error) || IsDownloadFile(name)) continue;
    if (!it->is_regular_file(error))
      return Fail(ErrorCode::kUnsupported, "{}: is no regular file", it->path().string());
    RETURN_IF_ERROR(AddFile(files, it->path(), {uri.bucket, prefix + name}, options));
  }
  if (error) return Fail(ErrorCode::kIo, "{}: {}", path.string(), error.message());
  if (files.empty()) return Fail(ErrorCode::kNotFound, "{}: there are no files in it", path.string());
  std::sort(files.begin(), files.end(),
            [](const auto& a, const auto& b) { return a->object.key < b->object.key; });
  return files;
}

class Upload {
 public:
  Upload(S3Client& s3, Files files, const UploadOptions& options)
      : s3_(s3), options_(options), files_(std::move(files)) {
    for (const auto& file : files_) total_bytes_ += file->size_bytes;
  }

  Result<UploadReport> Run(const S3Uri& uri) {
    RETURN_IF_ERROR(ListThere(uri));
    for (const auto& file : files_) pool_.Add([this, &file = *file] { return Begin(file); });
    const Status done = pool_.Run(options_.connections,
                                  [this] { return !options_.progress || options_.progress(Progress()); });
    if (!done) {
      AbortUnfinished();
      Error error = done.error();
      if (error.code == ErrorCode::kCancelled)
        error.message = "interrupted; the same command leaves out what is there already";
      return std::unexpected(std::move(error));
    }
    return UploadReport{files_.size(), kept_files_, total_bytes_, moved_bytes_};
  }

 private:
  TransferProgress Progress() const {
    return {.done_bytes = done_bytes_, .total_bytes = total_bytes_, .moved_bytes = moved_bytes_};
  }

  // What lies under the prefix. Whoever may write need not be allowed to list: then all is sent.
  Status ListThere(const S3Uri& uri) {
    const auto objects = s3_.List(uri.bucket, uri.key);
    if (!objects) {
      if (objects.error().code == ErrorCode::kPermissionDenied) return {};
      return std::unexpected(objects.error());
    }
    for (const S3Object& object : *objects) there_[object.key] = object.size_bytes;
    return {};
  }

  // Whether the object holds these bytes, as far as the store's checksum can tell; if not, they are sent.
  bool IsThere(const UploadFile& file) {
    const auto found = there_.find(file.object.key);
    if (found == there_.end() || found->second != file.size_bytes) return false;
    const auto head = s3_.Head(file.object);
    if (!head || !head->checksum) return false;
    const S3Checksum& known = *head->checksum;
    if (known.parts == 0) return ChecksumOf(known.kind, file.bytes->bytes()) == known.digest;
    if (static_cast<std::size_t>(known.parts) != file.part_count()) return false;
    std::string all;
    for (std::size_t part = 0; part < file.part_count(); ++part)
      all += ChecksumOf(known.kind, file.part(part));
    return ChecksumOf(known.kind, std::as_bytes(std::span(all))) == known.digest;
  }

  Status Begin(UploadFile& file) {
    ASSIGN_OR_RETURN(file.bytes, MappedFile::Open(file.path));
    if (file.bytes->size_bytes() != file.size_bytes)
      return Fail(ErrorCode::kIo, "{}: changes while it is uploaded", file.path.string());
    if (IsThere(file)) {
      ++kept_files_;
      done_bytes_ += file.size_bytes;
      file.bytes.reset();
      return {};
    }
    if (file.part_count() <= 1) {
      RETURN_IF_ERROR(s3_.Put(file.object, file.bytes->bytes()));
      Count(file.size_bytes);
      file.bytes.reset();
      return {};
    }
    ASSIGN_OR_RETURN(std::string upload, s3_.BeginUpload(file.object));
    {
      const std::scoped_lock lock(mutex_);
      file.upload = std::move(upload);
    }
    file.parts.resize(file.part_count());
    file.parts_left = file.part_count();
    for (std::size_t part = 0; part < file.part_count(); ++part)
      pool_.Add([this, &file, part] { return SendPart(file, part); });
    return {};
  }

  Status SendPart(UploadFile& file, std::size_t part) {
    ASSIGN_OR_RETURN(file.parts[part], s3_.UploadPart(file.object, file.upload, static_cast<int>(part) + 1,
                                                      file.part(part), &pool_.stop()));
    Count(file.part(part).size());
    if (file.parts_left.fetch_sub(1) > 1) return {};
    RETURN_IF_ERROR(s3_.FinishUpload(file.object, file.upload, file.parts));
    const std::scoped_lock lock(mutex_);
    file.upload.clear();
    file.bytes.reset();
    return {};
  }

  void Count(std::uint64_t bytes) {
    done_bytes_ += bytes;
    moved_bytes_ += bytes;
  }

  // Parts that belong to nothing would be paid for until somebody finds them.
  void AbortUnfinished() {
    for (const auto& file : files_) {
      if (file->upload.empty()) continue;
      if (const Status aborted = s3_.AbortUpload(file->object, file->upload); !aborted)
        spdlog::warn("{}; its parts stay in the bucket", aborted.error().message);
    }
  }

  // Constant after construction; there_ before the workers start.
  S3Client& s3_;
  const UploadOptions& options_;
  Files files_;
  std::uint64_t total_bytes_ = 0;
  std::map<std::string, std::uint64_t> there_;

  std::atomic<std::uint64_t> done_bytes_{0};
  std::atomic<std::uint64_t> moved_bytes_{0};
  std::atomic<std::size_t> kept_files_{0};
  std::mutex mutex_;  // guards each file's `upload`
  TransferPool pool_;
};

}  // namespace

Result<UploadReport> UploadPath(S3Client& s3, const fs::path& path, const S3Uri& uri,
                                const UploadOptions& options) {
  ASSIGN_OR_RETURN(Files files, FindFiles(path, uri, options));
  const auto is_last = [&](const auto& file) { return file->path == path / options.last; };
  Files last;
  if (const auto found = std::find_if(files.begin(), files.end(), is_last); found != files.end()) {
    last.push_back(std::move(*found));
    files.erase(found);
  }
  ASSIGN_OR_RETURN(UploadReport report, Upload(s3, std::move(files), options).Run(uri));
  if (last.empty()) return report;
  ASSIGN_OR_RETURN(const UploadReport end, Upload(s3, std::move(last), options).Run(uri));
  return UploadReport{report.files + end.files, report.kept_files + end.kept_files,
                      report.total_bytes + end.total_bytes, report.moved_bytes + end.moved_bytes};
}

}  // namespace bloomery
