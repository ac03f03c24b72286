#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "native/bindings.h"
#include "tokenizer/tokenizer.h"

namespace bloomery::python {

namespace py = pybind11;

// The holder is a pointer to a constant: no method of a Tokenizer changes it.
void BindTokenizer(py::module_& module) {
  const auto no_gil = py::call_guard<py::gil_scoped_release>();
  py::class_<Tokenizer, std::shared_ptr<Tokenizer>>(module, "Tokenizer")
      .def("encode", &Tokenizer::Encode, py::arg("text"), py::arg("add_special_tokens"), no_gil)
      .def(
          "decode",
          [](const Tokenizer& tokenizer, const std::vector<std::int32_t>& ids, bool skip_special_tokens) {
            return tokenizer.Decode(ids, skip_special_tokens);
          },
          py::arg("ids"), py::arg("skip_special_tokens"), no_gil)
      .def("token_to_id", &Tokenizer::TokenToId, py::arg("content"))
      .def_property_readonly("vocab_size", &Tokenizer::vocab_size)
      .def_property_readonly("bos_id", &Tokenizer::bos_id)
      .def_property_readonly("eos_id", &Tokenizer::eos_id)
      .def_property_readonly("pad_id", &Tokenizer::pad_id);
}

}  // namespace bloomery::python
