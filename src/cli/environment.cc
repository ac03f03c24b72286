#include "cli/environment.h"

#include <unistd.h>

#include <sstream>

#include "base/mapped_file.h"
#include "server/setting_text.h"

namespace bloomery {
namespace {

constexpr std::uint64_t kMaxFileBytes = 1U << 20U;

}  // namespace

Environment ProcessEnvironment() {
  Environment environment;
  for (char** entry = ::environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const std::size_t equals = text.find('=');
    if (equals != std::string_view::npos)
      environment.emplace(text.substr(0, equals), text.substr(equals + 1));
  }
  return environment;
}

Result<Environment> ReadEnvironmentFile(const std::filesystem::path& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadFileToString(path, kMaxFileBytes));
  Environment environment;
  std::istringstream lines(text);
  int number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    if (line.ends_with('\r')) line.pop_back();
    if (Trimmed(line).empty() || line.starts_with('#')) continue;
    const std::size_t equals = line.find('=');
    if (equals == std::string::npos || equals == 0)
      return Fail(ErrorCode::kInvalidArgument, "{}:{}: not KEY=VALUE", path.string(), number);
    environment.insert_or_assign(line.substr(0, equals), line.substr(equals + 1));
  }
  return environment;
}

}  // namespace bloomery
