#include "server/router.h"

#include <gtest/gtest.h>

namespace bloomery {
namespace {

struct Expected {
  const char* path;
  RouteKind kind;
  Dialect dialect;
  const char* method;
};

TEST(FindRoute, EveryRoute) {
  const Expected routes[] = {
      {"/ping", RouteKind::kPing, Dialect::kSageMaker, "GET"},
      {"/metrics", RouteKind::kMetrics, Dialect::kSageMaker, "GET"},
      {"/server/metrics", RouteKind::kMetrics, Dialect::kSageMaker, "GET"},
      {"/v1/models", RouteKind::kModels, Dialect::kOpenAi, "GET"},
      {"/invocations", RouteKind::kInvocations, Dialect::kSageMaker, "POST"},
      {"/v1/completions", RouteKind::kCompletions, Dialect::kOpenAi, "POST"},
      {"/v1/chat/completions", RouteKind::kChatCompletions, Dialect::kOpenAi, "POST"},
      {"/generate", RouteKind::kGenerate, Dialect::kTgi, "POST"},
      {"/generate_stream", RouteKind::kGenerateStream, Dialect::kTgi, "POST"},
      {"/", RouteKind::kTgiRoot, Dialect::kTgi, "POST"},
  };
  for (const Expected& expected : routes) {
    const Route route = FindRoute(expected.path);
    EXPECT_EQ(route.kind, expected.kind) << expected.path;
    EXPECT_EQ(route.dialect, expected.dialect) << expected.path;
    EXPECT_EQ(route.method, expected.method) << expected.path;
    EXPECT_EQ(route.rest, "") << expected.path;
  }
}

TEST(FindRoute, PredictionsNameAModel) {
  const Route route = FindRoute("/predictions/bloom-176b");
  EXPECT_EQ(route.kind, RouteKind::kPredictions);
  EXPECT_EQ(route.dialect, Dialect::kSageMaker);
  EXPECT_EQ(route.method, "POST");
  EXPECT_EQ(route.rest, "bloom-176b");
  EXPECT_EQ(FindRoute("/predictions/").rest, "");
  EXPECT_EQ(FindRoute("/predictions/").kind, RouteKind::kPredictions);
  EXPECT_EQ(FindRoute("/predictions/a/b").rest, "a/b");
}

TEST(FindRoute, ModelsAreManagedAndInvoked) {
  for (const char* path : {"/models", "/models/"}) {
    EXPECT_EQ(FindRoute(path).kind, RouteKind::kManagement);
    EXPECT_EQ(FindRoute(path).rest, "");
    EXPECT_EQ(FindRoute(path).method, "") << "several";
  }
  EXPECT_EQ(FindRoute("/models/a/v1").kind, RouteKind::kManagement);
  EXPECT_EQ(FindRoute("/models/a/v1").rest, "a/v1");
  const Route invoke = FindRoute("/models/a/invoke");
  EXPECT_EQ(invoke.kind, RouteKind::kModelInvoke);
  EXPECT_EQ(invoke.rest, "a");
  EXPECT_EQ(invoke.method, "POST");
  EXPECT_EQ(FindRoute("/models/invoke").kind, RouteKind::kManagement) << "a model of that name";
}

TEST(FindRoute, OthersAreUnknown) {
  for (const char* path : {"", "/ping/", "/pin", "/pings", "ping", "/PING", "/invocations/x", "/predictions",
                           "/generate/", "/generate_streams", "//", "/v2/models"}) {
    const Route route = FindRoute(path);
    EXPECT_EQ(route.kind, RouteKind::kUnknown) << path;
    EXPECT_EQ(route.dialect, Dialect::kSageMaker) << path;
  }
}

// An OpenAI client shows the message of an error that it can read.
TEST(FindRoute, UnknownOnesOfOpenAiFailInItsDialect) {
  for (const char* path : {"/v1/embeddings", "/v1/", "/v1/models/x", "/v1/completions/"}) {
    EXPECT_EQ(FindRoute(path).kind, RouteKind::kUnknown) << path;
    EXPECT_EQ(FindRoute(path).dialect, Dialect::kOpenAi) << path;
  }
  EXPECT_EQ(FindRoute("/v1").dialect, Dialect::kSageMaker);
}

}  // namespace
}  // namespace bloomery
