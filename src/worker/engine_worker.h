// The engine process's side: serves one engine to the gateway at the other end of a socket, until the gateway
// is gone.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "engine/engine.h"
#include "model/weights.h"

namespace bloomery {

// Loads the model, reporting progress. Called once.
using LoadEngine = std::function<Result<std::unique_ptr<Engine>>(const LoadProgress& progress)>;

// The socket to a gateway that started ranks (EngineClient::Options::starts_ranks). kUnavailable.
Result<UniqueFd> ConnectToGateway(const std::string& path);

// Returns when the gateway closed its end. An engine that cannot be loaded is reported to the gateway and
// returned as an error. `fd` is a connected stream socket; it is not closed.
Status RunEngineWorker(int fd, const LoadEngine& load);

}  // namespace bloomery
