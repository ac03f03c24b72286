#include "kernels/cpu_device.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>

#include "kernels/attention.h"
#include "kernels/bandwidth.h"
#include "kernels/joined_linear.h"
#include "kernels/kernel_table.h"
#include "kernels/kv_cache.h"
#include "kernels/linear.h"
#include "kernels/memory.h"
#include "kernels/packed_linear.h"
#include "tensor/argmax.h"

namespace bloomery {
namespace {

static_assert(static_cast<int>(Activation::kNone) == kActNone &&
              static_cast<int>(Activation::kRelu) == kActRelu &&
              static_cast<int>(Activation::kGeluTanh) == kActGeluTanh &&
              static_cast<int>(Activation::kGeluErf) == kActGeluErf &&
              static_cast<int>(Activation::kSilu) == kActSilu);

// Far more than any machine has cores; a wrong flag fails here rather than in the thread library.
constexpr int kMaxThreads = 4096;

// Values that a thread should at least get before others are woken for a row operation.
constexpr std::int64_t kRowOpElements = 16 << 10U;
// Values that take as long as one sine and one cosine.
constexpr std::int64_t kAngleElements = 32;

const KernelTable& TableOf(Isa isa) {
  switch (isa) {
    case Isa::kAvx2:
      return kAvx2Kernels;
    case Isa::kAvx512:
      return kAvx512Kernels;
    case Isa::kVnni:
      return kVnniKernels;
    case Isa::kAmx:
      return kAmxKernels;
    case Isa::kRef:
      break;
  }
  return kRefKernels;
}

class CpuDevice final : public Device {
 public:
  CpuDevice(Isa isa, int threads)
      : isa_(isa),
        kernels_(TableOf(isa)),
        pool_(threads),
        linear_(pool_, kernels_),
        attention_(pool_, kernels_) {}

  std::string Describe() const override {
    return fmt::format("cpu {}, {} {}", IsaName(isa_), threads(), threads() == 1 ? "thread" : "threads");
  }
  int threads() const override { return pool_.threads(); }

  Result<AlignedBuffer> Allocate(std::size_t size_bytes) override {
    return AllocateChecked(size_bytes, "device memory");
  }

  Result<std::unique_ptr<LinearWeights>> PackLinear(const LinearSource& source, DType dtype) override {
    return Reserved(PackFromSource(pool_, kernels_, source, dtype));
  }

  Result<LinearPeaks> MeasurePeaks(const LinearSource& source) override {
    return PeaksOfSource(pool_, kernels_, source);
  }

  Result<std::unique_ptr<LinearWeights>> RandomLinear(std::int64_t out_features, std::int64_t in_features,
                                                      bool has_bias, DType dtype, float stddev,
                                                      std::uint64_t seed) override {
    return Reserved(PackRandom(pool_, out_features, in_features, has_bias, dtype, stddev, seed));
  }

  std::uint64_t PackedBytes(std::int64_t out_features, std::int64_t in_features, bool has_bias,
                            DType dtype) const override {
    const auto shape = MakePackedShape(out_features, in_features, has_bias, dtype);
    return shape ? shape->total_bytes : std::numeric_limits<std::uint64_t>::max();
  }

  std::string PackedLayout() const override { return "panels-16"; }

  std::span<const std::byte> Packed(const LinearWeights& weights) const override {
    return static_cast<const PackedLinear&>(weights).bytes();
  }

  Result<std::unique_ptr<LinearWeights>> MapLinear(const MappedLinear& mapped) override {
    return Reserved(PackedLinear::Map(mapped));
  }

  std::unique_ptr<LinearWeights> JoinLinear(std::vector<std::unique_ptr<LinearWeights>> pieces,
                                            JoinedBy by) override {
    if (pieces.size() == 1) return std::move(pieces.front());
    return std::make_unique<JoinedLinear>(std::move(pieces), by);
  }

