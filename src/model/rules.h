// The small language of an architecture description's "fields": how a value is found in a config.json.
//
//   5, true, "relu"                                  a literal
//   {"from": ["n_layer", "num_hidden_layers"]}       the first of these keys that is there and not null
//     … "default": RULE                              used when none is; without it a missing key is an error
//     … "negate": true                               for booleans
//   {"field": "hidden_size", "times": 4}             a field above this one, multiplied
//   {"all_of": [RULE, RULE]}                         true when all are
//   {"least_of": [RULE, RULE]}                       the smallest integer; null ones do not count
#pragma once

#include "base/json.h"
#include "base/result.h"

namespace bloomery {

// `fields` holds the values of the rules above this one.
Result<json::value> EvaluateRule(const json::value& rule, const json::object& config,
                                 const json::object& fields);

// Evaluates every rule in order and returns field → value.
Result<json::object> EvaluateRules(const json::object& rules, const json::object& config);

}  // namespace bloomery
