#include "api/parameters.h"

#include <algorithm>
#include <array>
#include <limits>

namespace bloomery {
namespace {

// Arguments of transformers' generate() and pipeline() that callers send and that do not change which tokens
// come out here.
constexpr std::array<std::string_view, 10> kIgnored = {"use_cache",
                                                       "pad_token_id",
                                                       "bos_token_id",
                                                       "return_dict_in_generate",
                                                       "output_scores",
                                                       "output_attentions",
                                                       "output_hidden_states",
                                                       "synced_gpus",
                                                       "clean_up_tokenization_spaces",
                                                       "batch_size"};

constexpr double kHuge = 1e6;  // above any sensible penalty or temperature, and finite

// `target` gets the value, checked.
Status SetInt(std::string_view name, const json::value& value, std::int64_t minimum, std::int64_t maximum,
              int& target) {
  ASSIGN_OR_RETURN(target, IntInRange(name, value, minimum, maximum));
  return {};
}

Status SetInt(std::string_view name, const json::value& value, std::int64_t minimum, std::int64_t maximum,
              std::optional<int>& target) {
  ASSIGN_OR_RETURN(target, IntInRange(name, value, minimum, maximum));
  return {};
}

Status SetFloat(std::string_view name, const json::value& value, double minimum, double maximum,
                float& target) {
  ASSIGN_OR_RETURN(target, FloatInRange(name, value, minimum, maximum));
  return {};
}

Status SetBool(std::string_view name, const json::value& value, bool& target) {
  ASSIGN_OR_RETURN(target, BoolValue(name, value));
  return {};
}

Status SetSeed(const json::value& value, std::optional<std::uint64_t>& seed) {
  if (value.is_int64() && value.get_int64() >= 0) {
    seed = static_cast<std::uint64_t>(value.get_int64());
  } else if (value.is_uint64()) {
    seed = value.get_uint64();
  } else {
    return Fail(ErrorCode::kInvalidArgument, "\"seed\" must be a non-negative integer");
  }
  return {};
}

Status SetTokenIds(std::string_view name, const json::value& value, std::vector<std::int32_t>& ids) {
  const auto add = [&](const json::value& item) -> Status {
    ASSIGN_OR_RETURN(const int id, IntInRange(name, item, 0, std::numeric_limits<std::int32_t>::max()));
    ids.push_back(id);
    return {};
  };
  if (!value.is_array()) return add(value);
  if (value.get_array().size() > kMaxStops)
    return Fail(ErrorCode::kInvalidArgument, "\"{}\": at most {} ids", name, kMaxStops);
  for (const json::value& item : value.get_array()) RETURN_IF_ERROR(add(item));
  return {};
}

Status SetEarlyStopping(const json::value& value, EarlyStopping& target) {
  if (value.is_bool()) {
    target = value.get_bool() ? EarlyStopping::kWhenEnoughBeams : EarlyStopping::kHeuristic;
  } else if (value.is_string() && value.get_string() == "never") {
    target = EarlyStopping::kNever;
  } else {
    return Fail(ErrorCode::kInvalidArgument, "\"early_stopping\" must be true, false or \"never\"");
  }
  return {};
}

// Fields whose name and meaning all dialects share. False for a name that is not one of them.
Result<bool> SetShared(std::string_view name, const json::value& value, SamplingParams& p) {
  const auto done = [](Status status) -> Result<bool> {
    if (!status) return std::unexpected(std::move(status).error());
    return true;
  };
  if (name == "top_p") return done(SetFloat(name, value, 0, 1, p.top_p));
  if (name == "top_k") return done(SetInt(name, value, -1, kMaxTokens, p.top_k));
  if (name == "typical_p") return done(SetFloat(name, value, 0, 1, p.typical_p));
  if (name == "repetition_penalty") return done(SetFloat(name, value, 1e-6, kHuge, p.repetition_penalty));
  if (name == "frequency_penalty") return done(SetFloat(name, value, -kHuge, kHuge, p.frequency_penalty));
  if (name == "presence_penalty") return done(SetFloat(name, value, -kHuge, kHuge, p.presence_penalty));
  if (name == "no_repeat_ngram_size") return done(SetInt(name, value, 0, kMaxTokens, p.no_repeat_ngram_size));
  if (name == "seed") return done(SetSeed(value, p.seed));
  if (name == "stop_token_ids") return done(SetTokenIds(name, value, p.stop_token_ids));
  if (name == "ignore_eos") return done(SetBool(name, value, p.ignore_eos));
  if (name == "num_beams") return done(SetInt(name, value, 1, kMaxSequences, p.num_beams));
  if (name == "length_penalty") return done(SetFloat(name, value, -kHuge, kHuge, p.length_penalty));
  if (name == "early_stopping") return done(SetEarlyStopping(value, p.early_stopping));
  if (name == "priority") return done(SetInt(name, value, -kMaxTokens, kMaxTokens, p.priority));
  if (name == "best_of") return done(SetInt(name, value, 1, kMaxSequences, p.best_of));
  return false;
}

// Fields of Hugging Face, DJL and TGI.
Result<bool> SetHf(std::string_view name, const json::value& value, HfParameters& out) {
  SamplingParams& p = out.sampling;
  const auto done = [](Status status) -> Result<bool> {
    if (!status) return std::unexpected(std::move(status).error());
    return true;
  };
  if (name == "do_sample") return done(SetBool(name, value, p.do_sample));
  if (name == "temperature") return done(SetFloat(name, value, 0, kHuge, p.temperature));
  if (name == "max_new_tokens") return done(SetInt(name, value, 1, kMaxTokens, p.max_new_tokens));
  if (name == "max_length") return done(SetInt(name, value, 1, kMaxTokens, p.max_length));
  if (name == "min_new_tokens") return done(SetInt(name, value, 0, kMaxTokens, p.min_new_tokens));
  if (name == "min_length") return done(SetInt(name, value, 0, kMaxTokens, p.min_length));
  if (name == "num_return_sequences")
    return done(SetInt(name, value, 1, kMaxSequences, p.num_return_sequences));
  if (name == "top_n_tokens") return done(SetInt(name, value, 0, kMaxTopLogprobs, p.logprobs));
  if (name == "truncate") return done(SetInt(name, value, 0, kMaxTokens, out.output.truncate));
  if (name == "details") return done(SetBool(name, value, out.output.details));
  if (name == "return_full_text") return done(SetBool(name, value, out.output.return_full_text));
  if (name == "decoder_input_details") return done(SetBool(name, value, out.output.prompt_details));
  if (name == "eos_token_id") return done(SetTokenIds(name, value, p.eos_token_ids.emplace()));
  if (name == "stop" || name == "stop_sequences" || name == "stop_strings") {
    ASSIGN_OR_RETURN(p.stop, StopStrings(name, value));
    return true;
  }
  if (name == "watermark") {
    ASSIGN_OR_RETURN(const bool watermark, BoolValue(name, value));
    if (watermark) return Fail(ErrorCode::kUnsupported, "\"watermark\" is not supported");
    return true;
  }
  if (name == "grammar") return Fail(ErrorCode::kUnsupported, "\"grammar\" is not supported");
  return SetShared(name, value, p);
}

}  // namespace

Result<int> IntInRange(std::string_view name, const json::value& value, std::int64_t minimum,
                       std::int64_t maximum) {
  std::int64_t number = 0;
  if (value.is_int64()) {
    number = value.get_int64();
  } else if (value.is_double() && value.get_double() == static_cast<double>(static_cast<std::int64_t>(
                                                            std::clamp(value.get_double(), -1e15, 1e15)))) {
    number = static_cast<std::int64_t>(value.get_double());
  } else {
    return Fail(ErrorCode::kInvalidArgument, "\"{}\" must be an integer between {} and {}", name, minimum,
                maximum);
  }
  if (number < minimum || number > maximum) {
    return Fail(ErrorCode::kInvalidArgument, "\"{}\" must be between {} and {}, got {}", name, minimum,
                maximum, number);
  }
  return static_cast<int>(number);
}

Result<float> FloatInRange(std::string_view name, const json::value& value, double minimum, double maximum) {
  if (!value.is_number()) return Fail(ErrorCode::kInvalidArgument, "\"{}\" must be a number", name);
  const auto number = value.to_number<double>();
  if (!(number >= minimum && number <= maximum)) {
    return Fail(ErrorCode::kInvalidArgument, "\"{}\" must be between {} and {}, got {}", name, minimum,
                maximum, number);
  }
  return static_cast<float>(number);
}

Result<bool> BoolValue(std::string_view name, const json::value& value) {
  if (!value.is_bool()) return Fail(ErrorCode::kInvalidArgument, "\"{}\" must be true or false", name);
  return value.get_bool();
}

Result<std::vector<std::string>> StopStrings(std::string_view name, const json::value& value) {
  if (value.is_string()) return std::vector<std::string>{std::string(value.get_string())};
  if (!value.is_array() || value.get_array().size() > kMaxStops) {
    return Fail(ErrorCode::kInvalidArgument, "\"{}\" must be a text or a list of at most {} texts", name,
                kMaxStops);
  }
  std::vector<std::string> stops;
  for (const json::value& stop : value.get_array()) {
    if (!stop.is_string()) return Fail(ErrorCode::kInvalidArgument, "\"{}\" must hold texts", name);
    stops.emplace_back(stop.get_string());
  }
  return stops;
}

Result<HfParameters> ParseHfParameters(const json::object& object, const OutputOptions& defaults) {
  HfParameters parsed;
  parsed.output = defaults;
  for (const auto& [name, value] : object) {
    if (value.is_null() || std::find(kIgnored.begin(), kIgnored.end(), name) != kIgnored.end()) continue;
    ASSIGN_OR_RETURN(const bool known, SetHf(name, value, parsed));
    if (!known) return Fail(ErrorCode::kInvalidArgument, "unknown parameter \"{}\"", std::string_view(name));
  }
  SamplingParams& p = parsed.sampling;
  // transformers ignores the warpers' arguments unless do_sample is set, and beams unless they are
  // deterministic.
  const bool warped = p.temperature != 1 || p.top_k > 0 || p.top_p < 1 || p.typical_p < 1;
  if (parsed.output.warpers_imply_sampling && warped && p.num_beams == 1) p.do_sample = true;
  if (p.temperature == 0) p.do_sample = false;
  if (!p.do_sample) p.temperature = 1;
  if (p.top_k < 0) p.top_k = 0;
  if (p.top_p == 0 || p.typical_p == 0)
    return Fail(ErrorCode::kInvalidArgument, "\"top_p\" and \"typical_p\" must be greater than 0");
  if (parsed.output.prompt_details) p.prompt_logprobs = true;
  if ((parsed.output.details || parsed.output.prompt_details) && p.logprobs < 0) p.logprobs = 0;
  return parsed;
}

Result<bool> ParseOpenAiField(std::string_view name, const json::value& value, SamplingParams& p) {
  if (value.is_null()) return true;
  if (name == "temperature") {
    ASSIGN_OR_RETURN(p.temperature, FloatInRange(name, value, 0, kHuge));
    p.do_sample = p.temperature > 0;
    if (!p.do_sample) p.temperature = 1;
    return true;
  }
  if (name == "max_tokens" || name == "max_completion_tokens") {
    ASSIGN_OR_RETURN(p.max_new_tokens, IntInRange(name, value, 0, kMaxTokens));
    return true;
  }
  if (name == "min_tokens") {
    ASSIGN_OR_RETURN(p.min_new_tokens, IntInRange(name, value, 0, kMaxTokens));
    return true;
  }
  if (name == "n") {
    ASSIGN_OR_RETURN(p.num_return_sequences, IntInRange(name, value, 1, kMaxSequences));
    return true;
  }
  if (name == "stop") {
    ASSIGN_OR_RETURN(p.stop, StopStrings(name, value));
    return true;
  }
  ASSIGN_OR_RETURN(const bool known, SetShared(name, value, p));
  if (known && p.top_k < 0) p.top_k = 0;
  if (known && p.top_p == 0) return Fail(ErrorCode::kInvalidArgument, "\"top_p\" must be greater than 0");
  return known;
}

}  // namespace bloomery
