#include "server/settings.h"

#include <algorithm>
#include <set>

#include "server/setting_text.h"

namespace bloomery {
namespace {

constexpr std::string_view kServingFile = "serving.properties";
constexpr std::string_view kConfigFile = "config.properties";
constexpr std::string_view kPayloadInMegabytes = "SAGEMAKER_MAX_PAYLOAD_IN_MB";

// Steps of ten leave room for the order among several variables of one setting.
enum Strength : int {
  kAlias = 10,
  kConfigProperties = 20,
  kServingVariable = 30,
  kVariable = 40,
  kServingProperties = 50,
  kOverriding = 60,
  kFlag = 70,
};

bool InServingProperties(const Setting& setting) {
  return setting.scope == SettingScope::kModel || setting.scope == SettingScope::kOption;
}

bool InConfigProperties(const Setting& setting) {
  return setting.scope == SettingScope::kServer || setting.server_wide;
}

// Prefixes of variables that are meant for a model server; one of them that nobody knows is a mistake, or a
// feature that is missing here.
bool IsForServers(std::string_view variable) {
  static constexpr std::string_view kPrefixes[] = {"OPTION_", "SERVING_", "SAGEMAKER_",
                                                   "SM_",     "HF_",      "ARGS_"};
  return std::ranges::any_of(kPrefixes,
                             [&](std::string_view prefix) { return variable.starts_with(prefix); });
}

// MiB to bytes; what is no number stays, for its error.
std::string MegabytesToBytes(std::string_view value) {
  const auto megabytes = ToInteger(value);
  if (!megabytes || *megabytes < 0 || *megabytes > (INT64_C(1) << 40)) return std::string(value);
  return std::to_string(*megabytes << 20U);
}

class Collector {
 public:
  explicit Collector(const Environment& environment) : environment_(environment) {}

  void AddFile(std::string_view file, const std::vector<Property>& properties,
               bool (*belongs)(const Setting&), Strength strength) {
    for (const Property& property : properties) {
      const std::string origin = fmt::format("{}:{}", file, property.line);
      const Setting* setting = FindInFile(property.key);
      if (setting == nullptr) {
        AddUnknown(property, origin, belongs);
      } else if (!belongs(*setting)) {
        result_.without_effect.push_back({property.key, origin,
                                          setting->scope == SettingScope::kEnvironment
                                              ? std::string("this is a variable of the environment")
                                          : setting->scope == SettingScope::kServer
                                              ? fmt::format("a key of the server: it belongs into {}, or {}",
                                                            kConfigFile, VariableName(*setting))
                                              : fmt::format("a key of a model: it belongs into {}, or {}",
                                                            kServingFile, VariableName(*setting))});
      } else {
        Add(*setting, property.key, property.value, origin, strength);
      }
    }
  }

  void AddVariables(const Setting& setting) {
    int order = 0;
    for (const std::string_view variable : Words(setting.overriding))
      AddVariable(setting, variable, kOverriding - order++);
    AddVariable(setting, setting.scope == SettingScope::kEnvironment ? setting.name : VariableName(setting),
                setting.scope == SettingScope::kServer ? kServingVariable : kVariable);
    if (setting.server_wide) AddVariable(setting, "SERVING_" + UpperCase(setting.name), kServingVariable);
    order = 0;
    for (const std::string_view variable : Words(setting.aliases))
      AddVariable(setting, variable, kAlias - order++);
  }

  void AddFlags(const CommandLine& command_line) {
    for (const Setting& setting : Settings()) {
      const auto flag = command_line.find(setting.flag);
      if (!setting.flag.empty() && flag != command_line.end())
        Add(setting, setting.name, flag->second, std::string(setting.flag), kFlag);
    }
  }

  void AddUnknownVariables() {
    std::vector<std::string_view> names(known_variables_.begin(), known_variables_.end());
    for (const auto& [name, value] : environment_) {
      if (!IsForServers(name) || known_variables_.contains(name) || Trimmed(value).empty()) continue;
      Remark remark{name, name, NotKnown(name, names)};
      if (name.starts_with("OPTION_")) {
        result_.unknown_options.emplace(LowerCase(std::string_view(name).substr(7)), Trimmed(value));
        result_.unknown_option_remarks.push_back(std::move(remark));
      } else {
        result_.without_effect.push_back(std::move(remark));
      }
    }
  }

