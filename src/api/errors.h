// The one table that turns an error code into each dialect's status and body.
#pragma once

#include "api/exchange.h"

namespace bloomery {

enum class Dialect : std::uint8_t { kOpenAi, kSageMaker, kTgi };

HttpAnswer ErrorAnswer(Dialect dialect, const Error& error);

}  // namespace bloomery
