// The error type that crosses module borders, and the two macros that pass it on.
//
// Nothing read from a file, the network or a model may abort or throw across a layer: such failures are an
// Error in a Result<T>. Programmers' bugs are assertions. A message says what was wrong, where, and what to
// do about it; it never holds a secret or another user's text.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <expected>
#include <string>
#include <string_view>
#include <utility>

namespace bloomery {

// One list for the whole program; api/ maps each code to a status and a body of its dialect.
enum class ErrorCode : std::uint8_t {
  kInvalidArgument,   // the caller's value is wrong: a flag, a request field, a configuration key
  kNotFound,          // a file, tensor, model or route that does not exist
  kCorrupt,           // data that contradicts its own format: truncated, overlapping, bad checksum
  kUnsupported,       // well formed, and something this program does not do
  kAlreadyExists,     // what was to be made is there already
  kOutOfMemory,       // would not fit, said before or at allocation
  kOverloaded,        // a queue or limit is full; try later
  kUnavailable,       // not ready yet, shutting down, or a peer process is gone
  kDeadlineExceeded,  // a time limit passed
  kCancelled,         // the caller went away
  kPermissionDenied,  // credentials missing or wrong
  kTooLarge,          // over a size limit
  kIo,                // the operating system failed a read, write, map or spawn
  kInternal,          // a bug in this program, caught
};

// Stable lower-case name of a code ("invalid_argument"); used in logs and on the worker protocol.
std::string_view ErrorCodeName(ErrorCode code);

// Inverse of ErrorCodeName; an unknown name is kInternal.
ErrorCode ErrorCodeFromName(std::string_view name);

struct Error {
  ErrorCode code = ErrorCode::kInternal;
  std::string message;

  // "corrupt: model.safetensors: …", for logs and terminals.
  std::string ToString() const;
};

template <typename T>
using Result = std::expected<T, Error>;

// An operation that yields nothing but may fail.
using Status = Result<void>;

// Fail(ErrorCode::kNotFound, "{}: no such tensor", name) converts to any Result<T>.
template <typename... Args>
[[nodiscard]] std::unexpected<Error> Fail(ErrorCode code, fmt::format_string<Args...> format,
                                          Args&&... args) {
  return std::unexpected(Error{code, fmt::format(format, std::forward<Args>(args)...)});
}

// The same error with a place put before its message: WithContext(error, "layer 3") gives "layer 3: …".
[[nodiscard]] std::unexpected<Error> WithContext(Error error, std::string_view context);

#define BLOOMERY_CONCAT_INNER(a, b) a##b
#define BLOOMERY_CONCAT(a, b) BLOOMERY_CONCAT_INNER(a, b)

// RETURN_IF_ERROR(expr): leaves the function with expr's error, if it has one.
#define RETURN_IF_ERROR(expr)                                     \
  do {                                                            \
    if (auto status_or_error = (expr); !status_or_error) {        \
      return std::unexpected(std::move(status_or_error).error()); \
    }                                                             \
  } while (false)

// ASSIGN_OR_RETURN(auto x, expr): declares or assigns x from expr's value, or leaves with its error.
#define ASSIGN_OR_RETURN(lhs, expr) \
  ASSIGN_OR_RETURN_IMPL(BLOOMERY_CONCAT(result_or_error_, __LINE__), lhs, expr)
#define ASSIGN_OR_RETURN_IMPL(tmp, lhs, expr)               \
  auto tmp = (expr);                                        \
  if (!tmp) return std::unexpected(std::move(tmp).error()); \
  lhs = *std::move(tmp)

}  // namespace bloomery
