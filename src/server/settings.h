// Which value each setting has, and who gave it: the files of a deployment, the environment and the command
// line, by precedence. Nothing is lost in silence: what another source overrules, what is not known and what
// stands in the wrong file is told. Left out: what the values mean together (deployment.h).
//
//   strongest   a flag of `bloomery serve`
//               a variable that overrides the files (SAGEMAKER_STARTUP_TIMEOUT …)
//               serving.properties
//               OPTION_<NAME>, or the variable that is the setting
//               SERVING_<NAME>
//               config.properties
//               an alias (HF_MODEL_ID, SM_NUM_GPUS …)
//   weakest     the default
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "server/properties.h"
#include "server/settings_table.h"

namespace bloomery {

using Environment = std::map<std::string, std::string, std::less<>>;
// Flags that were given, with their values: {"--tp", "2"}.
using CommandLine = std::map<std::string, std::string, std::less<>>;

// A value that somebody gave a setting.
struct Assignment {
  const Setting* setting = nullptr;
  std::string value;   // without blanks around it
  std::string origin;  // "serving.properties:3", "OPTION_DTYPE", "--tp"
  int strength = 0;    // by the list above
};

// Something to say about a key: why it has no effect, or what is wrong with it.
struct Remark {
  std::string name;
  std::string origin;
  std::string text;
};

struct CollectedSettings {
  std::map<std::string_view, Assignment> values;  // by the setting's name: the strongest of each
  std::vector<Assignment> assignments;            // all, the strongest among them
  std::vector<Remark> without_effect;             // overruled, not known, empty, in the wrong file
  // Keys after "option." that are not in the table: a Python handler may know them.
  std::map<std::string, std::string> unknown_options;
  std::vector<Remark> unknown_option_remarks;  // these of them, where no handler gets them
};

CollectedSettings CollectSettings(const std::vector<Property>& serving_properties,
                                  const std::vector<Property>& config_properties,
                                  const Environment& environment, const CommandLine& command_line);

}  // namespace bloomery
