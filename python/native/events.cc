// The engine's events as Python sees them: the structs of engine/request.h, read only, with text that is
// always text (a token may be part of a character: U+FFFD then).
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>

#include "base/utf8.h"
#include "engine/request.h"
#include "native/bindings.h"

namespace bloomery::python {
namespace {

namespace py = pybind11;

std::string FinishName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kLength:
      return "length";
    case FinishReason::kEosToken:
      return "eos_token";
    case FinishReason::kStopSequence:
      break;
  }
  return "stop_sequence";
}

template <auto Member, typename T>
auto Text() {
  return [](const T& event) { return ReplaceInvalidUtf8(event.*Member); };
}

}  // namespace

void BindEvents(py::module_& module) {
  py::class_<TokenLogprob>(module, "TokenLogprob")
      .def_readonly("id", &TokenLogprob::id)
      .def_property_readonly("text", Text<&TokenLogprob::text, TokenLogprob>())
      .def_readonly("logprob", &TokenLogprob::logprob)
      .def_readonly("special", &TokenLogprob::special);
  py::class_<PromptEvent>(module, "PromptEvent")
      .def_readonly("token_ids", &PromptEvent::token_ids)
      .def_readonly("seed", &PromptEvent::seed);
  py::class_<TokenEvent>(module, "TokenEvent")
      .def_readonly("sequence", &TokenEvent::sequence)
      .def_readonly("token", &TokenEvent::token)
      .def_readonly("top_logprobs", &TokenEvent::top_logprobs)
      .def_property_readonly("text", Text<&TokenEvent::text, TokenEvent>());
  py::class_<SequenceEvent>(module, "SequenceEvent")
      .def_readonly("sequence", &SequenceEvent::sequence)
      .def_property_readonly("finish_reason", [](const SequenceEvent& e) { return FinishName(e.reason); })
      .def_property_readonly("text", Text<&SequenceEvent::text, SequenceEvent>())
      .def_property_readonly("text_tail", Text<&SequenceEvent::text_tail, SequenceEvent>())
      .def_readonly("token_ids", &SequenceEvent::token_ids)
      .def_readonly("logprobs", &SequenceEvent::logprobs)
      .def_readonly("top_logprobs", &SequenceEvent::top_logprobs)
      .def_readonly("score", &SequenceEvent::score);
  py::class_<DoneEvent>(module, "DoneEvent")
      .def_readonly("prompt_tokens", &DoneEvent::prompt_tokens)
      .def_readonly("generated_tokens", &DoneEvent::generated_tokens)
      .def_readonly("cached_tokens", &DoneEvent::cached_tokens)
      .def_readonly("first_token_ms", &DoneEvent::first_token_ms)
      .def_readonly("total_ms", &DoneEvent::total_ms);
}

}  // namespace bloomery::python
