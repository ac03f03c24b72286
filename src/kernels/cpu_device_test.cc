// The device as a whole: choosing an instruction set, operations over rows, random weights, hostile shapes.
#include "kernels/cpu_device.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kernels/test_util.h"

namespace bloomery {
namespace {

// Two passes in f32 over at most 1000 columns, values of order 1.
constexpr double kLayerNormTolerance = 2e-5;
// One pass over values of order 1.
constexpr double kRmsNormTolerance = 5e-6;
// Two products of values of order 1, each rounded.
constexpr double kRotaryTolerance = 1e-6;

// Sets BLOOMERY_ISA for one scope.
class ScopedIsa {
 public:
  explicit ScopedIsa(const char* value) {
    if (const char* before = std::getenv("BLOOMERY_ISA")) before_ = before;
    ::setenv("BLOOMERY_ISA", value, 1);
  }
  ~ScopedIsa() {
    if (before_) {
      ::setenv("BLOOMERY_ISA", before_->c_str(), 1);
    } else {
      ::unsetenv("BLOOMERY_ISA");
    }
  }
  ScopedIsa(const ScopedIsa&) = delete;
  ScopedIsa& operator=(const ScopedIsa&) = delete;

 private:
  std::optional<std::string> before_;
};

TEST(IsaChoiceTest, NamesRoundTrip) {
  for (const Isa isa : kIsas) {
    EXPECT_EQ(IsaFromName(IsaName(isa)), isa);
  }
  EXPECT_FALSE(IsaFromName("AVX2"));
}

TEST(IsaChoiceTest, EnvironmentOverridesAndTheCallerOverridesTheEnvironment) {
  const ScopedIsa scoped("ref");
  EXPECT_EQ(*ChooseIsa(std::nullopt), Isa::kRef);
  EXPECT_EQ(*ChooseIsa(DetectIsa()), DetectIsa());
  const auto device = MakeCpuDevice({.threads = 1});
  ASSERT_TRUE(device);
  EXPECT_EQ((*device)->Describe(), "cpu ref, 1 thread");
}

TEST(IsaChoiceTest, AnEmptyEnvironmentMeansTheBest) {
  const ScopedIsa scoped("");
  EXPECT_EQ(*ChooseIsa(std::nullopt), DetectIsa());
}

TEST(IsaChoiceTest, AnUnknownNameIsAnError) {
  const ScopedIsa scoped("avx9000");
  const auto device = MakeCpuDevice({.threads = 1});
  ASSERT_FALSE(device);
  EXPECT_EQ(device.error().code, ErrorCode::kInvalidArgument);
  EXPECT_NE(device.error().message.find("avx9000"), std::string::npos);
}

TEST(IsaChoiceTest, WhatTheMachineLacksIsUnsupported) {
  if (DetectIsa() == kIsas.back()) GTEST_SKIP() << "this machine lacks no instruction set: " << CpuFeatures();
  const auto device = MakeCpuDevice({.threads = 1, .isa = kIsas.back()});
  ASSERT_FALSE(device);
  EXPECT_EQ(device.error().code, ErrorCode::kUnsupported);
}

TEST(IsaChoiceTest, AbsurdThreadCountsAreErrors) {
  EXPECT_FALSE(MakeCpuDevice({.threads = -1}));
  EXPECT_FALSE(MakeCpuDevice({.threads = 1 << 30}));
}

class RowOpsTest : public IsaTest {};

TEST_P(RowOpsTest, LayerNormAgreesWithDoublePrecision) {
  const auto device = MakeDevice();
  for (const std::int64_t cols : {1, 2, 15, 16, 17, 64, 1000}) {
    const std::int64_t rows = 3;
    std::vector<float> x = Random(2).Floats(rows * cols);
    for (float& value : x) value += 10.0F;  // a mean that one pass would pay for in digits
    const std::vector<float> gain = Random(3).Floats(cols);
    const std::vector<float> bias = Random(4).Floats(cols);
    const float eps = 1e-5F;
    std::vector<float> y(x.size());
    std::vector<float> plain(x.size());
    device->LayerNorm(x.data(), cols, rows, cols, gain.data(), bias.data(), eps, y.data(), cols);
    device->LayerNorm(x.data(), cols, rows, cols, nullptr, nullptr, eps, plain.data(), cols);
    for (std::int64_t r = 0; r < rows; ++r) {
      double mean = 0;
      double variance = 0;
      const auto at = [&](std::int64_t c) { return static_cast<std::size_t>(r * cols + c); };
      for (std::int64_t c = 0; c < cols; ++c)
        mean += static_cast<double>(x[at(c)]) / static_cast<double>(cols);
      for (std::int64_t c = 0; c < cols; ++c) {
        variance += std::pow(static_cast<double>(x[at(c)]) - mean, 2) / static_cast<double>(cols);
      }
      for (std::int64_t c = 0; c < cols; ++c) {
        const double normal =
            (static_cast<double>(x[at(c)]) - mean) / std::sqrt(variance + static_cast<double>(eps));
        const auto column = static_cast<std::size_t>(c);
        ASSERT_NEAR(static_cast<double>(plain[at(c)]), normal, kLayerNormTolerance) << cols;
        ASSERT_NEAR(static_cast<double>(y[at(c)]),
                    normal * static_cast<double>(gain[column]) + static_cast<double>(bias[column]),
                    kLayerNormTolerance)
            << cols;
      }
    }
    device->LayerNorm(x.data(), cols, rows, cols, gain.data(), bias.data(), eps, x.data(), cols);
    EXPECT_TRUE(SameBits(x.data(), y.data(), rows * cols)) << "in place, " << cols;
  }
}

TEST_P(RowOpsTest, LayerNormOfARowDoesNotDependOnOtherRowsOrThreads) {
  const std::int64_t rows = 70;
  const std::int64_t cols = 500;  // enough for several threads
  const std::vector<float> x = Random(8).Floats(rows * cols);
  std::vector<float> first;
  for (const int threads : {1, 2, 3}) {
    const auto device = MakeDevice(threads);
    std::vector<float> y(x.size());
    device->LayerNorm(x.data(), cols, rows, cols, nullptr, nullptr, 1e-5F, y.data(), cols);
    if (first.empty()) first = y;
    EXPECT_TRUE(SameBits(y.data(), first.data(), rows * cols));
    std::vector<float> one(static_cast<std::size_t>(cols));
    device->LayerNorm(x.data() + 69 * cols, cols, 1, cols, nullptr, nullptr, 1e-5F, one.data(), cols);
    EXPECT_TRUE(SameBits(one.data(), first.data() + 69 * cols, cols));
  }
}

TEST_P(RowOpsTest, RmsNormAgreesWithDoublePrecision) {
  const auto device = MakeDevice();
  for (const std::int64_t cols : {1, 2, 15, 16, 17, 64, 1000}) {
    const std::int64_t rows = 3;
    const std::int64_t stride = cols + 3;
    std::vector<float> x = Random(2).Floats(rows * stride, 3.0F);
    const std::vector<float> gain = Random(3).Floats(cols);
    const float eps = 1e-5F;
    std::vector<float> y(x.size(), 9.0F);
    std::vector<float> plain(x.size(), 9.0F);
    device->RmsNorm(x.data(), stride, rows, cols, gain.data(), eps, y.data(), stride);
    device->RmsNorm(x.data(), stride, rows, cols, nullptr, eps, plain.data(), stride);
    for (std::int64_t r = 0; r < rows; ++r) {
      const auto at = [&](std::int64_t c) { return static_cast<std::size_t>(r * stride + c); };
      double mean = 0;
      for (std::int64_t c = 0; c < cols; ++c)
        mean += std::pow(static_cast<double>(x[at(c)]), 2) / static_cast<double>(cols);
      for (std::int64_t c = 0; c < cols; ++c) {
        const double normal = static_cast<double>(x[at(c)]) / std::sqrt(mean + static_cast<double>(eps));
        const auto column = static_cast<std::size_t>(c);
        ASSERT_NEAR(static_cast<double>(plain[at(c)]), normal, kRmsNormTolerance) << cols;
        ASSERT_NEAR(static_cast<double>(y[at(c)]), normal * static_cast<double>(gain[column]),
                    kRmsNormTolerance)
            << cols;
      }
      EXPECT_EQ(y[at(cols)], 9.0F) << "gaps between rows are left alone";
    }
    std::vector<float> in_place = x;
    device->RmsNorm(in_place.data(), stride, rows, cols, gain.data(), eps, in_place.data(), stride);
    for (std::int64_t r = 0; r < rows; ++r)
      EXPECT_TRUE(SameBits(in_place.data() + r * stride, y.data() + r * stride, cols))
          << "in place, " << cols;
  }
}

TEST_P(RowOpsTest, GateIsTheActivationTimesTheOtherHalf) {
  const auto device = MakeDevice();
  for (const std::int64_t cols : {1, 15, 16, 17, 100}) {
    const std::int64_t rows = 3;
    const std::vector<float> x = Random(5).Floats(rows * 2 * cols, 4.0F);
    std::vector<float> y(static_cast<std::size_t>(rows * cols));
    device->Gate(x.data(), 2 * cols, rows, cols, Activation::kSilu, y.data(), cols);
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t c = 0; c < cols; ++c) {
        const auto gate = static_cast<double>(x[static_cast<std::size_t>(r * 2 * cols + c)]);
        const auto up = static_cast<double>(x[static_cast<std::size_t>((r * 2 + 1) * cols + c)]);
        ASSERT_NEAR(static_cast<double>(y[static_cast<std::size_t>(r * cols + c)]),
                    gate / (1 + std::exp(-gate)) * up, 1e-5)
            << cols;
      }
    }
    std::vector<float> in_place = x;
    device->Gate(in_place.data(), 2 * cols, rows, cols, Activation::kSilu, in_place.data(), 2 * cols);
    for (std::int64_t r = 0; r < rows; ++r)
      EXPECT_TRUE(SameBits(in_place.data() + r * 2 * cols, y.data() + r * cols, cols))
          << "in place, " << cols;
  }
}

