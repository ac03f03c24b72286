// Generation parameters from a JSON object, in Hugging Face's and TGI's spelling and in OpenAI's: every
// number checked, every unknown name an error.
#pragma once

#include "base/json.h"
#include "base/result.h"
#include "engine/request.h"

namespace bloomery {

// Limits on what one body may ask for. Far above ordinary use; below what could hurt others.
inline constexpr int kMaxPrompts = 256;
inline constexpr int kMaxSequences = 128;
inline constexpr int kMaxStops = 64;
inline constexpr int kMaxTopLogprobs = 20;
inline constexpr int kMaxTokens = 1 << 24U;

// What parameters say besides how to sample.
struct OutputOptions {
  bool details = false;
  bool return_full_text = false;
  bool prompt_details = false;  // decoder_input_details
  int truncate = 0;
  // TGI samples wherever temperature, top_k, top_p or typical_p is given; transformers only with do_sample.
  bool warpers_imply_sampling = false;
};

// "parameters" (or gen_kwargs) of Hugging Face's pipelines, DJL's rolling batch and TGI. Keyword arguments of
// generate() that do not change the tokens are accepted and ignored (kIgnored in the source).
struct HfParameters {
  SamplingParams sampling;
  OutputOptions output;
};
Result<HfParameters> ParseHfParameters(const json::object& object, const OutputOptions& defaults);

// The sampling fields that /v1/completions and /v1/chat/completions share. Returns false for a name it does
// not know.
Result<bool> ParseOpenAiField(std::string_view name, const json::value& value, SamplingParams& params);

// Typed, range-checked values; errors name the parameter.
Result<int> IntInRange(std::string_view name, const json::value& value, std::int64_t minimum,
                       std::int64_t maximum);
Result<float> FloatInRange(std::string_view name, const json::value& value, double minimum, double maximum);
Result<bool> BoolValue(std::string_view name, const json::value& value);
Result<std::vector<std::string>> StopStrings(std::string_view name, const json::value& value);

}  // namespace bloomery
