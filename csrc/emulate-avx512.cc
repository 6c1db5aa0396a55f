// Emulation quantisers, AVX-512 (F, BW, DQ, VL).
#include "emulate-table.h"
#include "vector-avx512.h"

namespace bitwright {

constexpr EmulateTable kEmulateAvx512 = make_table<Avx512>("avx512");

}  // namespace bitwright