TEST_P(RowOpsTest, RotateTurnsPairsOfFeaturesByTheirAngle) {
  const auto device = MakeDevice();
  const std::int64_t heads = 3;
  const std::vector<std::int32_t> positions = {0, 1, 77, 2047};
  const auto rows = static_cast<std::int64_t>(positions.size());
  for (const std::int64_t pairs : {1, 4, 15, 16, 17, 64}) {
    for (const std::int64_t rest : {0, 5}) {  // features that are not turned
      const std::int64_t dim = 2 * pairs + rest;
      const std::int64_t stride = heads * dim + 7;
      std::vector<float> frequencies;
      for (std::int64_t i = 0; i < pairs; ++i) frequencies.push_back(std::pow(0.5F, static_cast<float>(i)));
      std::vector<float> angles(static_cast<std::size_t>(rows * 2 * pairs));
      device->RotaryAngles(frequencies, positions, angles.data());
      const std::vector<float> x = Random(6).Floats(rows * stride);
      std::vector<float> turned = x;
      device->Rotate({.angles = angles.data(),
                      .pairs = pairs,
                      .x = turned.data(),
                      .x_stride = stride,
                      .rows = rows,
                      .heads = heads,
                      .head_dim = dim});
      for (std::int64_t r = 0; r < rows; ++r) {
        for (std::int64_t c = 0; c < stride; ++c) {
          const auto at = [&](std::int64_t column) { return static_cast<std::size_t>(r * stride + column); };
          const std::int64_t feature = c % dim;
          if (c >= heads * dim || feature >= 2 * pairs) {
            EXPECT_EQ(turned[at(c)], x[at(c)]) << "not a feature to turn";
            continue;
          }
          const auto angle = static_cast<double>(static_cast<float>(positions[static_cast<std::size_t>(r)]) *
                                                 frequencies[static_cast<std::size_t>(feature % pairs)]);
          const std::int64_t other = feature < pairs ? c + pairs : c - pairs;
          const double sign = feature < pairs ? -1 : 1;
          ASSERT_NEAR(static_cast<double>(turned[at(c)]),
                      static_cast<double>(x[at(c)]) * std::cos(angle) +
                          sign * static_cast<double>(x[at(other)]) * std::sin(angle),
                      kRotaryTolerance)
              << pairs << " pairs, row " << r << ", column " << c;
        }
      }
    }
  }
}

