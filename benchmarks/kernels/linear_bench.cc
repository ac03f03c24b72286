// Linear layers beside the limits of the machine: bytes of weights read per second at few rows, operations
// per second at many. Run alone on the machine:
//
//   build/release/kernels_bench --benchmark_counters_tabular=true
//
// `of_read` is the share of the read bandwidth measured in the same run (decode's limit). BLOOMERY_ISA picks
// the instruction set, BLOOMERY_THREADS the number of threads.
#include <benchmark/benchmark.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cpu_device.h"

namespace bloomery {
namespace {

constexpr std::int64_t kOut = 8192;
constexpr std::int64_t kIn = 2048;
// Layers gone through in turn, so that a pass never finds its weights in cache: 16 × 16 MiB of int8 and up.
constexpr int kLayers = 16;

Device& SharedDevice() {
  static const std::unique_ptr<Device> device = [] {
    const char* threads = std::getenv("BLOOMERY_THREADS");
    auto made = MakeCpuDevice({.threads = threads == nullptr ? 0 : std::atoi(threads)});
    if (!made) {
      std::fprintf(stderr, "%s\n", made.error().ToString().c_str());
      std::exit(1);
    }
    return *std::move(made);
  }();
  return *device;
}

using Layers = std::vector<std::unique_ptr<LinearWeights>>;

// Measured anew beside every benchmark and over the same bytes: memory speed drifts, and differs from place
// to place.
double ReadBandwidth(const Layers& layers) {
  std::vector<const LinearWeights*> weights;
  for (const auto& layer : layers) weights.push_back(layer.get());
  return SharedDevice().MeasureReadBandwidth(weights, 300);
}

void BM_Linear(benchmark::State& state, DType dtype) {
  Device& device = SharedDevice();
  const std::int64_t rows = state.range(0);
  Layers layers;
  for (int i = 0; i < kLayers; ++i) {
    auto layer = device.RandomLinear(kOut, kIn, false, dtype, 0.02F, static_cast<std::uint64_t>(i));
    if (!layer) return state.SkipWithError(layer.error().message.c_str());
    layers.push_back(*std::move(layer));
  }
  const std::vector<float> x(static_cast<std::size_t>(rows * kIn), 0.5F);
  std::vector<float> y(static_cast<std::size_t>(rows * kOut));
  std::size_t turn = 0;
  for (auto _ : state) {
    device.Linear({.weights = layers[turn++ % kLayers].get(),
                   .x = x.data(),
                   .x_stride = kIn,
                   .y = y.data(),
                   .y_stride = kOut,
                   .rows = rows});
  }
  const auto passes = static_cast<double>(state.iterations());
  using benchmark::Counter;
  const auto bytes = static_cast<double>(layers.front()->size_bytes());
  state.counters["GB/s"] = Counter(passes * bytes * 1e-9, Counter::kIsRate);
  state.counters["GOP/s"] = Counter(passes * 2e-9 * static_cast<double>(rows * kOut * kIn), Counter::kIsRate);
  state.counters["of_read"] = Counter(passes * bytes / ReadBandwidth(layers), Counter::kIsRate);
}

void Register() {
  for (const DType dtype : {DType::kI4, DType::kI8, DType::kBF16, DType::kF16, DType::kF32}) {
    auto* bench =
        benchmark::RegisterBenchmark(("linear/" + std::string(DTypeName(dtype))).c_str(), BM_Linear, dtype);
    for (const std::int64_t rows : {1, 4, 8, 16, 128, 512}) bench->Arg(rows);
    bench->UseRealTime()->Unit(benchmark::kMillisecond)->MinTime(0.3);
  }
}

}  // namespace
}  // namespace bloomery

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  bloomery::Register();
  std::printf("%s, %s\n", bloomery::SharedDevice().Describe().c_str(), bloomery::CpuFeatures().c_str());
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
