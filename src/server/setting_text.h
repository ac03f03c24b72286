// Small text functions that the configuration's readers share: case, words, numbers, addresses, and how to
// show a value that somebody else wrote.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace bloomery {

inline constexpr std::string_view kOptionPrefix = "option.";

// ASCII only: keys and variables are.
std::string LowerCase(std::string_view text);
std::string UpperCase(std::string_view text);
bool EqualIgnoringCase(std::string_view a, std::string_view b);
std::string_view Trimmed(std::string_view text);

// The parts between blanks; views into `text`.
std::vector<std::string_view> Words(std::string_view text);

std::optional<bool> ToBool(std::string_view text);  // true and false, in any case: Python writes "True"
std::optional<std::int64_t> ToInteger(std::string_view text);

// "http://host:port" and nothing else; without a port, 80. "https" and "unix" are not addresses here.
struct ListenAddress {
  std::string host;
  std::uint16_t port = 0;
};
std::optional<ListenAddress> ParseAddress(std::string_view text);

// For terminals and logs: control characters as \xXX, and 200 bytes at most.
std::string Displayed(std::string_view text);

// Of the names, the one that `name` was most likely meant to be: at most a third of its letters differ, case
// aside. Empty: none is near.
std::string_view NearestName(std::string_view name, const std::vector<std::string_view>& names);

}  // namespace bloomery
