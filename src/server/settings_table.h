// Every key of configuration that DJL Serving, its large-model containers, SageMaker's and Hugging Face's
// containers read, in one table: what each is called, where it may stand, and what becomes of it here. The
// reference (docs/reference/configuration.md) is printed from it, and so is what `bloomery config` says.
// Left out: reading values (settings.h) and what follows from them (deployment.h).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace bloomery {

enum class SettingScope : std::uint8_t {
  kServer,       // config.properties; SERVING_<NAME>
  kModel,        // serving.properties; OPTION_<NAME>
  kOption,       // serving.properties, as "option.<name>"; OPTION_<NAME>
  kEnvironment,  // only a variable of that very name
};

enum class SettingUse : std::uint8_t {
  kHonoured,  // means here what it means there
  kMapped,    // becomes a setting of ours; `effect` says which and how
  kIgnored,   // has no effect, and `effect` says why; a warning where it is set
  kRefused,   // cannot be honoured, and serving without it would be wrong: an error where it is set
};

enum class SettingType : std::uint8_t {
  kText,
  kInteger,  // from `minimum` to `maximum`
  kDegree,   // kInteger, or "max"
  kBoolean,  // true or false, in any case
  kChoice,   // one of `choices`, in any case
  kAddress,  // http://host:port
  kSecret,   // a text that is never shown
};

struct Setting {
  std::string_view name;  // as the file spells it: "job_queue_size", "option.dtype"
  SettingScope scope;
  SettingUse use;
  SettingType type = SettingType::kText;
  std::int64_t minimum = 0;
  std::int64_t maximum = INT32_MAX;
  std::string_view choices = {};        // separated by blanks
  std::string_view default_value = {};  // what holds here where nobody sets it; empty: nothing does
  std::string_view flag = {};           // of `bloomery serve`, which says the same and wins
  // Variables besides OPTION_<NAME> and SERVING_<NAME>, separated by blanks, the strongest first.
  std::string_view overriding = {};  // they win over the files
  std::string_view aliases = {};     // they count only where nothing else sets the key
  bool server_wide = false;  // a model's key that config.properties and SERVING_<NAME> may set for all models
  bool for_handlers = false;  // a Python handler gets it, whatever its use with the native engine is
  std::string_view help = {};
  std::string_view effect = {};
};

std::span<const Setting> Settings();

// nullptr where there is none of that name.
const Setting* FindSetting(std::string_view name);

std::string_view ScopeName(SettingScope scope);  // "server", "model", "option", "environment"
std::string_view UseName(SettingUse use);        // "honoured", "mapped", "ignored", "refused"

// "OPTION_TENSOR_PARALLEL_DEGREE" or "SERVING_MODEL_STORE"; empty in the scope kEnvironment.
std::string VariableName(const Setting& setting);

// What is wrong with a value of this setting ("must be true or false"); empty: nothing. Quotes no value.
std::string CheckValue(const Setting& setting, std::string_view value);

// The table in Markdown, as the reference holds it.
std::string SettingsReference();

}  // namespace bloomery
