#include "storage/download_plan.h"

#include <algorithm>
#include <set>

namespace bloomery {
namespace {

// Parts as uploaded that are larger are not worth waiting for one by one: such a file is fetched in parts of
// our own, and only its size is checked.
constexpr std::uint64_t kMaxPartBytes = 256U << 20U;
// What other tools are likely to have meant, shown when nothing is found.
constexpr std::size_t kHints = 3;

// A key's name below the prefix, or an error if no file can have it.
Result<std::string> FileName(const S3Uri& object, std::size_t prefix_bytes) {
  std::string name = object.key.substr(prefix_bytes);
  std::size_t begin = 0;
  for (;;) {
    const std::size_t end = std::min(name.find('/', begin), name.size());
    const std::string_view part = std::string_view(name).substr(begin, end - begin);
    if (part.empty() || part == "." || part == ".." || part.find('\0') != std::string_view::npos) {
      return Fail(ErrorCode::kUnsupported,
                  "{}: no file can have this key's name (empty parts, \".\" and \"..\" are refused)",
                  object.ToString());
    }
    if (end == name.size()) return name;
    begin = end + 1;
  }
}

// Two keys of a bucket may be "a" and "a/b"; two files may not.
Status CheckNoFileIsFolder(const std::vector<PlannedFile>& files) {
  std::set<std::string_view> names;
  for (const PlannedFile& file : files) names.insert(file.name);
  for (const PlannedFile& file : files) {
    const std::string_view name = file.name;
    for (std::size_t slash = 0; (slash = name.find('/', slash)) != std::string_view::npos; ++slash) {
      if (names.contains(name.substr(0, slash))) {
        return Fail(ErrorCode::kUnsupported, "{}: another object is named like its folder",
                    file.object.ToString());
      }
    }
  }
  return {};
}

std::unexpected<Error> NothingThere(S3Client& s3, const S3Uri& uri) {
  std::string hint;
  if (const auto near = s3.List(uri.bucket, uri.key, kHints); near && !uri.key.empty()) {
    for (const S3Object& object : *near)
      hint += (hint.empty() ? "; there is " : ", ") + S3Uri{uri.bucket, object.key}.ToString();
  }
  return Fail(ErrorCode::kNotFound, "{}: no object has this name or lies under it{}", uri.ToString(), hint);
}

PlannedFile MakeFile(std::string name, S3Uri object, std::uint64_t size, std::string etag,
                     std::uint64_t part_bytes) {
  PlannedFile file{.name = std::move(name), .object = std::move(object)};
  file.size_bytes = size;
  file.etag = std::move(etag);
  file.in_one = size <= part_bytes;
  file.part_bytes = file.in_one ? std::max<std::uint64_t>(size, 1) : part_bytes;
  return file;
}

}  // namespace

Result<std::vector<PlannedFile>> ListFiles(S3Client& s3, const S3Uri& uri, std::uint64_t part_bytes) {
  const bool folder = uri.key.empty() || uri.key.ends_with('/');
  const std::string prefix = folder ? uri.key : uri.key + "/";
  auto objects = s3.List(uri.bucket, prefix);
  // Whoever may read an object may not be allowed to list the bucket.
  if (!objects && (folder || objects.error().code != ErrorCode::kPermissionDenied))
    return std::unexpected(std::move(objects).error());
  std::vector<PlannedFile> files;
  for (const S3Object& object : objects.value_or(std::vector<S3Object>())) {
    if (object.key.ends_with('/')) continue;  // a console's mark for an empty folder
    if (!object.key.starts_with(prefix))
      return Fail(ErrorCode::kCorrupt, "{}: the listing holds other keys", uri.ToString());
    S3Uri place{uri.bucket, object.key};
    ASSIGN_OR_RETURN(std::string name, FileName(place, prefix.size()));
    files.push_back(MakeFile(std::move(name), std::move(place), object.size_bytes, object.etag, part_bytes));
  }
  if (!files.empty()) {
    RETURN_IF_ERROR(CheckNoFileIsFolder(files));
    return files;
  }
  if (folder) return NothingThere(s3, uri);
  const auto head = s3.Head(uri);
  if (!head) {
    if (!objects) return std::unexpected(std::move(objects).error());
    if (head.error().code != ErrorCode::kNotFound) return std::unexpected(head.error());
    return NothingThere(s3, uri);
  }
  const std::size_t slash = uri.key.rfind('/');
  ASSIGN_OR_RETURN(std::string name, FileName(uri, slash == std::string::npos ? 0 : slash + 1));
  files.push_back(MakeFile(std::move(name), uri, head->size_bytes, head->etag, part_bytes));
  return files;
}

void PlanVerification(PlannedFile& file, const S3Head& head) {
  file.verification = Verification::kNone;
  file.kind = ChecksumKind::kCrc32c;
  if (!head.checksum || head.checksum->parts > 1) return;
  file.expected = *head.checksum;
  file.kind = file.expected.kind;
  file.verification = file.expected.parts == 1 ? Verification::kNested : Verification::kCombine;
}

Status PlanParts(S3Client& s3, PlannedFile& file, std::uint64_t part_bytes) {
  ASSIGN_OR_RETURN(const S3Head head, s3.Head(file.object));
  file.size_bytes = head.size_bytes;
  file.etag = head.etag;
  file.part_bytes = part_bytes;
  file.verification = Verification::kNone;
  file.kind = ChecksumKind::kCrc32c;
  if (!head.checksum || head.size_bytes == 0) return {};
  file.expected = *head.checksum;
  if (file.expected.parts == 0) {
    const bool crc = IsCrc(file.expected.kind);
    file.verification = crc ? Verification::kCombine : Verification::kReread;
    if (crc) file.kind = file.expected.kind;
    return {};
  }
  // Cut as it was uploaded, the parts' digests are those that the store's digest was made of.
  const auto first = s3.Head(file.object, 1);
  const auto count = static_cast<std::uint64_t>(file.expected.parts);
  if (!first || first->etag != head.etag || first->size_bytes == 0 || first->size_bytes > kMaxPartBytes ||
      (head.size_bytes + first->size_bytes - 1) / first->size_bytes != count)
    return {};
  file.part_bytes = first->size_bytes;
  file.kind = file.expected.kind;
  file.verification = Verification::kNested;
  return {};
}

}  // namespace bloomery
