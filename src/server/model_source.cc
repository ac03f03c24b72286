#include "server/model_source.h"

#include "storage/hub.h"

namespace bloomery {
namespace {

namespace fs = std::filesystem;

bool IsDirectory(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

}  // namespace

std::string_view SourceKindName(SourceKind kind) {
  switch (kind) {
    case SourceKind::kDirectory:
      return "directory";
    case SourceKind::kS3:
      return "s3";
    case SourceKind::kHub:
      return "hub";
  }
  return "?";
}

Result<ModelSource> ParseModelSource(std::string_view text, const fs::path& directory) {
  static constexpr std::string_view kS3 = "s3://";
  if (text.starts_with(kS3)) {
    if (text.size() == kS3.size() || text[kS3.size()] == '/')
      return Fail(ErrorCode::kInvalidArgument, "has no bucket after s3://");
    return ModelSource{SourceKind::kS3, std::string(text), {}};
  }
  const fs::path path(text);
  if (path.is_absolute()) return ModelSource{SourceKind::kDirectory, std::string(text), {}};
  if (!text.empty() && IsDirectory(directory / path))
    return ModelSource{SourceKind::kDirectory, (directory / path).lexically_normal().string(), {}};
  if (IsHubId(text)) return ModelSource{SourceKind::kHub, std::string(text), {}};
  return Fail(ErrorCode::kInvalidArgument,
              "must be a directory, s3://bucket/prefix/ or a hub's id like facebook/opt-30b");
}

}  // namespace bloomery
