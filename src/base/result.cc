#include "base/result.h"

#include <array>

namespace bloomery {
namespace {

// In the order of ErrorCode.
constexpr std::array<std::string_view, 14> kNames = {
    "invalid_argument",  "not_found",  "corrupt",     "unsupported",       "already_exists",
    "out_of_memory",     "overloaded", "unavailable", "deadline_exceeded", "cancelled",
    "permission_denied", "too_large",  "io",          "internal"};
static_assert(kNames.size() == static_cast<std::size_t>(ErrorCode::kInternal) + 1);

}  // namespace

std::string_view ErrorCodeName(ErrorCode code) {
  const auto index = static_cast<std::size_t>(code);
  return index < kNames.size() ? kNames[index] : "internal";
}

ErrorCode ErrorCodeFromName(std::string_view name) {
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    if (kNames[i] == name) return static_cast<ErrorCode>(i);
  }
  return ErrorCode::kInternal;
}

std::string Error::ToString() const { return fmt::format("{}: {}", ErrorCodeName(code), message); }

std::unexpected<Error> WithContext(Error error, std::string_view context) {
  error.message = fmt::format("{}: {}", context, error.message);
  return std::unexpected(std::move(error));
}

}  // namespace bloomery
