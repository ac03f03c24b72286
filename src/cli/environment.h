// The environment as a value: the process's own, or a file's in its place.
#pragma once

#include <filesystem>

#include "base/result.h"
#include "server/settings.h"

namespace bloomery {

Environment ProcessEnvironment();

// A file of KEY=VALUE lines, as `docker run --env-file` takes it: the value as it stands, without quotes or
// expansion; empty lines and those that begin with '#' are left out.
Result<Environment> ReadEnvironmentFile(const std::filesystem::path& path);

}  // namespace bloomery
