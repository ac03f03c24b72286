#include "api/errors.h"

#include <array>

#include "base/utf8.h"

namespace bloomery {
namespace {

struct Row {
  ErrorCode code;
  int openai_status;
  std::string_view openai_type;
  int sagemaker_status;
  std::string_view sagemaker_type;
  int tgi_status;
  std::string_view tgi_type;
};

// Statuses: OpenAI's published error codes; djl-serving's (400, 404, 409, 424, 503, 507) and
// text-generation-inference's (422, 424, 429, 503). 499 is the log's word for a client that left; nobody
// reads that answer.
constexpr std::array<Row, 14> kTable = {{
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
}};

const Row& RowOf(ErrorCode code) {
  for (const Row& row : kTable) {
    if (row.code == code) return row;
  }
  return kTable.back();
}

}  // namespace

HttpAnswer ErrorAnswer(Dialect dialect, const Error& error, std::optional<int> status) {
  const Row& row = RowOf(error.code);
  HttpAnswer answer;
  json::object body;
  // Paths and file names may be quoted in it, of any bytes; JSON holds UTF-8 alone.
  const std::string message = ReplaceInvalidUtf8(error.message);
  switch (dialect) {
    case Dialect::kOpenAi:
      answer.status = status.value_or(row.openai_status);
      body["error"] = {{"message", message},
                       {"type", row.openai_type},
                       {"param", nullptr},
                       {"code", ErrorCodeName(error.code)}};
      break;
    case Dialect::kSageMaker:
      answer.status = status.value_or(row.sagemaker_status);
      body = {{"code", answer.status}, {"type", row.sagemaker_type}, {"message", message}};
      break;
    case Dialect::kTgi:
      answer.status = status.value_or(row.tgi_status);
      body = {{"error", message}, {"error_type", row.tgi_type}};
      break;
  }
  answer.body = json::serialize(body);
  if (answer.status == 429 || answer.status == 503) answer.headers.emplace_back("Retry-After", "1");
  return answer;
}

}  // namespace bloomery
