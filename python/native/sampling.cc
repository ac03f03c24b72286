#include "native/sampling.h"

#include <pybind11/stl.h>

#include <functional>
#include <map>
#include <string>

#include "native/errors.h"

namespace bloomery::python {
namespace {

namespace py = pybind11;

using Setter = std::function<void(SamplingParams&, const py::handle&)>;

template <typename T>
Setter Set(T SamplingParams::* member) {
  return [member](SamplingParams& params, const py::handle& value) { params.*member = value.cast<T>(); };
}

void SetEarlyStopping(SamplingParams& params, const py::handle& value) {
  if (py::isinstance<py::bool_>(value)) {
    params.early_stopping = value.cast<bool>() ? EarlyStopping::kWhenEnoughBeams : EarlyStopping::kHeuristic;
  } else if (py::isinstance<py::str>(value) && value.cast<std::string>() == "never") {
    params.early_stopping = EarlyStopping::kNever;
  } else {
    throw NativeError({ErrorCode::kInvalidArgument, "early_stopping must be True, False or \"never\""});
  }
}

const std::map<std::string, Setter>& Setters() {
  using P = SamplingParams;
  static const std::map<std::string, Setter> setters = {
      {"do_sample", Set(&P::do_sample)},
      {"temperature", Set(&P::temperature)},
      {"top_k", Set(&P::top_k)},
      {"top_p", Set(&P::top_p)},
      {"typical_p", Set(&P::typical_p)},
      {"repetition_penalty", Set(&P::repetition_penalty)},
      {"frequency_penalty", Set(&P::frequency_penalty)},
      {"presence_penalty", Set(&P::presence_penalty)},
      {"no_repeat_ngram_size", Set(&P::no_repeat_ngram_size)},
      {"seed", Set(&P::seed)},
      {"min_length", Set(&P::min_length)},
      {"min_new_tokens", Set(&P::min_new_tokens)},
      {"max_length", Set(&P::max_length)},
      {"max_new_tokens", Set(&P::max_new_tokens)},
      {"eos_token_ids", Set(&P::eos_token_ids)},
      {"stop", Set(&P::stop)},
      {"stop_token_ids", Set(&P::stop_token_ids)},
      {"ignore_eos", Set(&P::ignore_eos)},
      {"num_beams", Set(&P::num_beams)},
      {"length_penalty", Set(&P::length_penalty)},
      {"early_stopping", SetEarlyStopping},
      {"num_return_sequences", Set(&P::num_return_sequences)},
      {"best_of", Set(&P::best_of)},
      {"logprobs", Set(&P::logprobs)},
  };
  return setters;
}

}  // namespace

SamplingParams ToSampling(const py::dict& options) {
  SamplingParams params;
  for (const auto& [key, value] : options) {
    const auto name = key.cast<std::string>();
    const auto setter = Setters().find(name);
    if (setter == Setters().end())
      throw NativeError({ErrorCode::kInvalidArgument, fmt::format("\"{}\" is no generation option", name)});
    if (value.is_none()) continue;
    try {
      setter->second(params, value);
    } catch (const py::cast_error&) {
      throw NativeError({ErrorCode::kInvalidArgument,
                         fmt::format("{} cannot be {}", name, py::repr(value).cast<std::string>())});
    }
  }
  return params;
}

}  // namespace bloomery::python