// What the engine's promise rests on: the same of the operations that have no sums across rows to begin with.
TEST_P(RowOpsTest, RmsNormGateAndRotateOfARowDoNotDependOnOtherRowsOrThreads) {
  const std::int64_t rows = 70;
  const std::int64_t cols = 500;
  const std::vector<float> x = Random(8).Floats(rows * cols);
  std::vector<std::int32_t> positions(static_cast<std::size_t>(rows));
  for (std::size_t r = 0; r < positions.size(); ++r) positions[r] = static_cast<std::int32_t>(3 * r);
  const std::vector<float> frequencies = Random(9).Floats(20);
  // Rows [first, first + count), through all three.
  const auto run = [&](Device& device, std::int64_t first, std::int64_t count) {
    std::vector<float> y(x.begin() + first * cols, x.begin() + (first + count) * cols);
    device.RmsNorm(y.data(), cols, count, cols, nullptr, 1e-5F, y.data(), cols);
    std::vector<float> angles(static_cast<std::size_t>(count) * 40);
    device.RotaryAngles(
        frequencies,
        std::span(positions).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)),
        angles.data());
    device.Rotate({.angles = angles.data(),
                   .pairs = 20,
                   .x = y.data(),
                   .x_stride = cols,
                   .rows = count,
                   .heads = 10,
                   .head_dim = 50});
    device.Gate(y.data(), cols, count, cols / 2, Activation::kSilu, y.data(), cols);
    return y;
  };
  const std::vector<float> first = run(*MakeDevice(1), 0, rows);
  for (const int threads : {1, 2, 3}) {
    const auto device = MakeDevice(threads);
    EXPECT_TRUE(SameBits(run(*device, 0, rows).data(), first.data(), rows * cols)) << threads;
    EXPECT_TRUE(SameBits(run(*device, 69, 1).data(), first.data() + 69 * cols, cols)) << threads;
  }
}

