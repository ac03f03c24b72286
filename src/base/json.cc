#include "base/json.h"

#include <cmath>

namespace bloomery {
namespace {

constexpr std::size_t kMaxDepth = 64;

const json::value* Find(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  return value == nullptr || value->is_null() ? nullptr : value;
}

std::unexpected<Error> WrongType(std::string_view key, std::string_view expected, const json::value& value) {
  return Fail(ErrorCode::kInvalidArgument, "\"{}\" must be {}, got {}", key, expected,
              std::string_view(json::to_string(value.kind())));
}

}  // namespace

Result<json::value> ParseJson(std::string_view text, std::string_view what, json::memory_resource* arena) {
  json::parse_options options;
  options.max_depth = kMaxDepth;
  try {
    json::stream_parser parser({}, options);
    if (arena != nullptr) parser.reset(json::storage_ptr(arena));
    boost::system::error_code error;
    const std::size_t used = parser.write(text.data(), text.size(), error);
    if (!error) parser.finish(error);
    if (error)
      return Fail(ErrorCode::kInvalidArgument, "{}: not valid JSON near byte {}: {}", what, used,
                  error.message());
    return parser.release();
  } catch (const std::exception& failure) {  // bad_alloc and length errors of hostile input
    return Fail(ErrorCode::kInvalidArgument, "{}: cannot be parsed: {}", what, failure.what());
  }
}

Result<std::optional<std::int64_t>> GetInt(const json::object& object, std::string_view key) {
  const json::value* value = Find(object, key);
  if (value == nullptr) return std::nullopt;
  if (const auto* integer = value->if_int64()) return *integer;
  if (const auto* number = value->if_double()) {
    // Clients in dynamic languages send 5.0 for 5; the range check keeps the cast defined.
    if (std::trunc(*number) == *number && std::abs(*number) < 9.0e15)
      return static_cast<std::int64_t>(*number);
  }
  return WrongType(key, "an integer", *value);
}

Result<std::optional<double>> GetDouble(const json::object& object, std::string_view key) {
  const json::value* value = Find(object, key);
  if (value == nullptr) return std::nullopt;
  if (const auto* number = value->if_double()) return *number;
  if (const auto* integer = value->if_int64()) return static_cast<double>(*integer);
  if (const auto* integer = value->if_uint64()) return static_cast<double>(*integer);
  return WrongType(key, "a number", *value);
}

Result<std::optional<bool>> GetBool(const json::object& object, std::string_view key) {
  const json::value* value = Find(object, key);
  if (value == nullptr) return std::nullopt;
  if (const auto* flag = value->if_bool()) return *flag;
  return WrongType(key, "true or false", *value);
}

Result<std::optional<std::string>> GetString(const json::object& object, std::string_view key) {
  const json::value* value = Find(object, key);
  if (value == nullptr) return std::nullopt;
  if (const auto* text = value->if_string()) return std::string(*text);
  return WrongType(key, "a string", *value);
}

}  // namespace bloomery
