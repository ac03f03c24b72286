// plain header: no STL, so that translation units compiled for one instruction set may include it.
//
// What one instruction set offers to the CPU device: a table of functions over plain pointers. The device
// (linear.cc, attention.cc …) cuts the work, packs inputs and checks arguments; a table's function does one
// piece on the calling thread and never allocates.
//
// Packed weights, one panel = 16 output features (lanes), K padded with zeros:
//
//   f32, f16   [panel][k][16]
//   bf16       [panel][k/2][16][2]     pairs along K fill a 32-bit lane
//   int8       [panel][k/4][16][4]     groups of 4 along K fill a 32-bit lane; stored as w + 128
//   int4       [panel][k/128]{ scales [4][16], zeros [4][16], nibbles [4][4][16][4] }
//              one scale byte s and one zero byte z for 32 values along K: w = column scale · s · (q − z/16).
//              A byte holds q of k in its low and of k + 4 in its high half, for k mod 8 below 4, so that 64
//              bytes give two steps of int8's layout. A group of 128 is 1152 bytes, 18 cache lines:
//              4.5 bits a weight. K is padded to 128.
//
// Lanes are outputs, so no sum over K ever crosses lanes: each output is one chain of multiply-adds in rising
// k, the same chain in every row and panel count. That is what makes a row's result independent of its batch.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace bloomery {

constexpr int kPanelColumns = 16;  // one 512-bit or two 256-bit registers of f32

// Activations of int8 layers get one scale per row and kQuantGroup values along K, because single features
// can be 100 times larger than the rest (OPT from 6.7B up). 128: long enough that converting the integer sum
// (once per 32 dot instructions) costs a few percent, short enough that an outlier spoils 128 values and no
// more; and 128·127·127 < 2²⁴, so that a group's sum converts to f32 exactly.
constexpr int kQuantGroup = 128;

// A group whose largest value is below this is taken as zero: 127/absmax would no longer be finite soon
// after.
constexpr float kQuantFloor = 1e-30F;

// Added to int8 weights in storage: the dot instruction of VNNI takes unsigned × signed bytes.
constexpr int kWeightOffset = 128;

// int4: values along K that share a scale and a zero, its loss is in docs/benchmarks.md; and zeros
// in sixteenths of a step, so that one byte places them anywhere in the range of q.
constexpr int kNibbleGroup = 32;
constexpr int kNibbleGroups = kQuantGroup / kNibbleGroup;
constexpr int kNibbleZeroSteps = 16;
constexpr int kNibbleHeaderBytes = 2 * kNibbleGroups * kPanelColumns;
constexpr int kNibbleGroupBytes = kNibbleHeaderBytes + kQuantGroup * kPanelColumns / 2;

constexpr int kKvTokens = 16;  // tokens of one KV block; kKvBlockTokens of tensor/device.h

enum KernelType { kTypeF32, kTypeF16, kTypeBF16, kTypeI8, kTypeI4, kKernelTypes };
enum KernelActivation { kActNone, kActRelu, kActGeluTanh, kActGeluErf, kActSilu };

// acc[r][p·16 + lane] (+)= Σ over k of weights · x, for the kernel's number of rows and panels.
struct LinearBlock {
  const void* weights;    // first panel, at the block's first k
  int64_t panel_bytes;    // from one panel to the next
  int64_t k;              // padded; for int8 and int4 a group boundary or the end
  const void* x;          // packed rows: f32 [k][rows]; int8 and int4: bytes [k/run][rows][run]; or bf16 so
  const float* x_scales;  // int8, int4: [group][rows]
  const int32_t* x_offsets;  // int8: [group][rows], −128·Σx of the group: undoes kWeightOffset
  const float* x_sums;       // int4: [k/32][rows], −Σx/16 of what shares a weight scale, in the row's units
  float* acc;                // [rows][acc_stride]
  int64_t acc_stride;        // floats
  bool resume;               // continue from acc (a later part of K) rather than from zero
};

// A kernel for `rows` rows: `wide` takes `panels` panels at once, `single` one.
struct LinearKernel {
  int rows;
  int panels;
  int run;  // values along K of a row of x that lie together: divides kQuantGroup; 0 where x is f32
  void (*wide)(const LinearBlock&);
  void (*single)(const LinearBlock&);
};

constexpr int kFewKernels = 6;