TEST_P(RowOpsTest, AddAndGatherRows) {
  const auto device = MakeDevice();
  const std::int64_t cols = 5;
  const std::vector<float> table = Random(1).Floats(4 * cols);
  const std::vector<std::int32_t> index = {3, 0, 3};
  std::vector<float> y(3 * 6, 1.0F);
  device->AddRows(table.data(), index, cols, y.data(), 6);
  std::vector<float> gathered(3 * 7, 9.0F);
  device->GatherRows(table.data(), cols, index, cols, gathered.data(), 7);
  for (std::size_t r = 0; r < 3; ++r) {
    for (std::size_t c = 0; c < 5; ++c) {
      const float expected = table[static_cast<std::size_t>(index[r]) * 5 + c];
      EXPECT_EQ(y[r * 6 + c], 1.0F + expected);
      EXPECT_EQ(gathered[r * 7 + c], expected);
    }
    EXPECT_EQ(y[r * 6 + 5], 1.0F);
    EXPECT_EQ(gathered[r * 7 + 5], 9.0F);
  }
}

TEST_P(RowOpsTest, RandomWeightsHaveTheWantedDeviationAndComeFromTheSeed) {
  const std::int64_t out = 70;
  const std::int64_t in = 333;
  std::vector<std::int32_t> ids(static_cast<std::size_t>(out));
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int32_t>(i);
  const auto values = [&](int threads, DType dtype, std::uint64_t seed) {
    const auto device = MakeDevice(threads);
    const auto weights = device->RandomLinear(out, in, true, dtype, 0.02F, seed);
    EXPECT_TRUE(weights) << weights.error().ToString();
    std::vector<float> rows(static_cast<std::size_t>(out * in));
    device->Embed(**weights, ids, rows.data(), in);
    return rows;
  };
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kI8}) {
    const std::vector<float> one = values(1, dtype, 7);
    EXPECT_EQ(one, values(3, dtype, 7)) << DTypeName(dtype);
    EXPECT_NE(one, values(1, dtype, 8)) << DTypeName(dtype);
    double sum = 0;
    double squares = 0;
    for (const float value : one) {
      sum += static_cast<double>(value);
      squares += static_cast<double>(value) * static_cast<double>(value);
    }
    const auto count = static_cast<double>(one.size());
    EXPECT_NEAR(sum / count, 0, 0.0005) << DTypeName(dtype);
    EXPECT_NEAR(std::sqrt(squares / count), 0.02, 0.0004) << DTypeName(dtype);
  }
}

