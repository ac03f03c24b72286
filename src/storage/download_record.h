// What a downloaded directory was made of: .bloomery-download.json in it. Whether it still is what the bucket
// has can then be told without reading it.
#pragma once

#include <filesystem>
#include <vector>

#include "base/result.h"
#include "storage/download_plan.h"

namespace bloomery {

enum class DirectoryState : std::uint8_t {
  kAbsent,  // or empty
  kSame,    // downloaded from the same URI, which has not changed since
  kOlder,   // downloaded from the same URI, which has
};

// kInvalidArgument for a directory that was not downloaded, or from elsewhere: it is not ours to replace.
Result<DirectoryState> StateOf(const std::filesystem::path& directory, const S3Uri& uri,
                               const std::vector<PlannedFile>& files);

Status WriteRecord(const std::filesystem::path& directory, const S3Uri& uri,
                   const std::vector<PlannedFile>& files);

// Names that downloads use in a directory for themselves: neither uploaded nor downloaded.
bool IsDownloadFile(std::string_view name);

}  // namespace bloomery
