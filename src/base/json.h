// Boost.JSON behind Result: bounded parsing, and typed look-ups that name the key they failed on.
#pragma once

#include <boost/json.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace bloomery {

namespace json = boost::json;

// Parses one JSON document. `what` names it in errors ("config.json", "request body"). Nesting deeper than 64
// levels, trailing text, and invalid UTF-8 are kInvalidArgument with the byte offset.
// `arena`: where the document's memory comes from, for large files (the default is the heap); it must outlive
// the value.
Result<json::value> ParseJson(std::string_view text, std::string_view what,
                              json::memory_resource* arena = nullptr);

// Look-ups in an object. A key that is absent or null gives nullopt; one of another type, or an integer that
// does not fit, is kInvalidArgument naming the key.
Result<std::optional<std::int64_t>> GetInt(const json::object& object, std::string_view key);
Result<std::optional<double>> GetDouble(const json::object& object, std::string_view key);
Result<std::optional<bool>> GetBool(const json::object& object, std::string_view key);
Result<std::optional<std::string>> GetString(const json::object& object, std::string_view key);

}  // namespace bloomery
