// Keyword arguments of Model.generate as the engine's sampling parameters.
#pragma once

#include <pybind11/pybind11.h>

#include "engine/request.h"

namespace bloomery::python {

// Names are SamplingParams' own; None is a default. Raises kInvalidArgument for names it does not know, and
// for values of another type, naming them.
SamplingParams ToSampling(const pybind11::dict& options);

}  // namespace bloomery::python
