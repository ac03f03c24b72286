// The AVX-512 spine. 32 registers hold 16 to 24 accumulators, the weights of a step and broadcast
// activations.
#include "kernels/avx512/table.h"
#include "kernels/avx512/vec.h"

namespace bloomery {

constinit const KernelTable kAvx512Kernels = Table512<Avx512>();

}  // namespace bloomery
