// That the samples of testdata/config, which tests/config/run compares word by word, leave no key and no
// variable of the table out: a key without a sample fails here.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <set>
#include <sstream>

#include "base/mapped_file.h"
#include "server/setting_text.h"
#include "server/settings.h"

namespace bloomery {
namespace {

namespace fs = std::filesystem;
using Names = std::set<std::string, std::less<>>;

Environment ReadEnvironment(const fs::path& path) {
  Environment environment;
  std::istringstream lines(ReadFileToString(path).value());
  for (std::string line; std::getline(lines, line);) {
    const std::size_t equals = line.find('=');
    if (equals != std::string::npos && !line.starts_with('#'))
      environment[line.substr(0, equals)] = line.substr(equals + 1);
  }
  return environment;
}

std::vector<Property> ReadProperties(const fs::path& sample, std::string_view name) {
  for (const auto& entry : fs::recursive_directory_iterator(sample)) {
    if (entry.path().filename() == name)
      return ParseProperties(ReadFileToString(entry.path()).value(), name).value();
  }
  return {};
}

TEST(Samples, CoverEveryKeyAndVariableOfTheTable) {
  Names keys;
  Names origins;
  for (const auto& sample : fs::directory_iterator(fs::path(BLOOMERY_SOURCE_DIR) / "testdata/config")) {
    const auto collected = CollectSettings(ReadProperties(sample.path(), "serving.properties"),
                                           ReadProperties(sample.path(), "config.properties"),
                                           ReadEnvironment(sample.path() / "env"), {});
    for (const Assignment& assignment : collected.assignments) {
      keys.emplace(assignment.setting->name);
      origins.insert(assignment.origin);
    }
  }
  for (const Setting& setting : Settings()) {
    EXPECT_TRUE(keys.contains(setting.name)) << "no sample sets " << setting.name;
    for (const std::string_view names : {setting.aliases, setting.overriding}) {
      for (const std::string_view variable : Words(names))
        EXPECT_TRUE(origins.contains(variable)) << "no sample sets " << variable;
    }
  }
}

}  // namespace
}  // namespace bloomery
