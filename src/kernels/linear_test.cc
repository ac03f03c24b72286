// Linear layers against sums in double precision, and the promise that a row's result depends on that row
// alone.
#include <algorithm>
#include <cmath>
#include <memory>
#include <numbers>
#include <numeric>
#include <vector>

#include "kernels/test_util.h"

namespace bloomery {
namespace {

// Largest error of an output, relative to Σ|w·x| + |bias|: f32 accumulation in chains of at most 2000 terms;
// the 16-bit types add the rounding of the weights (2⁻¹¹, 2⁻⁸, halved), int8 half a step of 1/127 of the
// largest weight and of the largest activation.
constexpr double kToleranceF32 = 1e-5;
constexpr double kToleranceF16 = 5e-4;
constexpr double kToleranceBF16 = 4e-3;
constexpr double kToleranceInt8 = 2e-2;
// Half a step of 1/15 of a group's range, which is twice its largest weight.
constexpr double kToleranceInt4 = 1.5e-1;

double ToleranceOf(DType dtype) {
  switch (dtype) {
    case DType::kF16:
      return kToleranceF16;
    case DType::kBF16:
      return kToleranceBF16;
    case DType::kI8:
      return kToleranceInt8;
    case DType::kI4:
      return kToleranceInt4;
    default:
      return kToleranceF32;
  }
}

constexpr DType kDTypes[] = {DType::kF32, DType::kF16, DType::kBF16, DType::kI8, DType::kI4};

struct Layer {
  Layer(std::int64_t out_features, std::int64_t in_features, DType source = DType::kF32)
      : out(out_features),
        in(in_features),
        weight({out, in}, source, Random(static_cast<std::uint64_t>(out * 1000 + in)).Floats(out * in)),
        bias({out}, source, Random(static_cast<std::uint64_t>(out)).Floats(out)) {}

  LinearSource Source(bool with_bias = true) const {
    LinearSource source{
        .out_features = out, .in_features = in, .weight = {{&weight.view(), 0, out}}, .bias = {}};
    if (with_bias) source.bias = {{&bias.view(), 0, out}};
    return source;
  }

  std::int64_t out;
  std::int64_t in;
  TestTensor weight;
  TestTensor bias;
};

double Activated(double x, Activation activation) {
  switch (activation) {
    case Activation::kRelu:
      return std::max(x, 0.0);
    case Activation::kGeluTanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
    case Activation::kGeluErf:
      return 0.5 * x * (1 + std::erf(x / std::numbers::sqrt2));
    case Activation::kSilu:
      return x / (1 + std::exp(-x));
    default:
      return x;
  }
}

std::vector<float> RunLinear(Device& device, const LinearWeights& weights, const std::vector<float>& x,
                             std::int64_t rows, Activation activation = Activation::kNone) {
  std::vector<float> y(static_cast<std::size_t>(rows * weights.out_features()), -777.0F);
  device.Linear({.weights = &weights,
                 .x = x.data(),
                 .x_stride = weights.in_features(),
                 .y = y.data(),
                 .y_stride = weights.out_features(),
                 .rows = rows,
                 .activation = activation});
  return y;
}

void ExpectNear(const Layer& layer, const std::vector<float>& x, const std::vector<float>& y,
                std::int64_t rows, double tolerance) {
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t o = 0; o < layer.out; ++o) {
      double sum = static_cast<double>(layer.bias.values()[static_cast<std::size_t>(o)]);
      double magnitude = std::fabs(sum);
      for (std::int64_t k = 0; k < layer.in; ++k) {
        const double term =
            static_cast<double>(layer.weight.values()[static_cast<std::size_t>(o * layer.in + k)]) *
            static_cast<double>(x[static_cast<std::size_t>(r * layer.in + k)]);
        sum += term;
        magnitude += std::fabs(term);
      }
      ASSERT_NEAR(static_cast<double>(y[static_cast<std::size_t>(r * layer.out + o)]), sum,
                  tolerance * magnitude)
          << "row " << r << " of " << rows << ", output " << o << " of " << layer.out << ", in " << layer.in;
    }
  }
}

