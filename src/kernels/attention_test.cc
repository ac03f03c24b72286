// Attention over the paged cache against softmax in double precision, and the promise that a row's result
// depends neither on how its sequence was cut into steps nor on where its blocks lie.
#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <vector>

#include "kernels/test_util.h"

namespace bloomery {
namespace {

// Outputs are averages of values in [−1, 1). f32 scores and weights; the 16-bit caches are compared with what
// they hold after rounding, so their tolerance is the same.
constexpr double kTolerance = 5e-6;

struct Case {
  int heads = 4;
  int kv_heads = 2;
  int head_dim = 20;
  DType dtype = DType::kF32;
  bool alibi = true;
};

struct Sequence {
  Sequence(const Case& c, std::int64_t count, std::uint64_t seed)
      : tokens(count),
        q(Random(seed).Floats(count * c.heads * c.head_dim, 2.0F)),
        k(Random(seed + 1).Floats(count * c.kv_heads * c.head_dim, 2.0F)),
        v(Random(seed + 2).Floats(count * c.kv_heads * c.head_dim)) {}

  std::int64_t tokens;
  std::vector<float> q;  // [tokens, heads · head_dim]
  std::vector<float> k;  // [tokens, kv_heads · head_dim]
  std::vector<float> v;
};

// Element d of a head's key or value, as the cache holds it.
float Rounded(const float* head, int head_dim, int d, DType dtype) {
  if (dtype == DType::kF16) return F16ToF32(F32ToF16(head[d]));
  if (dtype == DType::kBF16) return BF16ToF32(F32ToBF16(head[d]));
  if (dtype != DType::kI8) return head[d];
  float absmax = 0;
  for (int i = 0; i < head_dim; ++i) absmax = std::max(absmax, std::fabs(head[i]));
  return std::nearbyint(head[d] * (127.0F / absmax)) * (absmax / 127.0F);
}

std::vector<float> Slopes(const Case& c) {
  std::vector<float> slopes(static_cast<std::size_t>(c.heads));
  for (std::size_t h = 0; h < slopes.size(); ++h) slopes[h] = std::exp2(-static_cast<float>(h + 1));
  return slopes;
}

float Scale(const Case& c) { return 1.0F / std::sqrt(static_cast<float>(c.head_dim)); }

// Row `row` of the attention's output in double precision, [heads · head_dim].
std::vector<double> Expected(const Case& c, const Sequence& s, std::int64_t row) {
  const std::vector<float> slopes = Slopes(c);
  std::vector<double> out;
  for (int head = 0; head < c.heads; ++head) {
    const int kv_head = head / (c.heads / c.kv_heads);
    const auto kv_at = [&](std::int64_t key, int d) {
      return static_cast<std::size_t>((key * c.kv_heads + kv_head) * c.head_dim + d);
    };
    std::vector<double> weights;
    for (std::int64_t key = 0; key <= row; ++key) {
      double dot = 0;
      for (int d = 0; d < c.head_dim; ++d) {
        dot += static_cast<double>(s.q[static_cast<std::size_t>((row * c.heads + head) * c.head_dim + d)]) *
               static_cast<double>(Rounded(&s.k[kv_at(key, 0)], c.head_dim, d, c.dtype));
      }
      const double bias =
          c.alibi ? static_cast<double>(slopes[static_cast<std::size_t>(head)]) * static_cast<double>(key)
                  : 0;
      weights.push_back(dot * static_cast<double>(Scale(c)) + bias);
    }
    const double largest = *std::max_element(weights.begin(), weights.end());
    for (double& weight : weights) weight = std::exp(weight - largest);
    const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
    for (int d = 0; d < c.head_dim; ++d) {
      double value = 0;
      for (std::int64_t key = 0; key <= row; ++key) {
        value += weights[static_cast<std::size_t>(key)] / sum *
                 static_cast<double>(Rounded(&s.v[kv_at(key, 0)], c.head_dim, d, c.dtype));
      }
      out.push_back(value);
    }
  }
  return out;
}

std::unique_ptr<KvCache> MakeCache(Device& device, const Case& c, std::int64_t blocks, int layers = 2) {
  auto cache = device.AllocateKvCache(
      {.layers = layers, .heads = c.kv_heads, .head_dim = c.head_dim, .dtype = c.dtype}, blocks);
  EXPECT_TRUE(cache) << cache.error().ToString();
  return *std::move(cache);
}

// Runs tokens [first, first + rows) of one sequence as one step in `layer`; appends the outputs to `out`.
void RunStep(Device& device, const Case& c, KvCache& cache, int layer, const Sequence& s,
             const std::vector<std::int32_t>& blocks, std::int64_t first, std::int64_t rows,
             std::vector<float>& out) {
  const std::int64_t q_stride = static_cast<std::int64_t>(c.heads) * c.head_dim;
  const std::int64_t kv_stride = static_cast<std::int64_t>(c.kv_heads) * c.head_dim;
  const SequenceSlice slice{.blocks = blocks.data(), .first_row = 0, .rows = rows, .first_position = first};
  device.StoreKv(cache, layer, s.k.data() + first * kv_stride, s.v.data() + first * kv_stride, kv_stride,
                 {&slice, 1});
  const std::vector<float> slopes = Slopes(c);
  std::vector<float> y(static_cast<std::size_t>(rows * q_stride));
  device.Attention({.cache = &cache,
                    .layer = layer,
                    .heads = c.heads,
                    .q = s.q.data() + first * q_stride,
                    .q_stride = q_stride,
                    .out = y.data(),
                    .out_stride = q_stride,
                    .scale = Scale(c),
                    .alibi_slopes = c.alibi ? slopes.data() : nullptr,
                    .slices = {&slice, 1}});
  out.insert(out.end(), y.begin(), y.end());
}

// Block tables that do not overlap: sequence i of n takes every n-th block, from the end backwards.
std::vector<std::int32_t> BlockTable(std::int64_t tokens, int index, int sequences, std::int64_t blocks) {
  std::vector<std::int32_t> table;
  for (std::int64_t b = 0; b * kKvBlockTokens < tokens; ++b) {
    table.push_back(static_cast<std::int32_t>(blocks - 1 - index - b * sequences));
  }
  return table;
}

void ExpectRow(const Case& c, const Sequence& s, const std::vector<float>& out, std::int64_t row) {
  const std::vector<double> expected = Expected(c, s, row);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    ASSERT_NEAR(static_cast<double>(out[static_cast<std::size_t>(row) * expected.size() + i]), expected[i],
                kTolerance)
        << "row " << row << " element " << i << " head_dim " << c.head_dim << " " << DTypeName(c.dtype);
  }
}

class AttentionTest : public IsaTest {};

TEST_P(AttentionTest, AgreesWithDoublePrecision) {
  const auto device = MakeDevice();
  for (const int head_dim : {1, 12, 16, 20, 64, 80}) {
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kI8}) {
      const Case c{.head_dim = head_dim, .dtype = dtype, .alibi = head_dim != 64};
      const Sequence s(c, 150, static_cast<std::uint64_t>(head_dim));
      const auto cache = MakeCache(*device, c, 10);
      const std::vector<std::int32_t> blocks = BlockTable(s.tokens, 0, 1, 10);
      std::vector<float> out;
      RunStep(*device, c, *cache, 1, s, blocks, 0, s.tokens, out);
      for (const std::int64_t row : {0, 1, 15, 16, 17, 127, 128, 149}) ExpectRow(c, s, out, row);
    }
  }
}