  CollectedSettings Finish() {
    for (const Assignment& assignment : result_.assignments) {
      Assignment& strongest = result_.values[assignment.setting->name];
      // Of two lines of a file Java takes the later.
      if (assignment.strength >= strongest.strength) strongest = assignment;
    }
    for (const Assignment& assignment : result_.assignments) {
      const Assignment& strongest = result_.values.at(assignment.setting->name);
      if (assignment.origin == strongest.origin) continue;
      result_.without_effect.push_back({std::string(assignment.setting->name), assignment.origin,
                                        fmt::format("{} sets it, and wins", strongest.origin)});
    }
    return std::move(result_);
  }

 private:
  // The names in the table; and a model's keys with "option." before them, as some documents write them.
  static const Setting* FindInFile(std::string_view key) {
    if (const Setting* setting = FindSetting(key)) return setting;
    if (!key.starts_with(kOptionPrefix)) return nullptr;
    const Setting* setting = FindSetting(key.substr(kOptionPrefix.size()));
    return setting != nullptr && setting->scope == SettingScope::kModel ? setting : nullptr;
  }

  // Comparing takes time: after so many mistakes the rest, which nobody wrote by hand, get no suggestion.
  std::string NotKnown(std::string_view name, const std::vector<std::string_view>& names) {
    const std::string_view nearest = suggestions_left_-- > 0 ? NearestName(name, names) : std::string_view();
    return nearest.empty() ? "not known" : fmt::format("not known; did you mean {}?", nearest);
  }

  void AddUnknown(const Property& property, const std::string& origin, bool (*belongs)(const Setting&)) {
    std::vector<std::string_view> names;
    for (const Setting& setting : Settings()) {
      if (belongs(setting)) names.push_back(setting.name);
    }
    Remark remark{Displayed(property.key), origin, NotKnown(property.key, names)};
    if (property.key.starts_with(kOptionPrefix) && belongs == InServingProperties) {
      result_.unknown_options.insert_or_assign(property.key.substr(kOptionPrefix.size()),
                                               std::string(Trimmed(property.value)));
      result_.unknown_option_remarks.push_back(std::move(remark));
    } else {
      result_.without_effect.push_back(std::move(remark));
    }
  }

  void AddVariable(const Setting& setting, std::string_view variable, int strength) {
    known_variables_.emplace(variable);
    const auto found = environment_.find(variable);
    if (found == environment_.end()) return;
    const std::string_view value = Trimmed(found->second);
    Add(setting, variable, variable == kPayloadInMegabytes ? MegabytesToBytes(value) : std::string(value),
        std::string(variable), strength);
  }

  void Add(const Setting& setting, std::string_view name, std::string_view value, std::string origin,
           int strength) {
    value = Trimmed(value);
    if (value.empty()) {
      result_.without_effect.push_back({std::string(name), std::move(origin), "empty, and so not set"});
      return;
    }
    result_.assignments.push_back({&setting, std::string(value), std::move(origin), strength});
  }

  const Environment& environment_;
  CollectedSettings result_;
  int suggestions_left_ = 64;
  std::set<std::string, std::less<>> known_variables_;
};

}  // namespace

CollectedSettings CollectSettings(const std::vector<Property>& serving_properties,
                                  const std::vector<Property>& config_properties,
                                  const Environment& environment, const CommandLine& command_line) {
  Collector collector(environment);
  collector.AddFile(kServingFile, serving_properties, InServingProperties, kServingProperties);
  collector.AddFile(kConfigFile, config_properties, InConfigProperties, kConfigProperties);
  for (const Setting& setting : Settings()) collector.AddVariables(setting);
  collector.AddFlags(command_line);
  collector.AddUnknownVariables();
  return collector.Finish();
}

}  // namespace bloomery
