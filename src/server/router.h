// Which of our routes a method and a path mean, and in which dialect its errors are written.
#pragma once

#include <string_view>

#include "api/errors.h"

namespace bloomery {

enum class RouteKind : std::uint8_t {
  kPing,
  kMetrics,
  kModels,
  kInvocations,
  kPredictions,
  kModelInvoke,  // POST /models/{name}/invoke
  kManagement,   // /models, /models/{name}: whose methods the host of the models knows
  kCompletions,
  kChatCompletions,
  kGenerate,
  kGenerateStream,
  kTgiRoot,
  kUnknown,
};

struct Route {
  RouteKind kind = RouteKind::kUnknown;
  Dialect dialect = Dialect::kSageMaker;
  std::string_view method = "POST";  // the only one allowed; GET includes HEAD; empty: the service's business
  std::string_view rest;             // what follows a prefix route: the model's name, or its name and version
};

// `path` without the query.
Route FindRoute(std::string_view path);

}  // namespace bloomery
