#include "api/query.h"

#include <algorithm>
#include <cctype>

namespace bloomery {
namespace {

std::string Decode(std::string_view text, bool plus_is_blank) {
  const auto hex = [&](std::size_t at) {
    return at < text.size() && std::isxdigit(static_cast<unsigned char>(text[at])) != 0;
  };
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && hex(i + 1) && hex(i + 2)) {
      out += static_cast<char>(std::stoi(std::string(text.substr(i + 1, 2)), nullptr, 16));
      i += 2;
    } else {
      out += plus_is_blank && text[i] == '+' ? ' ' : text[i];
    }
  }
  return out;
}

}  // namespace

std::vector<std::pair<std::string, std::string>> ParseQuery(std::string_view query) {
  std::vector<std::pair<std::string, std::string>> pairs;
  while (!query.empty()) {
    const std::string_view pair = query.substr(0, query.find('&'));
    query.remove_prefix(std::min(pair.size() + 1, query.size()));
    const std::size_t equals = std::min(pair.find('='), pair.size());
    if (equals > 0)
      pairs.emplace_back(Decode(pair.substr(0, equals), true),
                         Decode(pair.substr(std::min(equals + 1, pair.size())), true));
  }
  return pairs;
}

std::string DecodePercents(std::string_view text) { return Decode(text, false); }

}  // namespace bloomery
