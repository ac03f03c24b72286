#include "server/router.h"

#include <array>

namespace bloomery {
namespace {

struct Entry {
  std::string_view path;
  Route route;
};

constexpr std::array<Entry, 10> kExact = {{
    {"/ping", {RouteKind::kPing, Dialect::kSageMaker, "GET", {}}},
    {"/server/metrics", {RouteKind::kMetrics, Dialect::kSageMaker, "GET", {}}},
    {"/metrics", {RouteKind::kMetrics, Dialect::kSageMaker, "GET", {}}},
    {"/v1/models", {RouteKind::kModels, Dialect::kOpenAi, "GET", {}}},
    {"/invocations", {RouteKind::kInvocations, Dialect::kSageMaker, "POST", {}}},
    {"/v1/completions", {RouteKind::kCompletions, Dialect::kOpenAi, "POST", {}}},
    {"/v1/chat/completions", {RouteKind::kChatCompletions, Dialect::kOpenAi, "POST", {}}},
    {"/generate", {RouteKind::kGenerate, Dialect::kTgi, "POST", {}}},
    {"/generate_stream", {RouteKind::kGenerateStream, Dialect::kTgi, "POST", {}}},
    {"/", {RouteKind::kTgiRoot, Dialect::kTgi, "POST", {}}},
}};

}  // namespace

Route FindRoute(std::string_view path) {
  for (const Entry& entry : kExact) {
    if (entry.path == path) return entry.route;
  }
  static constexpr std::string_view kPredictions = "/predictions/";
  if (path.starts_with(kPredictions))
    return {RouteKind::kPredictions, Dialect::kSageMaker, "POST", path.substr(kPredictions.size())};
  static constexpr std::string_view kModels = "/models/";
  static constexpr std::string_view kInvoke = "/invoke";
  if (path == "/models" || path == kModels) return {RouteKind::kManagement, Dialect::kSageMaker, {}, {}};
  if (path.starts_with(kModels)) {
    std::string_view rest = path.substr(kModels.size());
    if (!rest.ends_with(kInvoke)) return {RouteKind::kManagement, Dialect::kSageMaker, {}, rest};
    rest.remove_suffix(kInvoke.size());
    return {RouteKind::kModelInvoke, Dialect::kSageMaker, "POST", rest};
  }
  Route unknown;
  unknown.dialect = path.starts_with("/v1/") ? Dialect::kOpenAi : Dialect::kSageMaker;
  return unknown;
}

}  // namespace bloomery
