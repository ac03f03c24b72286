// A URL's query, taken apart (the application/x-www-form-urlencoded rules of the URL standard).
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace bloomery {

// "a=1&b=x+y%2Fz" → {a, "1"}, {b, "x y/z"}, in order. What is no escape stays as it is; parts without a name
// are left out.
std::vector<std::pair<std::string, std::string>> ParseQuery(std::string_view query);

// "%2F" alone, as in a path: '+' stays.
std::string DecodePercents(std::string_view text);

}  // namespace bloomery
