#include "engine/stop_matcher.h"

#include <algorithm>
#include <utility>

namespace bloomery {

StopMatcher::StopMatcher(const std::vector<std::string>& stops) {
  std::copy_if(stops.begin(), stops.end(), std::back_inserter(stops_),
               [](const std::string& stop) { return !stop.empty(); });
}

StopMatcher::Output StopMatcher::Push(std::string_view text) {
  held_ += text;
  std::size_t first = std::string::npos;
  for (const std::string& stop : stops_) first = std::min(first, held_.find(stop));
  if (first != std::string::npos) {
    held_.resize(first);
    return {std::exchange(held_, {}), true};
  }
  std::size_t hold = 0;
  for (const std::string& stop : stops_) {
    for (std::size_t length = std::min(stop.size() - 1, held_.size()); length > hold; --length) {
      if (held_.ends_with(std::string_view(stop).substr(0, length))) hold = length;
    }
  }
  Output out{held_.substr(0, held_.size() - hold), false};
  held_.erase(0, held_.size() - hold);
  return out;
}

std::string StopMatcher::Flush() { return std::exchange(held_, {}); }

}  // namespace bloomery