class LinearTest : public IsaTest {};

TEST_P(LinearTest, EveryTailAgreesWithDoublePrecision) {
  const auto device = MakeDevice();
  for (const std::int64_t out : {1, 15, 16, 17, 33, 79}) {
    for (const std::int64_t in : {1, 3, 4, 7, 127, 128, 129, 300}) {
      const Layer layer(out, in);
      const std::vector<float> x = Random(7).Floats(3 * in, 2.0F);
      for (const DType dtype : kDTypes) {
        const auto weights = device->PackLinear(layer.Source(), dtype);
        ASSERT_TRUE(weights) << weights.error().ToString();
        SCOPED_TRACE(DTypeName(dtype));
        ExpectNear(layer, x, RunLinear(*device, **weights, x, 3), 3, ToleranceOf(dtype));
      }
    }
  }
}

TEST_P(LinearTest, ManyRowsAndLongSumsCutIntoPieces) {
  const auto device = MakeDevice();
  const Layer layer(100, 2100);
  const std::vector<float> x = Random(9).Floats(110 * layer.in);
  for (const DType dtype : kDTypes) {
    const auto weights = device->PackLinear(layer.Source(), dtype);
    ASSERT_TRUE(weights) << weights.error().ToString();
    SCOPED_TRACE(DTypeName(dtype));
    ExpectNear(layer, x, RunLinear(*device, **weights, x, 110), 110, ToleranceOf(dtype));
  }
}

TEST_P(LinearTest, ARowsBitsDependOnThatRowAlone) {
  const std::int64_t kMostRows = 33;
  for (const auto& [out, in] : {std::pair<std::int64_t, std::int64_t>{83, 301}, {64, 1100}}) {
    const Layer layer(out, in);
    const std::vector<float> x = Random(11).Floats(kMostRows * in, 3.0F);
    for (const DType dtype : kDTypes) {
      std::vector<float> alone;
      for (const int threads : {1, 2, 3}) {
        const auto device = MakeDevice(threads);
        const auto weights = device->PackLinear(layer.Source(), dtype);
        ASSERT_TRUE(weights) << weights.error().ToString();
        if (alone.empty()) {
          for (std::int64_t row = 0; row < kMostRows; ++row) {
            const std::vector<float> one(x.begin() + row * in, x.begin() + (row + 1) * in);
            const std::vector<float> y = RunLinear(*device, **weights, one, 1, Activation::kGeluTanh);
            alone.insert(alone.end(), y.begin(), y.end());
          }
        }
        for (std::int64_t rows = 2; rows <= kMostRows; ++rows) {
          // The last `rows` rows, so that each row meets many places in a block.
          const std::int64_t first = kMostRows - rows;
          const std::vector<float> batch(x.begin() + first * in, x.end());
          const std::vector<float> y = RunLinear(*device, **weights, batch, rows, Activation::kGeluTanh);
          ASSERT_TRUE(SameBits(y.data(), alone.data() + first * out, rows * out))
              << DTypeName(dtype) << ", " << rows << " rows, " << threads << " threads, in " << in;
        }
      }
    }
  }
}

TEST_P(LinearTest, RowsBeyondAChunkKeepTheirBits) {
  const auto device = MakeDevice();
  const Layer layer(17, 40);
  const std::int64_t rows = 1040;  // two chunks of 512 and a tail
  const std::vector<float> x = Random(13).Floats(rows * layer.in);
  for (const DType dtype : kDTypes) {
    const auto weights = device->PackLinear(layer.Source(), dtype);
    ASSERT_TRUE(weights) << weights.error().ToString();
    const std::vector<float> y = RunLinear(*device, **weights, x, rows);
    for (const std::int64_t row : {0, 511, 512, 1023, 1024, 1039}) {
      const std::vector<float> one(x.begin() + row * layer.in, x.begin() + (row + 1) * layer.in);
      EXPECT_TRUE(
          SameBits(y.data() + row * layer.out, RunLinear(*device, **weights, one, 1).data(), layer.out))
          << DTypeName(dtype) << " row " << row;
    }
  }
}

