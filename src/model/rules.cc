#include "model/rules.h"

#include <fmt/ranges.h>

#include <string>
#include <vector>

namespace bloomery {
namespace {

Result<json::value> Negate(const json::value& value) {
  if (!value.is_bool()) return Fail(ErrorCode::kInvalidArgument, "\"negate\" needs a boolean");
  return json::value(!value.get_bool());
}

Result<json::value> FromConfig(const json::object& rule, const json::object& config,
                               const json::object& fields) {
  const json::value* keys = rule.if_contains("from");
  if (!keys->is_array()) return Fail(ErrorCode::kInvalidArgument, "\"from\" must be a list of keys");
  const json::value* negate = rule.if_contains("negate");
  const bool negated = negate != nullptr && negate->is_bool() && negate->get_bool();
  std::vector<std::string> tried;
  const json::value* found = nullptr;
  for (const json::value& key : keys->get_array()) {
    if (!key.is_string()) return Fail(ErrorCode::kInvalidArgument, "\"from\" must be a list of keys");
    tried.emplace_back(key.get_string());
    found = config.if_contains(tried.back());
    if (found != nullptr && !found->is_null()) return negated ? Negate(*found) : Result<json::value>(*found);
  }
  if (const json::value* fallback = rule.if_contains("default")) {
    ASSIGN_OR_RETURN(const json::value value, EvaluateRule(*fallback, config, fields));
    return negated ? Negate(value) : Result<json::value>(value);
  }
  return Fail(ErrorCode::kInvalidArgument, "config.json has no \"{}\"", fmt::join(tried, "\" or \""));
}

Result<json::value> FromField(const json::object& rule, const json::object& fields) {
  ASSIGN_OR_RETURN(const auto name, GetString(rule, "field"));
  ASSIGN_OR_RETURN(const auto times, GetInt(rule, "times"));
  ASSIGN_OR_RETURN(const auto value, GetInt(fields, name.value_or("")));
  if (!value)
    return Fail(ErrorCode::kInvalidArgument, "\"field\": no field \"{}\" above this one", name.value_or(""));
  std::int64_t product = 0;
  if (__builtin_mul_overflow(*value, times.value_or(1), &product)) {
    return Fail(ErrorCode::kInvalidArgument, "\"{}\" is too large", name.value_or(""));
  }
  return json::value(product);
}

Result<json::value> AllOf(const json::value& rules, const json::object& config, const json::object& fields) {
  if (!rules.is_array()) return Fail(ErrorCode::kInvalidArgument, "\"all_of\" must be a list of rules");
  bool all = true;
  for (const json::value& rule : rules.get_array()) {
    ASSIGN_OR_RETURN(const json::value value, EvaluateRule(rule, config, fields));
    if (!value.is_bool()) return Fail(ErrorCode::kInvalidArgument, "\"all_of\" needs booleans");
    all = all && value.get_bool();
  }
  return json::value(all);
}

// Rules that give null do not count.
Result<json::value> LeastOf(const json::value& rules, const json::object& config,
                            const json::object& fields) {
  if (!rules.is_array()) return Fail(ErrorCode::kInvalidArgument, "\"least_of\" must be a list of rules");
  json::value least;
  for (const json::value& rule : rules.get_array()) {
    ASSIGN_OR_RETURN(const json::value value, EvaluateRule(rule, config, fields));
    if (value.is_null()) continue;
    if (!value.is_int64()) return Fail(ErrorCode::kInvalidArgument, "\"least_of\" needs integers");
    if (least.is_null() || value.get_int64() < least.get_int64()) least = value;
  }
  return least;
}

}  // namespace

Result<json::value> EvaluateRule(const json::value& rule, const json::object& config,
                                 const json::object& fields) {
  if (!rule.is_object()) return rule;
  const json::object& object = rule.get_object();
  if (object.contains("from")) return FromConfig(object, config, fields);
  if (object.contains("field")) return FromField(object, fields);
  if (const json::value* rules = object.if_contains("all_of")) return AllOf(*rules, config, fields);
  if (const json::value* rules = object.if_contains("least_of")) return LeastOf(*rules, config, fields);
  return Fail(ErrorCode::kInvalidArgument, "a rule needs \"from\", \"field\", \"all_of\" or \"least_of\"");
}

Result<json::object> EvaluateRules(const json::object& rules, const json::object& config) {
  json::object fields;
  for (const auto& [name, rule] : rules) {
    auto value = EvaluateRule(rule, config, fields);
    if (!value) return WithContext(std::move(value).error(), std::string_view(name));
    fields[name] = *std::move(value);
  }
  return fields;
}

}  // namespace bloomery
