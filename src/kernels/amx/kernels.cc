// The AMX spine: as vnni/, with tiles for many rows of int8 and for bf16.
#include "kernels/amx/tiles.h"
#include "kernels/avx512/table.h"
#include "kernels/vnni/vec.h"

namespace bloomery {
namespace {

// x[0, k) as bf16, nearest even.
void RoundRow(const RoundBF16Row& row) {
  const int64_t end = (row.k + row.run - 1) / row.run * row.run;
  for (int64_t k = 0; k < end; k += kPanelColumns) {
    const __m512 x = generic::LoadRow<Vnni>(row.x, k, row.k);
    const __m256i bits = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x));
    uint16_t* out = row.out + (k / row.run * row.rows + row.row) * row.run + k % row.run;
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), bits);
  }
}

constexpr KernelTable TableAmx() {
  KernelTable table = Table512<Vnni>();
  LinearKernels& int8 = table.linear[kTypeI8];
  int8 = {.few = {{32, 2, kTileInt8, Int8Tiles<1, 2, 2>, Int8Tiles<1, 2, 1>},
                  {16, 1, kTileInt8, Int8Tiles<1, 1, 1>, Int8Tiles<1, 1, 1>},
                  int8.few[2],
                  int8.few[3],
                  int8.few[4],
                  int8.few[5]},
          .many = {96, 2, kTileInt8, Int8Tiles<3, 2, 2>, Int8Tiles<3, 2, 1>}};
  table.linear[kTypeBF16] = {
      .few = {{16, 1, kTileBF16, BF16Tiles<16, 1, 1>, BF16Tiles<16, 1, 1>},
              {8, 1, kTileBF16, BF16Tiles<8, 1, 1>, BF16Tiles<8, 1, 1>},
              {4, 1, kTileBF16, BF16Tiles<4, 1, 1>, BF16Tiles<4, 1, 1>},
              {2, 1, kTileBF16, BF16Tiles<2, 1, 1>, BF16Tiles<2, 1, 1>},
              {1, 1, kTileBF16, BF16Tiles<1, 1, 1>, BF16Tiles<1, 1, 1>}},
      .many = {32, 2, kTileBF16, BF16Tiles<16, 2, 2>, BF16Tiles<16, 2, 1>},
  };
  table.round_row = RoundRow;
  return table;
}

}  // namespace

constinit const KernelTable kAmxKernels = TableAmx();

}  // namespace bloomery
