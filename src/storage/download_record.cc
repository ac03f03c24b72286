#include "storage/download_record.h"

#include <sys/stat.h>

#include <fstream>

#include "base/json.h"
#include "base/mapped_file.h"
#include "storage/download_journal.h"

namespace bloomery {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kFormat = "bloomery-download";
constexpr std::int64_t kVersion = 1;

json::object ToJson(const S3Uri& uri, const std::vector<PlannedFile>& files) {
  json::array list;
  for (const PlannedFile& file : files)
    list.push_back({{"name", file.name}, {"bytes", file.size_bytes}, {"etag", file.etag}});
  return {{"format", kFormat}, {"version", kVersion}, {"uri", uri.ToString()}, {"files", std::move(list)}};
}

// Files that were removed or cut since are noticed; changed ones of the same size are their owner's business.
bool AllThere(const fs::path& directory, const std::vector<PlannedFile>& files) {
  for (const PlannedFile& file : files) {
    struct stat info{};
    if (::stat((directory / file.name).c_str(), &info) != 0 ||
        static_cast<std::uint64_t>(info.st_size) != file.size_bytes)
      return false;
  }
  return true;
}

}  // namespace

Result<DirectoryState> StateOf(const fs::path& directory, const S3Uri& uri,
                               const std::vector<PlannedFile>& files) {
  std::error_code error;
  if (!fs::exists(directory, error)) return DirectoryState::kAbsent;
  if (!fs::is_directory(directory, error))
    return Fail(ErrorCode::kInvalidArgument, "{} is there, and is no directory", directory.string());
  if (fs::is_empty(directory, error)) return DirectoryState::kAbsent;
  const auto text = ReadFileToString(directory / kRecordName);
  const auto record = text ? ParseJson(*text, kRecordName) : std::unexpected(text.error());
  if (!record || !record->is_object()) {
    return Fail(
        ErrorCode::kInvalidArgument,
        "{} is there, and was not made by `bloomery download`; remove it, or choose another directory",
        directory.string());
  }
  const json::value* from = record->get_object().if_contains("uri");
  if (from == nullptr || *from != json::value(uri.ToString())) {
    return Fail(ErrorCode::kInvalidArgument,
                "{} was downloaded from {}; remove it, or choose another directory", directory.string(),
                from != nullptr && from->is_string() ? std::string_view(from->get_string()) : "elsewhere");
  }
  const bool same = record->get_object() == ToJson(uri, files) && AllThere(directory, files);
  return same ? DirectoryState::kSame : DirectoryState::kOlder;
}

Status WriteRecord(const fs::path& directory, const S3Uri& uri, const std::vector<PlannedFile>& files) {
  const fs::path path = directory / kRecordName;
  std::ofstream file(path, std::ios::trunc);
  file << json::serialize(ToJson(uri, files)) << "\n";
  if (!file.flush()) return Fail(ErrorCode::kIo, "{}: cannot write", path.string());
  return {};
}

bool IsDownloadFile(std::string_view name) { return name == kRecordName || name == DownloadJournal::kName; }

}  // namespace bloomery
