// Where a deployment's weights are. Left out: how they come to this host (cli/remote_model.h).
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

}  // namespace bloomery