TEST_P(RowOpsTest, MeasuresABandwidth) {
  const auto device = MakeDevice();
  const auto layer = *device->RandomLinear(1000, 300, true, DType::kI8, 0.02F, 1);
  const LinearWeights* const weights[] = {layer.get(), layer.get()};
  const double bandwidth = device->MeasureReadBandwidth(weights, 1);
  EXPECT_GT(bandwidth, 1e7);
  EXPECT_LT(bandwidth, 1e13);
}

BLOOMERY_FOR_EACH_ISA(RowOpsTest);

class HostileSourceTest : public testing::Test {
 protected:
  std::unique_ptr<Device> device_ = *MakeCpuDevice({.threads = 1});

  std::string Pack(const LinearSource& source, DType dtype = DType::kF32) {
    const auto weights = device_->PackLinear(source, dtype);
    return weights ? "packed" : std::string(ErrorCodeName(weights.error().code));
  }
};

TEST_F(HostileSourceTest, PackLinearRefusesWhatDoesNotFit) {
  const TestTensor tensor({4, 3}, DType::kF32, std::vector<float>(12, 1.0F));
  const auto source = [&](std::int64_t out, std::int64_t in, std::int64_t first, std::int64_t rows) {
    return LinearSource{
        .out_features = out, .in_features = in, .weight = {{&tensor.view(), first, rows}}, .bias = {}};
  };
  EXPECT_EQ(Pack(source(4, 3, 0, 4)), "packed");
  EXPECT_EQ(Pack(source(4, 3, 0, 4), DType::kI32), "invalid_argument");
  EXPECT_EQ(Pack(source(5, 3, 0, 4)), "invalid_argument");
  EXPECT_EQ(Pack(source(4, 3, 1, 4)), "invalid_argument");
  EXPECT_EQ(Pack(source(4, 3, -1, 4)), "invalid_argument");
  EXPECT_EQ(Pack(source(4, 4, 0, 4)), "invalid_argument");
  EXPECT_EQ(Pack(source(0, 3, 0, 0)), "invalid_argument");
  EXPECT_EQ(Pack(source(4, 3, 1, std::numeric_limits<std::int64_t>::max())), "invalid_argument");
  EXPECT_EQ(Pack(source(std::int64_t{1} << 62U, 3, 0, 4)), "too_large");
  EXPECT_EQ(Pack({.out_features = 4, .in_features = 3, .weight = {{nullptr, 0, 4}}, .bias = {}}),
            "invalid_argument");
}

TEST_F(HostileSourceTest, PackLinearRefusesTensorsThatLie) {
  TestTensor tensor({4, 3}, DType::kF32, std::vector<float>(12, 1.0F));
  const LinearSource source{
      .out_features = 4, .in_features = 3, .weight = {{&tensor.view(), 0, 4}}, .bias = {}};
  tensor.view().bytes = tensor.view().bytes.first(47);
  EXPECT_EQ(Pack(source), "corrupt");
  tensor.view().shape = {-4, -3};
  EXPECT_EQ(Pack(source), "corrupt");
  tensor.view().shape = {std::int64_t{1} << 62U, 64};
  EXPECT_EQ(Pack(source), "corrupt");
  tensor.view().dtype = DType::kI64;
  EXPECT_EQ(Pack(source), "unsupported");
}

TEST_F(HostileSourceTest, BiasIsCheckedToo) {
  const TestTensor tensor({4, 3}, DType::kF32, std::vector<float>(12, 1.0F));
  const TestTensor bias({3}, DType::kF32, std::vector<float>(3, 1.0F));
  EXPECT_EQ(Pack({.out_features = 4,
                  .in_features = 3,
                  .weight = {{&tensor.view(), 0, 4}},
                  .bias = {{&bias.view(), 0, 3}}}),
            "invalid_argument");
}

