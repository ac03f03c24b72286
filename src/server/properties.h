// The reader of Java's .properties format, in which DJL Serving keeps its configuration: comments, the three
// kinds of separators, continuation lines and escapes, as java.util.Properties documents them. One
// difference: the bytes are UTF-8 and not Latin-1. Left out: what the keys mean (settings.h).
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace bloomery {

inline constexpr std::size_t kMaxPropertiesBytes = 256U << 10U;  // of a file; people's have a few hundred
inline constexpr std::size_t kMaxProperties = 2048;

struct Property {
  std::string key;
  std::string value;  // blanks at its end are kept, as Java does
  int line = 0;       // on which it begins, from 1
};

// All of them in order, a key as often as it is there; Java takes the last. `what` names the text in errors,
// which are kTooLarge past the limits and kInvalidArgument for a malformed \uXXXX, half a surrogate pair, a
// NUL or bytes that are not UTF-8. Errors quote no value: it may be a secret.
Result<std::vector<Property>> ParseProperties(std::string_view text, std::string_view what);

}  // namespace bloomery