TEST_P(LinearTest, ActivationsAreAccurate) {
  // A layer of one input and weight 1 hands x to the activation unchanged.
  const auto device = MakeDevice(1);
  const TestTensor one({1, 1}, DType::kF32, {1.0F});
  const auto weights = device->PackLinear(
      {.out_features = 1, .in_features = 1, .weight = {{&one.view(), 0, 1}}, .bias = {}}, DType::kF32);
  ASSERT_TRUE(weights) << weights.error().ToString();
  std::vector<float> x;
  for (int i = -6000; i <= 6000; ++i) x.push_back(static_cast<float>(i) * 0.002F);
  for (const float extreme : {-3e38F, -1e4F, -90.0F, -0.0F, 0.0F, 1e-30F, 90.0F, 1e4F, 3e38F})
    x.push_back(extreme);
  const auto rows = static_cast<std::int64_t>(x.size());
  for (const Activation activation :
       {Activation::kRelu, Activation::kGeluTanh, Activation::kGeluErf, Activation::kSilu}) {
    const std::vector<float> y = RunLinear(*device, **weights, x, rows, activation);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double expected = Activated(static_cast<double>(x[i]), activation);
      ASSERT_NEAR(static_cast<double>(y[i]), expected, 2e-6 * std::max(1.0, std::fabs(expected)))
          << "x " << x[i] << " activation " << static_cast<int>(activation);
    }
  }
}

TEST_P(LinearTest, NotANumberIsNotHidden) {
  const auto device = MakeDevice();
  const Layer layer(20, 200);
  for (const DType dtype : kDTypes) {
    const auto weights = device->PackLinear(layer.Source(), dtype);
    ASSERT_TRUE(weights) << weights.error().ToString();
    for (const float bad : {std::nanf(""), HUGE_VALF}) {
      std::vector<float> x = Random(5).Floats(2 * layer.in);
      x[150] = bad;
      for (const Activation activation :
           {Activation::kNone, Activation::kRelu, Activation::kGeluTanh, Activation::kSilu}) {
        const std::vector<float> y = RunLinear(*device, **weights, x, 2, activation);
        const bool visible =
            std::any_of(y.begin(), y.begin() + layer.out, [](float v) { return !std::isfinite(v); });
        EXPECT_TRUE(visible) << DTypeName(dtype) << " activation " << static_cast<int>(activation);
        EXPECT_TRUE(std::isfinite(y[static_cast<std::size_t>(layer.out)])) << "the other row is untouched";
      }
    }
  }
}

TEST_P(LinearTest, ResidualMayBeTheOutputAndStridesLeaveGapsAlone) {
  const auto device = MakeDevice();
  const Layer layer(19, 33);
  const auto weights = device->PackLinear(layer.Source(false), DType::kF32);
  ASSERT_TRUE(weights) << weights.error().ToString();
  const std::int64_t rows = 5;
  const std::int64_t stride = 23;
  const std::vector<float> x = Random(3).Floats(rows * layer.in);
  const std::vector<float> plain = RunLinear(*device, **weights, x, rows);
  const std::vector<float> before = Random(4).Floats(rows * stride);
  std::vector<float> y = before;
  device->Linear({.weights = weights->get(),
                  .x = x.data(),
                  .x_stride = layer.in,
                  .y = y.data(),
                  .y_stride = stride,
                  .rows = rows,
                  .residual = y.data(),
                  .residual_stride = stride});
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < stride; ++c) {
      const auto at = static_cast<std::size_t>(r * stride + c);
      const float expected =
          c < layer.out ? plain[static_cast<std::size_t>(r * layer.out + c)] + before[at] : before[at];
      EXPECT_EQ(y[at], expected) << r << ", " << c;
    }
  }
}

