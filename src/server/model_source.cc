#include "server/model_source.h"

#include <algorithm>

#include "server/setting_text.h"

namespace bloomery {
namespace {

namespace fs = std::filesystem;

bool IsDirectory(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

// "name" or "owner/name", of letters, digits, '-', '_' and '.', as the hub allows.
bool IsHubId(std::string_view text) {
  const auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_' || c == '.' || c == '/';
  };
  return std::ranges::all_of(text, allowed) && std::ranges::count(text, '/') <= 1 && text.size() <= 96 &&
         text.front() != '/' && text.back() != '/' && text.find("..") == std::string_view::npos;
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
  if (!text.empty() && IsHubId(text) && text.front() != '.')
    return ModelSource{SourceKind::kHub, std::string(text), {}};
  return Fail(ErrorCode::kInvalidArgument,
              "must be a directory, s3://bucket/prefix/ or a hub's id like facebook/opt-30b");
}

Result<fs::path> FetchModel(const ModelSource& source) {
  switch (source.kind) {
    case SourceKind::kDirectory:
      break;
    case SourceKind::kS3:
      return Fail(
          ErrorCode::kUnsupported,
          "{} is not a directory; copy the model to one (aws s3 cp --recursive), and set option.model_id "
          "to its path",
          Displayed(source.text));
    case SourceKind::kHub:
      return Fail(ErrorCode::kUnsupported,
                  "{} is not a directory; download the model to one, and set option.model_id to its path",
                  Displayed(source.text));
  }
  if (!IsDirectory(source.text))
    return Fail(ErrorCode::kNotFound, "the model's directory {} is not there", Displayed(source.text));
  return fs::path(source.text);
}

}  // namespace bloomery
