#include "native/errors.h"

#include <string>

namespace bloomery::python {

namespace py = pybind11;

void RegisterErrors() {
  py::register_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const NativeError& native) {
      const Error& error = native.error();
      // Looked up for each error: the classes are Python's, which may not be there any more at exit.
      const py::object made = py::module_::import("bloomery.errors")
                                  .attr("from_code")(std::string(ErrorCodeName(error.code)), error.message);
      PyErr_SetObject(py::type::of(made).ptr(), made.ptr());
    }
  });
}

}  // namespace bloomery::python
