#include "api/errors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "api/test_util.h"

namespace bloomery {
namespace {

struct Expected {
  ErrorCode code;
  int openai;
  const char* openai_type;
  int sagemaker;
  const char* sagemaker_type;
  int tgi;
  const char* tgi_type;
};

// What each dialect's clients look for: OpenAI's published errors, djl-serving's and
// text-generation-inference's.
constexpr Expected kExpected[] = {
    {ErrorCode::kInvalidArgument, 400, "invalid_request_error", 400, "BadRequestException", 422,
     "validation"},
    {ErrorCode::kNotFound, 404, "not_found_error", 404, "ResourceNotFoundException", 404, "not_found"},
    {ErrorCode::kCorrupt, 400, "invalid_request_error", 400, "BadRequestException", 422, "validation"},
    {ErrorCode::kUnsupported, 400, "invalid_request_error", 400, "BadRequestException", 422, "validation"},
    {ErrorCode::kAlreadyExists, 409, "conflict", 409, "ConflictException", 409, "conflict"},
    {ErrorCode::kOutOfMemory, 503, "server_error", 507, "WlmOutOfMemoryException", 503, "unhealthy"},
    {ErrorCode::kOverloaded, 429, "rate_limit_exceeded", 503, "ServiceUnavailableException", 429,
     "overloaded"},
    {ErrorCode::kUnavailable, 503, "service_unavailable", 503, "ServiceUnavailableException", 503,
     "unhealthy"},
    {ErrorCode::kDeadlineExceeded, 504, "timeout", 504, "TimeoutException", 424, "generation"},
    {ErrorCode::kCancelled, 499, "cancelled", 499, "CancelledException", 499, "cancelled"},
    {ErrorCode::kPermissionDenied, 401, "authentication_error", 401, "UnauthorizedException", 401,
     "unauthorized"},
    {ErrorCode::kTooLarge, 413, "invalid_request_error", 413, "RequestEntityTooLargeException", 413,
     "validation"},
    {ErrorCode::kIo, 500, "server_error", 500, "InternalServerException", 500, "internal"},
    {ErrorCode::kInternal, 500, "server_error", 500, "InternalServerException", 500, "internal"},
};

// Clients wait before they try again where it may help.
void ExpectRetryAfterWhereItHelps(const HttpAnswer& answer) {
  const bool again = answer.status == 429 || answer.status == 503;
  const std::vector<std::pair<std::string, std::string>> expected = {{"Retry-After", "1"}};
  EXPECT_EQ(answer.headers, again ? expected : decltype(expected){}) << answer.status;
}

TEST(ErrorAnswer, EveryCodeIsInTheTable) {
  EXPECT_EQ(std::size(kExpected), static_cast<std::size_t>(ErrorCode::kInternal) + 1);
  for (std::size_t i = 0; i < std::size(kExpected); ++i)
    EXPECT_EQ(static_cast<std::size_t>(kExpected[i].code), i);
}

TEST(ErrorAnswer, OpenAi) {
  for (const Expected& row : kExpected) {
    const HttpAnswer answer = ErrorAnswer(Dialect::kOpenAi, {row.code, "what \"was\" wrong"});
    EXPECT_EQ(answer.status, row.openai) << ErrorCodeName(row.code);
    EXPECT_EQ(answer.content_type, "application/json");
    const json::value expected = {{"error",
                                   {{"message", "what \"was\" wrong"},
                                    {"type", row.openai_type},
                                    {"param", nullptr},
                                    {"code", ErrorCodeName(row.code)}}}};
    EXPECT_EQ(Json(answer.body), expected);
    ExpectRetryAfterWhereItHelps(answer);
  }
}

TEST(ErrorAnswer, SageMaker) {
  for (const Expected& row : kExpected) {
    const HttpAnswer answer = ErrorAnswer(Dialect::kSageMaker, {row.code, "wrong"});
    EXPECT_EQ(answer.status, row.sagemaker) << ErrorCodeName(row.code);
    const json::value expected = {
        {"code", row.sagemaker}, {"type", row.sagemaker_type}, {"message", "wrong"}};
    EXPECT_EQ(Json(answer.body), expected);
    ExpectRetryAfterWhereItHelps(answer);
  }
}

TEST(ErrorAnswer, Tgi) {
  for (const Expected& row : kExpected) {
    const HttpAnswer answer = ErrorAnswer(Dialect::kTgi, {row.code, "wrong"});
    EXPECT_EQ(answer.status, row.tgi) << ErrorCodeName(row.code);
    const json::value expected = {{"error", "wrong"}, {"error_type", row.tgi_type}};
    EXPECT_EQ(Json(answer.body), expected);
    ExpectRetryAfterWhereItHelps(answer);
  }
}

TEST(ErrorAnswer, AStatusThatOnlyHttpKnows) {
  const HttpAnswer answer = ErrorAnswer(Dialect::kSageMaker, {ErrorCode::kInvalidArgument, "no DELETE"}, 405);
  EXPECT_EQ(answer.status, 405);
  EXPECT_EQ(Json(answer.body).at("code"), 405) << "the body repeats the status";
  EXPECT_EQ(ErrorAnswer(Dialect::kTgi, {ErrorCode::kTooLarge, ""}, 431).status, 431);
  EXPECT_EQ(ErrorAnswer(Dialect::kOpenAi, {ErrorCode::kInvalidArgument, ""}, 408).status, 408);
}

// A path or a model's file name may be quoted in a message, and JSON holds UTF-8 alone.
TEST(ErrorAnswer, AMessageOfAnyBytesIsValidJson) {
  for (const Dialect dialect : {Dialect::kOpenAi, Dialect::kSageMaker, Dialect::kTgi}) {
    const HttpAnswer answer = ErrorAnswer(dialect, {ErrorCode::kNotFound, "no route GET /\xFF\xC3/x"});
    const auto parsed = ParseJson(answer.body, "answer");
    ASSERT_TRUE(parsed) << parsed.error().message;
    EXPECT_THAT(answer.body, testing::HasSubstr("\xEF\xBF\xBD"));
  }
}

}  // namespace
}  // namespace bloomery
