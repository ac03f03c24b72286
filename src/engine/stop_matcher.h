// Stop strings in a stream of text: finds the first, and holds back what may be the beginning of one.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace bloomery {

class StopMatcher {
 public:
  // Empty strings are ignored.
  explicit StopMatcher(const std::vector<std::string>& stops);

  struct Output {
    std::string text;      // safe to send: comes before any stop string
    bool stopped = false;  // a stop string ended the text; nothing comes after
  };
  Output Push(std::string_view text);

  // The end of the text: what was held back can no longer become a stop string.
  std::string Flush();

 private:
  std::vector<std::string> stops_;
  std::string held_;
};

}  // namespace bloomery
