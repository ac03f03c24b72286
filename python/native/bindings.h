// What each file of the extension adds to the module.
#pragma once

#include <pybind11/pybind11.h>

namespace bloomery::python {

void BindEvents(pybind11::module_& module);
void BindModel(pybind11::module_& module);
void BindTokenizer(pybind11::module_& module);

}  // namespace bloomery::python