TEST_F(HostileSourceTest, SizesBeyondMemoryAreErrors) {
  const auto weights = device_->RandomLinear(std::int64_t{1} << 30U, 1 << 14, false, DType::kF32, 0.02F, 1);
  ASSERT_FALSE(weights);
  EXPECT_EQ(weights.error().code, ErrorCode::kOutOfMemory);
  EXPECT_NE(weights.error().message.find("missing"), std::string::npos) << weights.error().message;
  const auto buffer = device_->Allocate(std::size_t{1} << 60U);
  ASSERT_FALSE(buffer);
  EXPECT_EQ(buffer.error().code, ErrorCode::kOutOfMemory);
}

TEST_F(HostileSourceTest, PackedBytesIsWhatPackingTakes) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kI8}) {
    const auto weights = device_->RandomLinear(33, 70, true, dtype, 0.02F, 1);
    ASSERT_TRUE(weights);
    EXPECT_EQ(device_->PackedBytes(33, 70, true, dtype), (*weights)->size_bytes()) << DTypeName(dtype);
    EXPECT_EQ((*weights)->out_features(), 33);
    EXPECT_EQ((*weights)->in_features(), 70);
  }
  EXPECT_EQ(device_->PackedBytes(16, 4, false, DType::kI8), 16U * 4U + 16U * 4U);
  EXPECT_EQ(device_->PackedBytes(std::int64_t{1} << 40U, std::int64_t{1} << 40U, false, DType::kF32),
            std::numeric_limits<std::uint64_t>::max());
}

// --- packed bytes that somebody else keeps, and layers in pieces

struct Alignas64 {
  explicit Alignas64(std::span<const std::byte> bytes)
      : buffer(AlignedBuffer::Allocate(bytes.size() + 64).value()), size(bytes.size()) {
    std::copy(bytes.begin(), bytes.end(), buffer.data());
  }
  std::span<const std::byte> bytes() const { return {buffer.data(), size}; }

  AlignedBuffer buffer;
  std::size_t size;
};

std::vector<float> Product(Device& device, const LinearWeights& weights, const std::vector<float>& x,
                           std::int64_t rows) {
  std::vector<float> y(static_cast<std::size_t>(rows * weights.out_features()));
  device.Linear({.weights = &weights,
                 .x = x.data(),
                 .x_stride = weights.in_features(),
                 .y = y.data(),
                 .y_stride = weights.out_features(),
                 .rows = rows});
  return y;
}

class MappedLinearTest : public testing::TestWithParam<DType> {};

