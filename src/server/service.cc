#include "server/service.h"

#include <boost/beast/core/string.hpp>

#include <chrono>

namespace bloomery {

std::string_view ServiceRequest::Header(std::string_view name) const {
  for (const auto& [known, value] : headers) {
    if (boost::beast::iequals({known.data(), known.size()}, {name.data(), name.size()})) return value;
  }
  return {};
}

Error NotReady(const ServiceHealth& health) {
  return {ErrorCode::kUnavailable,
          fmt::format("the model is not ready ({:.0f}%): {}", 100 * health.progress, health.detail)};
}

std::int64_t UnixTime() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace bloomery