TEST_P(AttentionTest, BitsDependNeitherOnChunksNorOnBlocksNorOnThreads) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kI8}) {
    const Case c{.head_dim = 36, .dtype = dtype};
    const Sequence s(c, 300, 5);
    std::vector<float> whole;
    for (const int threads : {1, 2, 3}) {
      const auto device = MakeDevice(threads);
      const auto cache = MakeCache(*device, c, 40);
      const std::vector<std::int32_t> blocks = BlockTable(s.tokens, threads, 2, 40);
      std::vector<float> out;
      RunStep(*device, c, *cache, 0, s, blocks, 0, s.tokens, out);
      if (whole.empty()) whole = out;
      ASSERT_TRUE(SameBits(out.data(), whole.data(), static_cast<std::int64_t>(whole.size()))) << threads;
      for (const std::int64_t chunk : {1, 7, 16, 100}) {
        out.clear();
        for (std::int64_t first = 0; first < s.tokens; first += chunk) {
          RunStep(*device, c, *cache, 0, s, blocks, first, std::min(chunk, s.tokens - first), out);
        }
        ASSERT_TRUE(SameBits(out.data(), whole.data(), static_cast<std::int64_t>(whole.size())))
            << "chunks of " << chunk << ", " << threads << " threads, " << DTypeName(dtype);
      }
    }
  }
}

