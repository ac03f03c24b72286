// What the kernels' tests share: a device per instruction set (skipped where the machine lacks it), and
// random numbers that are the same everywhere.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cpu_device.h"

namespace bloomery {

// Tests that run once per instruction set.
class IsaTest : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (GetParam() > DetectIsa()) {
      GTEST_SKIP() << "this machine has no " << IsaName(GetParam()) << ": " << CpuFeatures();
    }
  }

  static std::unique_ptr<Device> MakeDevice(int threads = 2) {
    auto device = MakeCpuDevice({.threads = threads, .isa = GetParam()});
    EXPECT_TRUE(device) << device.error().ToString();
    return *std::move(device);
  }
};

#define BLOOMERY_FOR_EACH_ISA(suite)                             \
  INSTANTIATE_TEST_SUITE_P(Isa, suite, testing::ValuesIn(kIsas), \
                           [](const auto& test) { return std::string(IsaName(test.param)); })

// A small linear congruential generator; top bits only.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed * 2654435761U + 12345U) {}

  std::uint32_t Next() {
    state_ = state_ * 6364136223846793005ULL + 1442695040888963407ULL;
    return static_cast<std::uint32_t>(state_ >> 33U);
  }
  // Uniform in [−range, range).
  float Float(float range = 1.0F) {
    return (static_cast<float>(Next() >> 7U) / static_cast<float>(1U << 23U) - 1.0F) * range;
  }
  std::vector<float> Floats(std::int64_t count, float range = 1.0F) {
    std::vector<float> values(static_cast<std::size_t>(count));
    for (float& value : values) value = Float(range);
    return values;
  }

 private:
  std::uint64_t state_;
};

// Bit for bit, so that NaN equals itself and 0 differs from −0.
inline bool SameBits(const float* a, const float* b, std::int64_t count) {
  return std::memcmp(a, b, static_cast<std::size_t>(count) * sizeof(float)) == 0;
}

// A tensor of any of the three float types that owns its bytes, one byte off alignment, as a file may have
// it.
class TestTensor {
 public:
  TestTensor(Shape shape, DType dtype, const std::vector<float>& values)
      : bytes_(values.size() * SizeOf(dtype) + 1), rounded_(values) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      std::byte* to = bytes_.data() + 1 + i * SizeOf(dtype);
      if (dtype == DType::kF32) {
        std::memcpy(to, &values[i], sizeof(float));
        continue;
      }
      const std::uint16_t bits = dtype == DType::kF16 ? F32ToF16(values[i]) : F32ToBF16(values[i]);
      rounded_[i] = dtype == DType::kF16 ? F16ToF32(bits) : BF16ToF32(bits);
      std::memcpy(to, &bits, sizeof(bits));
    }
    view_ = {.dtype = dtype, .shape = std::move(shape), .bytes = std::span(bytes_).subspan(1)};
  }
  TestTensor(const TestTensor&) = delete;

  const TensorView& view() const { return view_; }
  TensorView& view() { return view_; }
  // What the tensor really holds, after rounding to its type.
  const std::vector<float>& values() const { return rounded_; }

 private:
  std::vector<std::byte> bytes_;
  std::vector<float> rounded_;
  TensorView view_;
};

}  // namespace bloomery
