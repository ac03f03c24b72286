#include "kernels/kv_cache.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <cstring>
#include <optional>
#include <vector>

#include "base/system.h"
#include "kernels/memory.h"
#include "kernels/round.h"

namespace bloomery {
namespace {

static_assert(kKvTokens == kKvBlockTokens);

// A value vector at the end of the last block may be read to the next multiple of 16 elements.
constexpr std::uint64_t kSlackBytes = kPanelColumns * sizeof(float);

std::uint64_t ScratchFloats(int head_dim) {
  return (static_cast<std::uint64_t>(head_dim) + kPanelColumns - 1) / kPanelColumns * kPanelColumns *
         kAttentionRows;
}

// Bytes of all keys (or all values) with slack; nothing where they overflow.
std::optional<std::uint64_t> SideBytes(const KvCacheShape& shape, std::int64_t blocks,
                                       std::uint64_t block_bytes) {
  const auto layer = CheckedMul(block_bytes, static_cast<std::uint64_t>(blocks));
  const auto side = layer ? CheckedMul(*layer, static_cast<std::uint64_t>(shape.layers)) : std::nullopt;
  return side ? CheckedAdd(*side, kSlackBytes) : std::nullopt;
}

}  // namespace

Result<std::unique_ptr<PagedKvCache>> PagedKvCache::Make(const KvCacheShape& shape, std::int64_t blocks,
                                                         int threads) {
  if (shape.layers < 1 || shape.heads < 1 || shape.head_dim < 1 || blocks < 1) {
    return Fail(ErrorCode::kInvalidArgument,
                "[kv cache] expected positive sizes, got {} layers, {} heads, {} head dim, {} blocks",
                shape.layers, shape.heads, shape.head_dim, blocks);
  }
  if (shape.dtype != DType::kF32 && shape.dtype != DType::kF16 && shape.dtype != DType::kBF16 &&
      shape.dtype != DType::kI8) {
    return Fail(ErrorCode::kInvalidArgument, "[kv cache] expected f32, f16, bf16 or int8, got {}",
                DTypeName(shape.dtype));
  }
  const std::uint64_t head_bytes = shape.HeadBytes() * kKvTokens;
  const auto block_bytes = CheckedMul(head_bytes, static_cast<std::uint64_t>(shape.heads));
  const auto side = block_bytes ? SideBytes(shape, blocks, *block_bytes) : std::nullopt;
  const auto total = side ? CheckedMul(*side, 2) : std::nullopt;
  if (!total) return Fail(ErrorCode::kTooLarge, "[kv cache] the size of {} blocks overflows", blocks);
  if (const std::uint64_t available = AvailableMemoryBytes(); *total > available) {
    return Fail(ErrorCode::kOutOfMemory,
                "[kv cache] {} blocks need {} bytes, {} are available: {} bytes are missing", blocks, *total,
                available, *total - available);
  }
  auto cache = std::unique_ptr<PagedKvCache>(new PagedKvCache(shape, blocks));
  cache->head_bytes_ = head_bytes;
  cache->block_bytes_ = *block_bytes;
  ASSIGN_OR_RETURN(cache->keys_, AlignedBuffer::Allocate(*side));
  ASSIGN_OR_RETURN(cache->values_, AlignedBuffer::Allocate(*side));
  ASSIGN_OR_RETURN(cache->scratch_, AlignedBuffer::Allocate(ScratchFloats(shape.head_dim) * sizeof(float) *
                                                            static_cast<std::uint64_t>(threads)));
  return cache;
}

KernelType KernelTypeOf(const PagedKvCache& cache) {
  switch (cache.shape().dtype) {
    case DType::kF16:
      return kTypeF16;
    case DType::kBF16:
      return kTypeBF16;
    case DType::kI8:
      return kTypeI8;
    default:
      return kTypeF32;
  }
}

float* PagedKvCache::scratch(int thread) const {
  return scratch_.as<float>() + ScratchFloats(shape_.head_dim) * static_cast<std::uint64_t>(thread);
}

namespace {

// Where token `position` of a sequence lies: its block, and its place in it.
struct Place {
  std::uint64_t block_offset;  // bytes from the layer's start
  std::int64_t token;
};

Place PlaceOf(const PagedKvCache& cache, const SequenceSlice& slice, std::int64_t position) {
  const std::int32_t block = slice.blocks[position / kKvTokens];
  assert(block >= 0 && block < cache.blocks());
  return {static_cast<std::uint64_t>(block) * cache.block_bytes(), position % kKvTokens};
}

template <typename Element>
void ScatterHead(const Element* k, const Element* v, int head_dim, std::int64_t token, std::byte* keys,
                 std::byte* values) {
  auto* key_slots = reinterpret_cast<Element*>(keys) + token;
  for (int d = 0; d < head_dim; ++d) key_slots[d * kKvTokens] = k[d];
  std::memcpy(values + static_cast<std::size_t>(token * head_dim) * sizeof(Element), v,
              static_cast<std::size_t>(head_dim) * sizeof(Element));
}

// One head of one token in the 16-bit types, piece by piece through buffers on the stack.
template <typename Convert>
void StoreHalfHead(const float* k, const float* v, int head_dim, std::int64_t token, std::byte* keys,
                   std::byte* values, Convert convert) {
  constexpr int kPiece = 256;
  std::array<std::uint16_t, kPiece> bits;
  auto* key_slots = reinterpret_cast<std::uint16_t*>(keys) + token;
  auto* value_slots = reinterpret_cast<std::uint16_t*>(values) + token * head_dim;
  for (int begin = 0; begin < head_dim; begin += kPiece) {
    const int count = std::min(kPiece, head_dim - begin);
    convert(k + begin, count, bits.data());
    for (int d = 0; d < count; ++d) key_slots[(begin + d) * kKvTokens] = bits[static_cast<std::size_t>(d)];
    convert(v + begin, count, value_slots + begin);
  }
}

// One head's key or value in int8: symmetric, nearest even; slot(d) is where element d goes. A NaN or an
// infinity makes the scale NaN, so that it reaches the output instead of vanishing. Returns the scale.
template <typename Slot>
float StoreInt8(const float* from, int head_dim, Slot slot) {
  float absmax = 0;
  float poison = 0;
  for (int d = 0; d < head_dim; ++d) {
    absmax = std::max(absmax, std::fabs(from[d]));
    poison += from[d] * 0.0F;
  }
  const float inverse = absmax > kQuantFloor && poison == 0 ? 127.0F / absmax : 0.0F;
  for (int d = 0; d < head_dim; ++d) {
    const float value = inverse > 0 ? from[d] * inverse : 0.0F;
    *slot(d) = static_cast<std::int8_t>(RoundNear(value));
  }
  return absmax / 127.0F + poison;
}

void StoreInt8Head(const float* k, const float* v, int head_dim, std::int64_t token, std::byte* keys,
                   std::byte* values) {
  auto* key_slots = reinterpret_cast<std::int8_t*>(keys) + token;
  auto* value_slots = reinterpret_cast<std::int8_t*>(values) + token * head_dim;
  const auto scales_at = static_cast<std::size_t>(head_dim) * kKvTokens;
  reinterpret_cast<float*>(keys + scales_at)[token] =
      StoreInt8(k, head_dim, [=](int d) { return key_slots + d * kKvTokens; });
  reinterpret_cast<float*>(values + scales_at)[token] =
      StoreInt8(v, head_dim, [=](int d) { return value_slots + d; });
}

void ToBF16(const float* from, std::int64_t count, std::uint16_t* to) {
  std::transform(from, from + count, to, F32ToBF16);
}

// Heads [first_head, end_head) of one token.
void StoreToken(const KernelTable& kernels, PagedKvCache& cache, int layer, const Place& place,
                const float* k, const float* v, int first_head, int end_head) {
  const KvCacheShape& shape = cache.shape();
  for (int head = first_head; head < end_head; ++head) {
    const std::uint64_t offset = place.block_offset + static_cast<std::uint64_t>(head) * cache.head_bytes();
    std::byte* keys = cache.keys(layer) + offset;
    std::byte* values = cache.values(layer) + offset;
    const float* head_k = k + static_cast<std::int64_t>(head) * shape.head_dim;
    const float* head_v = v + static_cast<std::int64_t>(head) * shape.head_dim;
    if (shape.dtype == DType::kF32) {
      ScatterHead(head_k, head_v, shape.head_dim, place.token, keys, values);
    } else if (shape.dtype == DType::kI8) {
      StoreInt8Head(head_k, head_v, shape.head_dim, place.token, keys, values);
    } else {
      StoreHalfHead(head_k, head_v, shape.head_dim, place.token, keys, values,
                    shape.dtype == DType::kF16 ? kernels.f32_to_f16 : ToBF16);
    }
  }
}

}  // namespace

void StoreKvRows(ThreadPool& pool, const KernelTable& kernels, PagedKvCache& cache, int layer, const float* k,
                 const float* v, std::int64_t stride, std::span<const SequenceSlice> slices) {
  assert(layer >= 0 && layer < cache.shape().layers);
  struct Row {
    Place place;
    std::int64_t offset;  // of its k and v
  };
  std::vector<Row> rows;
  for (const SequenceSlice& slice : slices) {
    for (std::int64_t row = 0; row < slice.rows; ++row) {
      rows.push_back({PlaceOf(cache, slice, slice.first_position + row), (slice.first_row + row) * stride});
    }
  }
  // A key's elements lie a line apart each, so that even one token is worth sharing.
  const auto count = static_cast<std::int64_t>(rows.size());
  const std::int64_t heads = cache.shape().heads;
  const std::int64_t parts =
      count == 0 ? 1 : std::clamp<std::int64_t>(2 * std::int64_t{pool.threads()} / count, 1, heads);
  pool.ParallelStream(count * parts, [&](int, std::int64_t index) {
    const Row& row = rows[static_cast<std::size_t>(index / parts)];
    const std::int64_t part = index % parts;
    StoreToken(kernels, cache, layer, row.place, k + row.offset, v + row.offset,
               static_cast<int>(heads * part / parts), static_cast<int>(heads * (part + 1) / parts));
  });
}

void CopyBlock(ThreadPool& pool, PagedKvCache& cache, std::int32_t from, std::int32_t to) {
  assert(from >= 0 && from < cache.blocks() && to >= 0 && to < cache.blocks());
  if (from == to) return;
  const std::uint64_t bytes = cache.block_bytes();
  pool.ParallelFor(cache.shape().layers, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t layer = begin; layer < end; ++layer) {
      for (std::byte* side : {cache.keys(static_cast<int>(layer)), cache.values(static_cast<int>(layer))}) {
        std::memcpy(side + static_cast<std::uint64_t>(to) * bytes,
                    side + static_cast<std::uint64_t>(from) * bytes, bytes);
      }
    }
  });
}

}  // namespace bloomery