TEST_P(AttentionTest, SequencesOfOneStepDoNotMixAndStaleSlotsDoNotShow) {
  const Case c{.head_dim = 24};
  const auto device = MakeDevice();
  const auto cache = MakeCache(*device, c, 12, 1);
  const auto clean = MakeCache(*device, c, 12, 1);
  // What an earlier sequence left behind in every slot.
  Sequence stale(c, 192, 1);
  std::fill(stale.k.begin(), stale.k.end(), std::numeric_limits<float>::quiet_NaN());
  std::fill(stale.v.begin(), stale.v.end(), std::numeric_limits<float>::infinity());
  std::vector<float> ignored;
  RunStep(*device, c, *cache, 0, stale, BlockTable(192, 0, 1, 12), 0, 192, ignored);

  const Sequence a(c, 50, 2);
  const Sequence b(c, 37, 3);
  const std::vector<std::int32_t> table_a = BlockTable(a.tokens, 0, 2, 12);
  const std::vector<std::int32_t> table_b = BlockTable(b.tokens, 1, 2, 12);
  std::vector<float> alone;
  RunStep(*device, c, *clean, 0, a, table_a, 0, a.tokens, alone);
  RunStep(*device, c, *clean, 0, b, table_b, 0, b.tokens, alone);

  Sequence both = a;
  both.tokens += b.tokens;
  both.q.insert(both.q.end(), b.q.begin(), b.q.end());
  both.k.insert(both.k.end(), b.k.begin(), b.k.end());
  both.v.insert(both.v.end(), b.v.begin(), b.v.end());
  const SequenceSlice slices[] = {
      {.blocks = table_a.data(), .first_row = 0, .rows = a.tokens, .first_position = 0},
      {.blocks = table_b.data(), .first_row = a.tokens, .rows = b.tokens, .first_position = 0}};
  const std::int64_t q_stride = std::int64_t{4} * 24;
  device->StoreKv(*cache, 0, both.k.data(), both.v.data(), std::int64_t{2} * 24, slices);
  const std::vector<float> slopes = Slopes(c);
  std::vector<float> out(both.q.size());
  device->Attention({.cache = cache.get(),
                     .heads = 4,
                     .q = both.q.data(),
                     .q_stride = q_stride,
                     .out = out.data(),
                     .out_stride = q_stride,
                     .scale = Scale(c),
                     .alibi_slopes = slopes.data(),
                     .slices = slices});
  EXPECT_TRUE(SameBits(out.data(), alone.data(), static_cast<std::int64_t>(alone.size())));
}

TEST_P(AttentionTest, ACopiedBlockServesAForkedSequence) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kI8}) {
    const Case c{.head_dim = 12, .dtype = dtype};
    const auto device = MakeDevice();
    const auto cache = MakeCache(*device, c, 6);
    const Sequence s(c, 21, 4);
    const std::vector<std::int32_t> blocks = {3, 1};
    for (const int layer : {0, 1}) {
      std::vector<float> original;
      RunStep(*device, c, *cache, layer, s, blocks, 0, 20, original);
    }
    device->CopyKvBlock(*cache, 1, 5);
    for (const int layer : {0, 1}) {
      std::vector<float> original;
      std::vector<float> forked;
      RunStep(*device, c, *cache, layer, s, blocks, 20, 1, original);
      RunStep(*device, c, *cache, layer, s, {3, 5}, 20, 1, forked);
      EXPECT_TRUE(SameBits(forked.data(), original.data(), static_cast<std::int64_t>(original.size())));
    }
  }
}

TEST_P(AttentionTest, FarKeysAndLargeScoresStayFinite) {
  const Case c{.heads = 1, .kv_heads = 1, .head_dim = 8};
  const auto device = MakeDevice();
  Sequence s(c, 400, 6);
  for (float& value : s.q) value *= 200.0F;
  const auto cache = MakeCache(*device, c, 25);
  std::vector<float> out;
  RunStep(*device, c, *cache, 0, s, BlockTable(s.tokens, 0, 1, 25), 0, s.tokens, out);
  for (const float value : out) ASSERT_TRUE(std::isfinite(value));
  for (const std::int64_t row : {0, 130, 399}) {
    // Scores reach thousands, so their f32 rounding (2⁻²⁴ · 2000) shows in the weights.
    const std::vector<double> expected = Expected(c, s, row);
    for (std::size_t d = 0; d < 8; ++d) {
      EXPECT_NEAR(static_cast<double>(out[static_cast<std::size_t>(row) * 8 + d]), expected[d], 1e-3);
    }
  }
}

BLOOMERY_FOR_EACH_ISA(AttentionTest);

TEST(KvCacheTest, HostileSizesAreErrors) {
  const auto device = MakeCpuDevice({.threads = 1});
  ASSERT_TRUE(device);
  const auto make = [&](KvCacheShape shape, std::int64_t blocks) {
    auto cache = (*device)->AllocateKvCache(shape, blocks);
    return cache ? std::string("made") : std::string(ErrorCodeName(cache.error().code));
  };
  const int most = std::numeric_limits<int>::max();
  const KvCacheShape good{.layers = 2, .heads = 2, .head_dim = 4};
  EXPECT_EQ(make(good, 1), "made");
  EXPECT_EQ(make(good, 0), "invalid_argument");
  EXPECT_EQ(make({.layers = 0, .heads = 2, .head_dim = 4}, 1), "invalid_argument");
  EXPECT_EQ(make({.layers = 1, .heads = -2, .head_dim = 4}, 1), "invalid_argument");
  EXPECT_EQ(make({.layers = 1, .heads = 2, .head_dim = 4, .dtype = DType::kI4}, 1), "invalid_argument");
  EXPECT_EQ(make({.layers = most, .heads = most, .head_dim = most}, 1), "too_large");
  EXPECT_EQ(make(good, std::numeric_limits<std::int64_t>::max()), "too_large");
  const auto huge = (*device)->AllocateKvCache(good, std::int64_t{1} << 40U);
  ASSERT_FALSE(huge);
  EXPECT_EQ(huge.error().code, ErrorCode::kOutOfMemory);
  EXPECT_NE(huge.error().message.find("bytes are missing"), std::string::npos) << huge.error().message;
}

}  // namespace
}  // namespace bloomery
