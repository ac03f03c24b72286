// Where a deployment's weights are, and how they come to a directory of this host.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "base/result.h"

namespace bloomery {

enum class SourceKind : std::uint8_t { kDirectory, kS3, kHub };

struct ModelSource {
  SourceKind kind = SourceKind::kDirectory;
  std::string text;      // a path, "s3://bucket/prefix/", or "facebook/opt-30b"
  std::string revision;  // of the hub's model; empty: its main branch
};

std::string_view SourceKindName(SourceKind kind);  // "directory", "s3", "hub"

// What option.model_id says. A relative path counts from `directory`, the deployment's own, where there is
// one of that name; else "owner/name" or "name" is a hub's id. kInvalidArgument for anything else.
Result<ModelSource> ParseModelSource(std::string_view text, const std::filesystem::path& directory);

// The directory with the source's files. Only directories are fetched yet: kUnsupported, saying what to do,
// for the hub and for S3, and kNotFound for a directory that is not there.
Result<std::filesystem::path> FetchModel(const ModelSource& source);

}  // namespace bloomery
