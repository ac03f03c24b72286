// Results and Python's exceptions: what fails in the engine is raised as a class of bloomery/errors.py.
#pragma once

#include <pybind11/pybind11.h>

#include <exception>
#include <utility>

#include "base/result.h"

namespace bloomery::python {

// An Error on its way through C++ code that pybind11 calls; nothing but the translator catches it.
class NativeError final : public std::exception {
 public:
  explicit NativeError(Error error) : error_(std::move(error)) {}
  const Error& error() const { return error_; }
  const char* what() const noexcept override { return error_.message.c_str(); }

 private:
  Error error_;
};

template <typename T>
T ValueOrThrow(Result<T> result) {
  if (!result) throw NativeError(std::move(result).error());
  if constexpr (!std::is_void_v<T>) return *std::move(result);
}

void RegisterErrors();

}  // namespace bloomery::python