TEST_P(MappedLinearTest, RowsOfMappedBytesGiveTheBitsOfTheWhole) {
  const auto device = MakeCpuDevice({.threads = 2}).value();
  constexpr std::int64_t kOut = 83;  // the last panel is not full
  constexpr std::int64_t kIn = 300;
  constexpr std::int64_t kRows = 5;
  const auto whole = device->RandomLinear(kOut, kIn, /*has_bias=*/true, GetParam(), 0.1F, 3).value();
  const Alignas64 copy(device->Packed(*whole));
  ASSERT_EQ(copy.size, device->PackedBytes(kOut, kIn, true, GetParam()));
  const std::vector<float> x = Random(8).Floats(kRows * kIn);
  const std::vector<float> expected = Product(*device, *whole, x, kRows);
  const auto map = [&](std::int64_t first, std::int64_t rows) {
    return device->MapLinear({kOut, kIn, true, GetParam(), copy.bytes(), first, rows, nullptr});
  };
  std::vector<std::unique_ptr<LinearWeights>> pieces;
  for (const auto& [first, rows] : {std::pair<std::int64_t, std::int64_t>{0, 32}, {32, 16}, {48, 35}}) {
    pieces.push_back(map(first, rows).value());
    const std::vector<float> y = Product(*device, *pieces.back(), x, kRows);
    for (std::int64_t r = 0; r < kRows; ++r)
      EXPECT_TRUE(SameBits(y.data() + r * rows, expected.data() + r * kOut + first, rows)) << first;
  }
  const auto joined = device->JoinLinear(std::move(pieces), JoinedBy::kOutputs);
  EXPECT_EQ(joined->out_features(), kOut);
  EXPECT_EQ(joined->in_features(), kIn);
  const std::vector<float> y = Product(*device, *joined, x, kRows);
  EXPECT_TRUE(SameBits(y.data(), expected.data(), kRows * kOut));
  // A table in pieces is looked up as a whole.
  const std::vector<std::int32_t> ids = {0, 31, 32, 47, 48, 82, -1};
  std::vector<float> from_whole(ids.size() * kIn);
  std::vector<float> from_pieces(ids.size() * kIn, 1.0F);
  device->Embed(*whole, ids, from_whole.data(), kIn);
  device->Embed(*joined, ids, from_pieces.data(), kIn);
  EXPECT_TRUE(SameBits(from_pieces.data(), from_whole.data(), static_cast<std::int64_t>(from_whole.size())));
  EXPECT_EQ(from_pieces.back(), 0.0F);

  EXPECT_EQ(map(8, 16).error().code, ErrorCode::kInvalidArgument) << "in the middle of a panel";
  EXPECT_EQ(map(0, 40).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(map(64, 32).error().code, ErrorCode::kInvalidArgument) << "past the end";
  const auto few =
      device->MapLinear({kOut, kIn, true, GetParam(), copy.bytes().first(copy.size - 1), 0, kOut, nullptr});
  EXPECT_EQ(few.error().code, ErrorCode::kCorrupt);
  const auto unaligned =
      device->MapLinear({16, 16, false, GetParam(), copy.bytes().subspan(4), 0, 16, nullptr});
  EXPECT_EQ(unaligned.error().code, ErrorCode::kCorrupt);
}

TEST_P(MappedLinearTest, InputsJoinedAreSumsInThePiecesOrder) {
  const auto device = MakeCpuDevice({.threads = 2}).value();
  constexpr std::int64_t kOut = 40;
  constexpr std::int64_t kRows = 3;
  auto first = device->RandomLinear(kOut, 128, /*has_bias=*/true, GetParam(), 0.1F, 3).value();
  auto second = device->RandomLinear(kOut, 96, /*has_bias=*/false, GetParam(), 0.1F, 4).value();
  const std::vector<float> x = Random(8).Floats(kRows * 224);
  std::vector<float> left;
  std::vector<float> right;
  for (std::int64_t r = 0; r < kRows; ++r) {
    left.insert(left.end(), x.begin() + r * 224, x.begin() + r * 224 + 128);
    right.insert(right.end(), x.begin() + r * 224 + 128, x.begin() + (r + 1) * 224);
  }
  std::vector<float> expected = Product(*device, *first, left, kRows);
  const std::vector<float> more = Product(*device, *second, right, kRows);
  for (std::size_t i = 0; i < expected.size(); ++i) expected[i] = more[i] + expected[i];
  std::vector<std::unique_ptr<LinearWeights>> pieces;
  pieces.push_back(std::move(first));
  pieces.push_back(std::move(second));
  const auto joined = device->JoinLinear(std::move(pieces), JoinedBy::kInputs);
  EXPECT_EQ(joined->in_features(), 224);
  const std::vector<float> y = Product(*device, *joined, x, kRows);
  for (std::size_t i = 0; i < y.size(); ++i) EXPECT_NEAR(y[i], expected[i], 1e-5) << i;
}

INSTANTIATE_TEST_SUITE_P(DTypes, MappedLinearTest,
                         testing::Values(DType::kF32, DType::kF16, DType::kBF16, DType::kI8, DType::kI4),
                         [](const auto& dtype) { return std::string(DTypeName(dtype.param)); });

TEST(ArgmaxRowsTest, TakesTheFirstOfEquals) {
  const auto device = MakeCpuDevice({.threads = 2}).value();
  const std::vector<float> x = {1, 5, 5, 9, -3, -1, -1, 9};  // the last column is a gap
  std::vector<std::int32_t> best(2);
  device->ArgmaxRows(x.data(), 4, 3, best);
  EXPECT_EQ(best, (std::vector<std::int32_t>{1, 1}));
}

}  // namespace
}  // namespace bloomery
