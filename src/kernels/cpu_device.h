// The CPU as a Device: makes one from a number of threads and an instruction set. Everything else about it is
// the contract of tensor/device.h.
//
// What the CPU adds to that contract: results are the same bits for any number of threads, any other rows in
// the call and any cut of a sequence into steps, as long as the instruction set is the same. Between
// instruction sets they agree within rounding.
#pragma once

#include <memory>
#include <optional>

#include "base/result.h"
#include "kernels/isa.h"
#include "tensor/device.h"

namespace bloomery {

struct CpuDeviceOptions {
  int threads = 0;              // 0: every usable core
  std::optional<Isa> isa = {};  // absent: BLOOMERY_ISA, else the best this machine has
};

// kInvalidArgument for a negative or absurd number of threads or an unknown BLOOMERY_ISA; kUnsupported for an
// instruction set that this machine lacks.
Result<std::unique_ptr<Device>> MakeCpuDevice(const CpuDeviceOptions& options);

}  // namespace bloomery
