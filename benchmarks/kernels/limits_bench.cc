// The limits that the linear layers are held against, measured beside them: integer multiply-adds per second
// from registers alone (prefill's limit), and what a parallel section costs before any work is done.
#include <benchmark/benchmark.h>
#include <immintrin.h>

#include <cstdlib>
#include <thread>
#include <vector>

#include "base/thread_pool.h"
#include "kernels/isa.h"

namespace bloomery {
namespace {

ThreadPool& Pool() {
  static ThreadPool pool([] {
    const char* threads = std::getenv("BLOOMERY_THREADS");
    return threads == nullptr ? 0 : std::atoi(threads);
  }());
  return pool;
}

constexpr int kRounds = 1 << 16;
constexpr int kTileRounds = 1 << 18;
constexpr int kChains = 12;  // independent sums: enough to hide the latency of every step

// A byte product with AVX2 is three steps: pairs in 16 bits, fours in 32, and the sum.
__attribute__((target("avx2"))) int PeakAvx2() {
  __m256i sums[kChains];
  for (auto& sum : sums) sum = _mm256_setzero_si256();
  __m256i x = _mm256_set1_epi8(3);
  const __m256i ones = _mm256_set1_epi16(1);
  for (int round = 0; round < kRounds; ++round) {
    asm volatile("" : "+x"(x));  // a new value as far as the compiler knows: nothing is hoisted
#pragma GCC unroll 12
    for (auto& sum : sums) sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(x, x), ones));
  }
  __m256i all = sums[0];
  for (const auto& sum : sums) all = _mm256_add_epi32(all, sum);
  return _mm256_extract_epi32(all, 0);
}

__attribute__((target("avx512f,avx512bw,avx512vnni"))) int PeakVnni() {
  __m512i sums[kChains];
  for (auto& sum : sums) sum = _mm512_setzero_si512();
  __m512i x = _mm512_set1_epi8(3);
  for (int round = 0; round < kRounds; ++round) {
    asm volatile("" : "+v"(x));
#pragma GCC unroll 12
    for (auto& sum : sums) sum = _mm512_dpbusd_epi32(sum, x, x);
  }
  __m512i all = sums[0];
  for (const auto& sum : sums) all = _mm512_add_epi32(all, sum);
  return _mm512_cvtsi512_si32(all);
}

// Four sums of 16 × 16, of 64 products each: what AMX multiplies when nothing is loaded or stored.
__attribute__((target("amx-tile,amx-int8"))) void PeakTiles() {
  struct alignas(64) {
    unsigned char palette = 1;
    unsigned char reserved[15] = {};
    unsigned short line_bytes[16] = {64, 64, 64, 64, 64, 64};
    unsigned char rows[16] = {16, 16, 16, 16, 16, 16};
  } config;
  asm volatile("" : : "r"(&config) : "memory");  // GCC's tile instructions do not say what they read
  _tile_loadconfig(&config);
  _tile_zero(4);
  _tile_zero(5);
  for (int round = 0; round < kTileRounds; ++round) {
    _tile_dpbsud(0, 4, 5);
    _tile_dpbsud(1, 4, 5);
    _tile_dpbsud(2, 4, 5);
    _tile_dpbsud(3, 4, 5);
  }
  _tile_release();
}

void BM_TilePeak(benchmark::State& state) {
  if (DetectIsa() < Isa::kAmx) return state.SkipWithError("SKIPPED: this machine has no AMX");
  for (auto _ : state) {
    // Threads of its own: the linear kernels expect to find the tiles as they left them.
    std::vector<std::jthread> threads;
    for (int i = 0; i < Pool().threads(); ++i) threads.emplace_back(PeakTiles);
  }
  const double products = static_cast<double>(kTileRounds) * 4 * 16 * 16 * 64 * Pool().threads();
  state.counters["GOP/s"] = benchmark::Counter(static_cast<double>(state.iterations()) * 2e-9 * products,
                                               benchmark::Counter::kIsRate);
}
BENCHMARK(BM_TilePeak)->UseRealTime()->Unit(benchmark::kMillisecond)->MinTime(0.5);

void BM_Int8Peak(benchmark::State& state) {
  const bool vnni = DetectIsa() >= Isa::kVnni;
  for (auto _ : state) {
    Pool().Run([&](int) { benchmark::DoNotOptimize(vnni ? PeakVnni() : PeakAvx2()); });
  }
  const double products = static_cast<double>(kRounds) * kChains * (vnni ? 64 : 32) * Pool().threads();
  state.counters["GOP/s"] = benchmark::Counter(static_cast<double>(state.iterations()) * 2e-9 * products,
                                               benchmark::Counter::kIsRate);
}
BENCHMARK(BM_Int8Peak)->UseRealTime()->Unit(benchmark::kMillisecond)->MinTime(0.5);

void BM_Barrier(benchmark::State& state) {
  for (auto _ : state) Pool().Run([](int) {});
}
BENCHMARK(BM_Barrier)->UseRealTime()->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace bloomery
