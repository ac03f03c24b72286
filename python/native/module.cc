// bloomery._native: the engine for the Python package, which is the only one to use it. Everything that does
// not need the engine is written in Python.
#include <string>

#include "base/log.h"
#include "native/bindings.h"
#include "native/errors.h"

PYBIND11_MODULE(_native, module) {
  module.doc() = "The engine inside the bloomery package; its interface is the package's, not this module's.";
  bloomery::python::RegisterErrors();
  module.def("set_log_level", [](const std::string& level) {
    bloomery::python::ValueOrThrow(bloomery::InitLogging(level, "bloomery"));
  });
  (void)bloomery::InitLogging("warn", "bloomery");  // on standard error: a known level cannot fail
  bloomery::python::BindEvents(module);
  bloomery::python::BindTokenizer(module);
  bloomery::python::BindModel(module);
}