TEST_P(LinearTest, PacksRowRangesOfEverySourceType) {
  const auto device = MakeDevice();
  for (const DType source_type : {DType::kF32, DType::kF16, DType::kBF16}) {
    const Layer a(20, 37, source_type);
    const Layer b(9, 37, source_type);
    const LinearSource source{.out_features = 18,
                              .in_features = 37,
                              .weight = {{&a.weight.view(), 5, 11}, {&b.weight.view(), 2, 7}},
                              .bias = {{&a.bias.view(), 5, 11}, {&b.bias.view(), 2, 7}}};
    const auto joined = device->PackLinear(source, DType::kF32);
    ASSERT_TRUE(joined) << joined.error().ToString();
    const auto whole_a = device->PackLinear(a.Source(), DType::kF32);
    const auto whole_b = device->PackLinear(b.Source(), DType::kF32);
    const std::vector<float> x = Random(6).Floats(37);
    const std::vector<float> y = RunLinear(*device, **joined, x, 1);
    const std::vector<float> y_a = RunLinear(*device, **whole_a, x, 1);
    const std::vector<float> y_b = RunLinear(*device, **whole_b, x, 1);
    EXPECT_TRUE(SameBits(y.data(), y_a.data() + 5, 11));
    EXPECT_TRUE(SameBits(y.data() + 11, y_b.data() + 2, 7));

    const std::vector<std::int32_t> ids = {0, 11};  // the first row of each part, as the tensors hold them
    std::vector<float> rows(2 * 37);
    device->Embed(**joined, ids, rows.data(), 37);
    EXPECT_TRUE(SameBits(rows.data(), a.weight.values().data() + std::ptrdiff_t{5} * 37, 37));
    EXPECT_TRUE(SameBits(rows.data() + 37, b.weight.values().data() + std::ptrdiff_t{2} * 37, 37));
  }
}

// Tensors that are [in, out] give the same bytes as the same numbers the other way round, whatever is cut
// out.
TEST_P(LinearTest, PacksTransposedTensors) {
  const auto device = MakeDevice();
  for (const DType source_type : {DType::kF32, DType::kF16, DType::kBF16}) {
    const Layer plain(41, 37, source_type);
    std::vector<float> turned(plain.weight.values().size());
    for (std::size_t o = 0; o < 41; ++o) {
      for (std::size_t k = 0; k < 37; ++k) turned[k * 41 + o] = plain.weight.values()[o * 37 + k];
    }
    const TestTensor transposed({37, 41}, source_type, turned);
    LinearSource source{.out_features = 30,
                        .in_features = 20,
                        .weight = {{&plain.weight.view(), 20, 21}, {&plain.weight.view(), 3, 9}},
                        .first_column = 10,
                        .columns = 37,
                        .bias = {{&plain.bias.view(), 20, 21}, {&plain.bias.view(), 3, 9}}};
    const std::vector<float> in_scale = Random(1).Floats(20);
    const std::vector<float> out_scale = Random(2).Floats(30);
    source.in_scale = in_scale;
    source.out_scale = out_scale;
    for (const DType dtype : kDTypes) {
      const auto expected = device->PackLinear(source, dtype);
      LinearSource other = source;
      other.transposed = true;
      for (RowRange& range : other.weight) range.tensor = &transposed.view();
      const auto packed = device->PackLinear(other, dtype);
      ASSERT_TRUE(packed) << packed.error().ToString();
      const auto bytes = device->Packed(**packed);
      const auto expected_bytes = device->Packed(**expected);
      EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), expected_bytes.begin(), expected_bytes.end()))
          << DTypeName(dtype) << " of " << DTypeName(source_type);
      const LinearPeaks peaks = device->MeasurePeaks(other).value();
      const LinearPeaks expected_peaks = device->MeasurePeaks(source).value();
      EXPECT_EQ(peaks.in, expected_peaks.in);
      EXPECT_EQ(peaks.out, expected_peaks.out);
    }
    source.transposed = true;
    EXPECT_FALSE(device->PackLinear(source, DType::kF32)) << "the tensor lies the other way";
  }
}

