// Which instruction set the kernels run on: what the processor and the operating system offer, what
// BLOOMERY_ISA or the caller asks for, and the names people see.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace bloomery {

// In rising order: each one needs everything the one before it needs.
enum class Isa : std::uint8_t {
  kRef,     // scalar code of the x86-64 baseline: the truth the others are tested against
  kAvx2,    // AVX2, FMA, F16C
  kAvx512,  // AVX-512 F, BW, DQ, VL
  kVnni,    // AVX-512 and AVX512-VNNI
  kAmx,     // AVX-512, AVX512-VNNI, AVX512-BF16 and AMX tiles of int8 and bf16
};
inline constexpr std::array kIsas = {Isa::kRef, Isa::kAvx2, Isa::kAvx512, Isa::kVnni, Isa::kAmx};

// "ref", "avx2", "avx512", "vnni", "amx": the spelling of BLOOMERY_ISA.
std::string_view IsaName(Isa isa);
std::optional<Isa> IsaFromName(std::string_view name);

// The best one whose instructions the processor has and whose registers the operating system saves. Asks
// Linux for the use of tiles, which a process must do once before its first.
Isa DetectIsa();

// `wanted`, else the environment's BLOOMERY_ISA, else DetectIsa(). kInvalidArgument for an unknown name in
// the environment, kUnsupported for one that this machine lacks.
Result<Isa> ChooseIsa(std::optional<Isa> wanted);

// Processor model and the features that kernels use, for `bloomery info`: "AMD EPYC: avx2 fma f16c avx512f
// …".
std::string CpuFeatures();

}  // namespace bloomery
