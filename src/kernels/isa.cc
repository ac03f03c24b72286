#include "kernels/isa.h"

#include <cpuid.h>
#include <fmt/format.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace bloomery {
namespace {

struct Features {
  bool avx2 = false;
  bool fma = false;
  bool f16c = false;
  bool avx512f = false;
  bool avx512bw = false;
  bool avx512dq = false;
  bool avx512vl = false;
  bool avx512vnni = false;
  bool avx512bf16 = false;
  bool amx_int8 = false;
  bool amx_bf16 = false;
};

constexpr bool Bit(unsigned value, unsigned bit) { return ((value >> bit) & 1U) != 0; }

// XCR0 says which registers the operating system saves on a context switch; only read where OSXSAVE is set.
std::uint64_t SavedRegisters() {
  std::uint32_t low = 0;
  std::uint32_t high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<std::uint64_t>(high) << 32U) | low;
}

// XCR0's bits of the tiles' shapes and of their data.
constexpr std::uint64_t kTileState = 3U << 17U;

// A tile register file is 8 KiB more to save for each thread, so Linux wants to be asked once a process
// (Documentation/arch/x86/xstate.rst).
bool MayUseTiles() {
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;               // XFEATURE_XTILEDATA
  static const bool granted = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return granted;
}

Features ReadFeatures() {
  Features features;
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0) return features;
  if (!Bit(ecx, 27)) return features;  // no OSXSAVE: no vector state beyond SSE
  const std::uint64_t saved = SavedRegisters();
  const bool ymm_saved = (saved & 0x6U) == 0x6U;    // XMM and upper YMM
  const bool zmm_saved = (saved & 0xE6U) == 0xE6U;  // and mask registers and both ZMM parts
  features.fma = ymm_saved && Bit(ecx, 12);
  features.f16c = ymm_saved && Bit(ecx, 29);
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return features;
  features.avx2 = ymm_saved && Bit(ebx, 5);
  features.avx512f = zmm_saved && Bit(ebx, 16);
  features.avx512dq = zmm_saved && Bit(ebx, 17);
  features.avx512bw = zmm_saved && Bit(ebx, 30);
  features.avx512vl = zmm_saved && Bit(ebx, 31);
  features.avx512vnni = zmm_saved && Bit(ecx, 11);
  const bool tiles = Bit(edx, 24) && (saved & kTileState) == kTileState && MayUseTiles();
  features.amx_int8 = tiles && Bit(edx, 25);
  features.amx_bf16 = tiles && Bit(edx, 22);
  if (__get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0) features.avx512bf16 = zmm_saved && Bit(eax, 5);
  return features;
}

// "AMD EPYC 9354 32-Core Processor", from the brand string of CPUID 0x80000002 and following.
std::string ProcessorName() {
  std::array<unsigned, 12> words{};
  for (unsigned leaf = 0; leaf < 3; ++leaf) {
    unsigned* out = words.data() + std::size_t{4} * leaf;
    if (__get_cpuid(0x80000002U + leaf, out, out + 1, out + 2, out + 3) == 0) return "x86-64";
  }
  std::array<char, sizeof(words) + 1> text{};
  std::memcpy(text.data(), words.data(), sizeof(words));
  std::string name(text.data());
  const auto first = name.find_first_not_of(' ');
  if (first == std::string::npos) return "x86-64";
  return name.substr(first, name.find_last_not_of(' ') - first + 1);
}

constexpr std::array<std::pair<Isa, std::string_view>, kIsas.size()> kNames = {{{Isa::kRef, "ref"},
                                                                                {Isa::kAvx2, "avx2"},
                                                                                {Isa::kAvx512, "avx512"},
                                                                                {Isa::kVnni, "vnni"},
                                                                                {Isa::kAmx, "amx"}}};

}  // namespace

std::string_view IsaName(Isa isa) {
  for (const auto& [known, name] : kNames) {
    if (known == isa) return name;
  }
  return "?";
}

std::optional<Isa> IsaFromName(std::string_view name) {
  for (const auto& [isa, known] : kNames) {
    if (known == name) return isa;
  }
  return std::nullopt;
}

Isa DetectIsa() {
  const Features f = ReadFeatures();
  if (!(f.avx2 && f.fma && f.f16c)) return Isa::kRef;
  if (!(f.avx512f && f.avx512bw && f.avx512dq && f.avx512vl)) return Isa::kAvx2;
  if (!f.avx512vnni) return Isa::kAvx512;
  return f.avx512bf16 && f.amx_int8 && f.amx_bf16 ? Isa::kAmx : Isa::kVnni;
}

Result<Isa> ChooseIsa(std::optional<Isa> wanted) {
  const char* environment = std::getenv("BLOOMERY_ISA");
  const bool from_environment = !wanted && environment != nullptr && *environment != '\0';
  if (from_environment) {
    wanted = IsaFromName(environment);
    if (!wanted) {
      return Fail(ErrorCode::kInvalidArgument, "BLOOMERY_ISA={}: expected ref, avx2, avx512, vnni or amx",
                  environment);
    }
  }
  const Isa best = DetectIsa();
  if (!wanted) return best;
  if (*wanted > best) {
    return Fail(ErrorCode::kUnsupported,
                "{}instruction set {} is not available on this machine, whose best is {}",
                from_environment ? "BLOOMERY_ISA: " : "", IsaName(*wanted), IsaName(best));
  }
  return *wanted;
}

std::string CpuFeatures() {
  const Features f = ReadFeatures();
  const std::array<std::pair<bool, std::string_view>, 11> list = {{{f.avx2, "avx2"},
                                                                   {f.fma, "fma"},
                                                                   {f.f16c, "f16c"},
                                                                   {f.avx512f, "avx512f"},
                                                                   {f.avx512bw, "avx512bw"},
                                                                   {f.avx512dq, "avx512dq"},
                                                                   {f.avx512vl, "avx512vl"},
                                                                   {f.avx512vnni, "avx512vnni"},
                                                                   {f.avx512bf16, "avx512bf16"},
                                                                   {f.amx_int8, "amx_int8"},
                                                                   {f.amx_bf16, "amx_bf16"}}};
  std::string text = ProcessorName() + ":";
  for (const auto& [present, name] : list) {
    if (present) text += fmt::format(" {}", name);
  }
  return text;
}

}  // namespace bloomery