  void Linear(const LinearArgs& args) override {
    if (args.weights->pieces().empty()) {
      linear_.Run(args);
      return;
    }
    const bool by_inputs = static_cast<const JoinedLinear&>(*args.weights).by() == JoinedBy::kInputs;
    LinearArgs piece = args;
    for (const auto& weights : args.weights->pieces()) {
      piece.weights = weights.get();
      Linear(piece);
      if (by_inputs) {
        assert(args.activation == Activation::kNone);
        piece.x += weights->in_features();
        piece.residual = piece.y;
        piece.residual_stride = piece.y_stride;
      } else {
        piece.y += weights->out_features();
        if (piece.residual != nullptr) piece.residual += weights->out_features();
      }
    }
  }

  void Embed(const LinearWeights& table, std::span<const std::int32_t> ids, float* y,
             std::int64_t y_stride) override {
    ForRows(static_cast<std::int64_t>(ids.size()), table.in_features(), [&](std::int64_t row) {
      const std::int32_t id = ids[static_cast<std::size_t>(row)];
      assert(id >= -1 && id < table.out_features());
      if (id < 0) {
        std::fill_n(y + row * y_stride, table.in_features(), 0.0F);
      } else {
        ReadRow(table, id, y + row * y_stride);
      }
    });
  }

  void AddRows(const float* table, std::span<const std::int32_t> index, std::int64_t cols, float* y,
               std::int64_t y_stride) override {
    ForRows(static_cast<std::int64_t>(index.size()), cols, [&](std::int64_t row) {
      const float* from = table + index[static_cast<std::size_t>(row)] * cols;
      float* to = y + row * y_stride;
      for (std::int64_t c = 0; c < cols; ++c) to[c] += from[c];
    });
  }

  void LayerNorm(const float* x, std::int64_t x_stride, std::int64_t rows, std::int64_t cols,
                 const float* gain, const float* bias, float eps, float* y, std::int64_t y_stride) override {
    ForRows(rows, cols, [&](std::int64_t row) {
      kernels_.layer_norm_row({.x = x + row * x_stride,
                               .y = y + row * y_stride,
                               .columns = cols,
                               .gain = gain,
                               .bias = bias,
                               .eps = eps});
    });
  }

  void RmsNorm(const float* x, std::int64_t x_stride, std::int64_t rows, std::int64_t cols, const float* gain,
               float eps, float* y, std::int64_t y_stride) override {
    ForRows(rows, cols, [&](std::int64_t row) {
      kernels_.rms_norm_row(
          {.x = x + row * x_stride, .y = y + row * y_stride, .columns = cols, .gain = gain, .eps = eps});
    });
  }

  void Gate(const float* x, std::int64_t x_stride, std::int64_t rows, std::int64_t cols,
            Activation activation, float* y, std::int64_t y_stride) override {
    ForRows(rows, 2 * cols, [&](std::int64_t row) {
      const float* gate = x + row * x_stride;
      kernels_.gate_row({.gate = gate,
                         .up = gate + cols,
                         .y = y + row * y_stride,
                         .columns = cols,
                         .activation = static_cast<int>(activation)});
    });
  }

  void RotaryAngles(std::span<const float> frequencies, std::span<const std::int32_t> positions,
                    float* angles) override {
    const auto pairs = static_cast<std::int64_t>(frequencies.size());
    ForRows(static_cast<std::int64_t>(positions.size()), pairs * kAngleElements, [&](std::int64_t row) {
      float* cosines = angles + row * 2 * pairs;
      for (std::int64_t i = 0; i < pairs; ++i) {
        const float angle = static_cast<float>(positions[static_cast<std::size_t>(row)]) *
                            frequencies[static_cast<std::size_t>(i)];
        cosines[i] = std::cos(angle);
        cosines[pairs + i] = std::sin(angle);
      }
    });
  }

