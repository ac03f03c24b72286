#include "server/settings_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "server/setting_text.h"

namespace bloomery {
namespace {

std::string CheckInteger(const Setting& setting, std::string_view value) {
  const auto number = ToInteger(value);
  if (number && *number >= setting.minimum && *number <= setting.maximum) return {};
  const std::string_view or_max = setting.type == SettingType::kDegree ? ", or max" : "";
  if (setting.maximum == INT32_MAX)
    return fmt::format("must be a whole number from {} on{}", setting.minimum, or_max);
  return fmt::format("must be a whole number from {} to {}{}", setting.minimum, setting.maximum, or_max);
}

std::string CheckChoice(const Setting& setting, std::string_view value) {
  const std::vector<std::string_view> choices = Words(setting.choices);
  const auto same = [value](std::string_view choice) { return EqualIgnoringCase(choice, value); };
  if (std::ranges::any_of(choices, same)) return {};
  return fmt::format("must be {}{}", choices.size() > 1 ? "one of " : "", fmt::join(choices, ", "));
}

// "`A`, `B`" of "A B".
std::string Quoted(std::string_view names) {
  std::string out;
  for (const std::string_view name : Words(names))
    out += fmt::format("{}`{}`", out.empty() ? "" : ", ", name);
  return out;
}

std::string VariablesOf(const Setting& setting) {
  std::string out = Quoted(setting.overriding);
  if (!out.empty()) out += " (wins over the files)";
  for (const std::string& names :
       {Quoted(VariableName(setting)),
        setting.server_wide ? fmt::format("`SERVING_{}`", UpperCase(setting.name)) : "",
        Quoted(setting.aliases)}) {
    if (!names.empty()) out += fmt::format("{}{}", out.empty() ? "" : ", ", names);
  }
  return out;
}

}  // namespace

const Setting* FindSetting(std::string_view name) {
  const auto settings = Settings();
  const auto found = std::ranges::find(settings, name, &Setting::name);
  return found == settings.end() ? nullptr : &*found;
}

std::string_view ScopeName(SettingScope scope) {
  switch (scope) {
    case SettingScope::kServer:
      return "server";
    case SettingScope::kModel:
      return "model";
    case SettingScope::kOption:
      return "option";
    case SettingScope::kEnvironment:
      return "environment";
  }
  return "?";
}

std::string_view UseName(SettingUse use) {
  switch (use) {
    case SettingUse::kHonoured:
      return "honoured";
    case SettingUse::kMapped:
      return "mapped";
    case SettingUse::kIgnored:
      return "ignored";
    case SettingUse::kRefused:
      return "refused";
  }
  return "?";
}

std::string VariableName(const Setting& setting) {
  std::string_view name = setting.name;
  if (setting.scope == SettingScope::kEnvironment) return {};
  if (setting.scope == SettingScope::kOption) name.remove_prefix(kOptionPrefix.size());
  std::string variable = (setting.scope == SettingScope::kServer ? "SERVING_" : "OPTION_") + UpperCase(name);
  std::ranges::replace(variable, '.', '_');
  return variable;
}

std::string CheckValue(const Setting& setting, std::string_view value) {
  switch (setting.type) {
    case SettingType::kDegree:
      return value == "max" ? std::string() : CheckInteger(setting, value);
    case SettingType::kInteger:
      return CheckInteger(setting, value);
    case SettingType::kBoolean:
      return ToBool(value) ? std::string() : "must be true or false";
    case SettingType::kChoice:
      return CheckChoice(setting, value);
    case SettingType::kAddress:
      return ParseAddress(value) ? std::string() : "must be http://HOST:PORT";
    case SettingType::kText:
    case SettingType::kSecret:
      return {};
  }
  return {};
}

std::string SettingsReference() {
  std::string out =
      "| key | scope | variables | default | here | what it is, and what becomes of it |\n"
      "|---|---|---|---|---|---|\n";
  for (const Setting& setting : Settings()) {
    std::string what(setting.help);
    if (!setting.choices.empty()) what += fmt::format(" ({})", fmt::join(Words(setting.choices), ", "));
    what += ". ";
    if (!setting.flag.empty() && setting.effect.find(setting.flag) == std::string_view::npos)
      what += fmt::format("`{}`. ", setting.flag);
    if (!setting.effect.empty()) what += fmt::format("{}. ", setting.effect);
    what.pop_back();
    out += fmt::format("| `{}` | {} | {} | {} | {} | {} |\n", setting.name, ScopeName(setting.scope),
                       VariablesOf(setting), setting.default_value, UseName(setting.use), what);
  }
  return out;
}

}  // namespace bloomery
