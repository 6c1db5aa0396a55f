// Emulation quantisers, AVX2.
#include "emulate-table.h"
#include "vector-avx2.h"

namespace bitwright {

constexpr EmulateTable kEmulateAvx2 = make_table<Avx2>("avx2");

}  // namespace bitwright
