// A linear layer in the packed layout of kernel_table.h: its memory, and the two ways to fill it (from
// checkpoint tensors, from random numbers). Left out: multiplying with it (linear.h).
#pragma once

#include <cstdint>
#include <memory>
#include <utility>

#include "base/result.h"
#include "base/thread_pool.h"
#include "kernels/kernel_table.h"
#include "tensor/aligned_buffer.h"
#include "tensor/device.h"

namespace bloomery {

// Element (k, lane) of a panel, counted in elements; group_k values along K lie side by side in a lane.
inline std::int64_t ElementIndex(std::int64_t k, int lane, int group_k) {
  return (k / group_k * kPanelColumns + lane) * group_k + k % group_k;
}

// Where the parts of a layer lie in its one buffer.
//
//   [ panels: panels · panel_bytes ][ scales: panels · 16 f32, int8 and int4 ][ bias: panels · 16 f32, if any
//   ]
struct PackedShape {
  std::int64_t out_features = 0;
  std::int64_t in_features = 0;
  DType dtype = DType::kF32;
  bool has_bias = false;

  // Derived.
  KernelType type = kTypeF32;
  std::int64_t panels = 0;
  std::int64_t k_padded = 0;     // in_features rounded up to the layout's group along K
  std::int64_t group_k = 1;      // values along K that are packed together
  std::int64_t group_bytes = 0;  // that they take in one panel
  std::uint64_t panel_bytes = 0;
  std::uint64_t scales_offset = 0;
  std::uint64_t bias_offset = 0;
  std::uint64_t total_bytes = 0;

  // Integer weights with scales, multiplied by quantised activations.
  bool quantised() const { return type == kTypeI8 || type == kTypeI4; }
  // Where value k along K begins in a panel; k is a multiple of group_k.
  std::int64_t PanelOffset(std::int64_t k) const { return k / group_k * group_bytes; }
};

// kInvalidArgument for a feature count below 1 or a dtype that has no packed layout, kTooLarge where sizes
// overflow.
Result<PackedShape> MakePackedShape(std::int64_t out_features, std::int64_t in_features, bool has_bias,
                                    DType dtype);

// Immutable once handed out.
class PackedLinear final : public LinearWeights {
 public:
  // All zeros. kOutOfMemory.
  static Result<std::unique_ptr<PackedLinear>> Allocate(const PackedShape& shape);
  // Device::MapLinear.
  static Result<std::unique_ptr<PackedLinear>> Map(const MappedLinear& mapped);

  std::int64_t out_features() const override { return shape_.out_features; }
  std::int64_t in_features() const override { return shape_.in_features; }
  DType dtype() const override { return shape_.dtype; }
  std::uint64_t size_bytes() const override { return shape_.total_bytes; }

  const PackedShape& shape() const { return shape_; }
  // All of the layer, unless it is mapped.
  std::span<const std::byte> bytes() const { return {buffer_.data(), buffer_.size_bytes()}; }
  // Panels follow each other.
  const std::byte* panel(std::int64_t index) const {
    return panels_ + static_cast<std::uint64_t>(index) * shape_.panel_bytes;
  }
  // [panels · 16], null unless int8 or int4.
  const float* scales() const { return scales_; }
  // [panels · 16], null without bias.
  const float* bias() const { return bias_; }
  // The same for whoever fills a layer that was allocated.
  std::byte* panel(std::int64_t index) { return const_cast<std::byte*>(std::as_const(*this).panel(index)); }
  float* scales() { return const_cast<float*>(scales_); }
  float* bias() { return const_cast<float*>(bias_); }
  // Row `feature` as f32, [in_features].
  void ReadRow(std::int64_t feature, float* out) const;

 private:
  explicit PackedLinear(const PackedShape& shape) : shape_(shape) {}

  // Points at rows from `first_row` on of the layer `whole` at `base`.
  void PointAt(const PackedShape& whole, const std::byte* base, std::int64_t first_row);

  PackedShape shape_;
  AlignedBuffer buffer_;               // what is pointed at, or empty and
  std::shared_ptr<const void> owner_;  // somebody else's
  const std::byte* panels_ = nullptr;
  const float* scales_ = nullptr;
  const float* bias_ = nullptr;
};

// kInvalidArgument where the ranges do not give [out_features, in_features]; kUnsupported for a source dtype
// other than f32, f16, bf16; kCorrupt for a tensor with fewer bytes than its shape; kOutOfMemory.
Result<std::unique_ptr<PackedLinear>> PackFromSource(ThreadPool& pool, const KernelTable& kernels,
                                                     const LinearSource& source, DType dtype);

// Device::MeasurePeaks.
Result<LinearPeaks> PeaksOfSource(ThreadPool& pool, const KernelTable& kernels, const LinearSource& source);

// Device::RandomLinear.
Result<std::unique_ptr<PackedLinear>> PackRandom(ThreadPool& pool, std::int64_t out_features,
                                                 std::int64_t in_features, bool has_bias, DType dtype,
                                                 float stddev, std::uint64_t seed);

}  // namespace bloomery
