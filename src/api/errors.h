// The one table that turns an error code into each dialect's status and body.
#pragma once

#include <optional>

#include "api/exchange.h"

namespace bloomery {

enum class Dialect : std::uint8_t { kOpenAi, kSageMaker, kTgi };

// `status`: in place of the table's, for what only HTTP knows (405, 408, 431).
HttpAnswer ErrorAnswer(Dialect dialect, const Error& error, std::optional<int> status = std::nullopt);

}  // namespace bloomery