TEST_P(LinearTest, EmbedReadsTheRowsThatLinearMultiplies) {
  const auto device = MakeDevice();
  const Layer table(50, 77);
  for (const DType dtype : kDTypes) {
    const auto weights = device->PackLinear(table.Source(false), dtype);
    ASSERT_TRUE(weights) << weights.error().ToString();
    const std::vector<std::int32_t> ids = {49, 0, 16, 15, 16};
    std::vector<float> y(5 * 80, -1.0F);
    device->Embed(**weights, ids, y.data(), 80);
    for (std::size_t r = 0; r < ids.size(); ++r) {
      for (std::size_t c = 0; c < 77; ++c) {
        const float expected = table.weight.values()[static_cast<std::size_t>(ids[r]) * 77 + c];
        // int8: half a step of 1/127 of the largest weight; int4: of 1/15 of a range of 2, and what the
        // search for the best range clamps.
        const float tolerance = dtype == DType::kI8   ? 0.5F / 127
                                : dtype == DType::kI4 ? 2.0F / 15
                                                      : std::fabs(expected) / 256;
        ASSERT_NEAR(y[r * 80 + c], expected, tolerance) << DTypeName(dtype);
        if (dtype == DType::kF32) {
          ASSERT_EQ(y[r * 80 + c], expected);
        }
      }
      EXPECT_EQ(y[r * 80 + 77], -1.0F);
    }
  }
}

// A lone activation is quantised exactly, so a layer hands back its own column.
TEST_P(LinearTest, ALoneActivationReadsTheWeightsThatEmbedReads) {
  const auto device = MakeDevice();
  const Layer layer(35, 140);
  for (const DType dtype : kDTypes) {
    const auto weights = device->PackLinear(layer.Source(false), dtype);
    ASSERT_TRUE(weights) << weights.error().ToString();
    std::vector<std::int32_t> ids(35);
    std::iota(ids.begin(), ids.end(), 0);
    std::vector<float> rows(35 * 140);
    device->Embed(**weights, ids, rows.data(), 140);
    for (const std::size_t k : {0U, 5U, 31U, 32U, 127U, 128U, 139U}) {
      std::vector<float> x(140);
      x[k] = 1.0F;
      const std::vector<float> y = RunLinear(*device, **weights, x, 1);
      for (std::size_t o = 0; o < 35; ++o)
        ASSERT_NEAR(y[o], rows[o * 140 + k], 1e-6F) << DTypeName(dtype) << " " << o << ", " << k;
    }
  }
}

// The error of int4 is what 16 levels chosen well leave: for 32 normal values a plain range leaves about 9%
// of their standard deviation, the search about 8%.
TEST_P(LinearTest, Int4LevelsAreChosenWell) {
  const auto device = MakeDevice();
  Random random(21);
  const std::int64_t out = 64;
  const std::int64_t in = 512;
  std::vector<float> normal;
  for (std::int64_t i = 0; i < out * in; ++i) {
    float sum = 0;
    for (int j = 0; j < 12; ++j) sum += random.Float(0.5F);  // variance 12 · 1/12
    normal.push_back(sum);
  }
  const TestTensor tensor({out, in}, DType::kF32, normal);
  const auto weights = device->PackLinear(
      {.out_features = out, .in_features = in, .weight = {{&tensor.view(), 0, out}}, .bias = {}}, DType::kI4);
  ASSERT_TRUE(weights) << weights.error().ToString();
  std::vector<std::int32_t> ids(64);
  std::iota(ids.begin(), ids.end(), 0);
  std::vector<float> rows(static_cast<std::size_t>(out * in));
  device->Embed(**weights, ids, rows.data(), in);
  double squares = 0;
  for (std::size_t i = 0; i < rows.size(); ++i)
    squares += std::pow(static_cast<double>(rows[i] - normal[i]), 2);
  EXPECT_LT(std::sqrt(squares / static_cast<double>(rows.size())), 0.085);
}

BLOOMERY_FOR_EACH_ISA(LinearTest);

}  // namespace
}  // namespace bloomery