// Of one type of weights. Rows are cut into `many` while more than few[0].rows are left, and the rest into
// the largest of `few` that fit.
struct LinearKernels {
  LinearKernel few[kFewKernels];  // where reading weights is the limit; falling `rows`, ends with rows == 1
  LinearKernel many;              // where multiplying is
};

// y = activation(acc · scale + bias) + residual over `columns` columns of `rows` rows.
struct LinearEpilogue {
  const float* acc;
  int64_t acc_stride;
  const float* scales;    // [columns rounded up to 16] or null
  const float* bias;      // [columns rounded up to 16] or null
  const float* residual;  // or null; may be y
  int64_t residual_stride;
  float* y;
  int64_t y_stride;
  int64_t rows;
  int columns;
  int activation;  // KernelActivation
};

// Quantises one row of a packed block of `rows` rows: x[0, k) to out[k/run][row][run], its group scales and
// offsets (int8), or its group scales and sums (int4). The last group is filled with zeros.
struct QuantizeRow {
  const float* x;
  int64_t k;
  int rows;
  int row;
  int run;           // of the block's kernel
  int8_t* out;       // whole groups
  float* scales;     // [group][rows]
  int32_t* offsets;  // [group][rows], or null
  float* sums;       // [k/32][rows], −Σx/16, or null
};

// Rounds one row of a packed block of `rows` rows: x[0, k) to out[k/run][row][run]. The last run is
// filled with zeros.
struct RoundBF16Row {
  const float* x;
  int64_t k;
  int rows;
  int row;
  int run;
  uint16_t* out;
};

struct LayerNormRow {
  const float* x;
  float* y;
  int64_t columns;
  const float* gain;  // or null
  const float* bias;  // or null
  float eps;
};

struct RmsNormRow {
  const float* x;
  float* y;
  int64_t columns;
  const float* gain;  // or null
  float eps;
};

// y = activation(gate) · up. y may be gate or up.
struct GateRow {
  const float* gate;
  const float* up;
  float* y;
  int64_t columns;
  int activation;  // KernelActivation
};

// Turns features i and i + pairs of each of `heads` heads that follow each other, in place.
struct RotateRow {
  float* x;  // [heads][head_dim]
  int64_t heads;
  int64_t head_dim;
  const float* cosines;  // [pairs]
  const float* sines;    // [pairs]
  int64_t pairs;
};

// Query rows of one head that a kernel takes at once: each key and value is then loaded once for all of them.
constexpr int kAttentionRows = 4;

// `rows` consecutive query rows of one sequence and head, 1 or kAttentionRows: the first over keys [0, keys),
// each further row over one key more. Keys: [block][…][head_dim][16]; values: [block][…][16][head_dim]; in
// int8 each followed by the 16 tokens' f32 scales.
struct AttentionRows {
  int rows;
  const float* q;  // [rows][head_dim]
  int64_t q_stride;
  float* out;  // [rows][head_dim]
  int64_t out_stride;
  float* scratch;        // [rows][head_dim rounded up to 16]
  const void* key_base;  // this layer and head in block 0
  const void* value_base;
  int64_t block_bytes;    // from one block to the next, for keys and for values
  int64_t head_bytes;     // from this head's keys to those of the head that is likely next on this thread
  const int32_t* blocks;  // of all keys
  int64_t keys;           // of the first row
  int head_dim;
  float scale;
  float slope;  // added per key position (ALiBi); 0 for none
};

struct KernelTable {
  LinearKernels linear[kKernelTypes];
  void (*epilogue)(const LinearEpilogue&);
  void (*quantize_row)(const QuantizeRow&);
  void (*round_row)(const RoundBF16Row&);  // null where no kernel takes bf16
  void (*layer_norm_row)(const LayerNormRow&);
  void (*rms_norm_row)(const RmsNormRow&);
  void (*gate_row)(const GateRow&);
  void (*rotate_row)(const RotateRow&);
  void (*attention[4])(const AttentionRows&);  // by the cache's KernelType: f32, f16, bf16, int8
  void (*f32_to_f16)(const float* from, int64_t count, uint16_t* to);
  void (*f16_to_f32)(const void* from, int64_t count, float* to);  // `from` may be unaligned
  // Reads every byte with the widest loads and returns a checksum, so that no load can be left out.
  uint64_t (*read_bytes)(const void* from, size_t size_bytes);
};

extern const KernelTable kRefKernels;
extern const KernelTable kAvx2Kernels;
extern const KernelTable kAvx512Kernels;
extern const KernelTable kVnniKernels;
extern const KernelTable kAmxKernels;

}  // namespace bloomery
