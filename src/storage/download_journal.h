// What has arrived of a download that is not finished: a file in its folder, a line for each part, so that
// after kill -9 the same command goes on where it was. A line is believed only after the part's bytes on disk
// have been hashed again: the journal may have reached the disk before them.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "storage/download_plan.h"

namespace bloomery {

// What a finished download says of itself (download_record.h).
inline constexpr const char* kRecordName = ".bloomery-download.json";

// Thread safe, but for Open.
class DownloadJournal {
 public:
  static constexpr const char* kName = ".bloomery-download.journal";

  // The journal in `folder` of a download of `uri`; what is in the folder of another one is removed.
  // kInvalidArgument for a folder that has files and no journal: nobody's to remove.
  static Result<std::unique_ptr<DownloadJournal>> Open(const std::filesystem::path& folder, const S3Uri& uri);

  std::filesystem::path folder() const { return path_.parent_path(); }

  // The digest of a part that was written before, of the same version of the same object, cut the same way.
  std::optional<std::string> Find(const PlannedFile& file, std::size_t part) const;
  Status Add(const PlannedFile& file, std::size_t part, const std::string& digest);

 private:
  explicit DownloadJournal(std::filesystem::path path) : path_(std::move(path)) {}

  std::filesystem::path path_;
  UniqueFd fd_;                               // constant after Open, appended to whole lines at a time
  std::map<std::string, std::string> found_;  // constant after Open: what a line says before its digest
};

}  // namespace bloomery