  void Rotate(const RotateArgs& args) override {
    assert(2 * args.pairs <= args.head_dim);
    ForRows(args.rows, args.heads * args.head_dim, [&](std::int64_t row) {
      const float* cosines = args.angles + row * 2 * args.pairs;
      kernels_.rotate_row({.x = args.x + row * args.x_stride,
                           .heads = args.heads,
                           .head_dim = args.head_dim,
                           .cosines = cosines,
                           .sines = cosines + args.pairs,
                           .pairs = args.pairs});
    });
  }

  void GatherRows(const float* x, std::int64_t x_stride, std::span<const std::int32_t> rows,
                  std::int64_t cols, float* out, std::int64_t out_stride) override {
    ForRows(static_cast<std::int64_t>(rows.size()), cols, [&](std::int64_t row) {
      std::copy_n(x + rows[static_cast<std::size_t>(row)] * x_stride, cols, out + row * out_stride);
    });
  }

  void ArgmaxRows(const float* x, std::int64_t x_stride, std::int64_t cols,
                  std::span<std::int32_t> best) override {
    ForRows(static_cast<std::int64_t>(best.size()), cols, [&](std::int64_t row) {
      best[static_cast<std::size_t>(row)] = Argmax({x + row * x_stride, static_cast<std::size_t>(cols)});
    });
  }

  Result<std::unique_ptr<KvCache>> AllocateKvCache(const KvCacheShape& shape, std::int64_t blocks) override {
    ASSIGN_OR_RETURN(auto cache, PagedKvCache::Make(shape, blocks, threads()));
    return cache;
  }

  void StoreKv(KvCache& cache, int layer, const float* k, const float* v, std::int64_t stride,
               std::span<const SequenceSlice> slices) override {
    StoreKvRows(pool_, kernels_, static_cast<PagedKvCache&>(cache), layer, k, v, stride, slices);
  }

  void Attention(const AttentionArgs& args) override { attention_.Run(args); }

  void CopyKvBlock(KvCache& cache, std::int32_t from, std::int32_t to) override {
    CopyBlock(pool_, static_cast<PagedKvCache&>(cache), from, to);
  }

  double MeasureReadBandwidth(std::span<const LinearWeights* const> weights, int budget_ms) override {
    return MeasureReadBytesPerSecond(pool_, kernels_, weights, budget_ms);
  }

 private:
  static void ReadRow(const LinearWeights& table, std::int64_t row, float* out) {
    for (const auto& piece : table.pieces()) {
      if (row < piece->out_features()) return ReadRow(*piece, row, out);
      row -= piece->out_features();
    }
    static_cast<const PackedLinear&>(table).ReadRow(row, out);
  }

  // New weights, once the scratch memory that multiplying with them needs is there.
  Result<std::unique_ptr<LinearWeights>> Reserved(Result<std::unique_ptr<PackedLinear>> packed) {
    if (!packed) return std::unexpected(std::move(packed).error());
    RETURN_IF_ERROR(linear_.Reserve((*packed)->shape()));
    return *std::move(packed);
  }

  // body(row) for each row, on several threads where there is enough to do.
  template <typename Body>
  void ForRows(std::int64_t rows, std::int64_t cols, Body body) {
    const std::int64_t grain = std::max<std::int64_t>(1, kRowOpElements / std::max<std::int64_t>(1, cols));
    pool_.ParallelFor(rows, grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) body(row);
    });
  }

  const Isa isa_;
  const KernelTable& kernels_;
  ThreadPool pool_;
  LinearRunner linear_;
  AttentionRunner attention_;
};

}  // namespace

Result<std::unique_ptr<Device>> MakeCpuDevice(const CpuDeviceOptions& options) {
  if (options.threads < 0 || options.threads > kMaxThreads) {
    return Fail(ErrorCode::kInvalidArgument, "threads: expected 0 (every core) to {}, got {}", kMaxThreads,
                options.threads);
  }
  ASSIGN_OR_RETURN(const Isa isa, ChooseIsa(options.isa));
  return std::make_unique<CpuDevice>(isa, options.threads);
}

}  // namespace bloomery
