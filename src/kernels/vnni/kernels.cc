// The AVX-512 VNNI spine: as avx512/, with int8 dot products in one instruction.
#include "kernels/avx512/table.h"
#include "kernels/vnni/vec.h"

namespace bloomery {

constinit const KernelTable kVnniKernels = Table512<Vnni>();

}  // namespace bloomery
