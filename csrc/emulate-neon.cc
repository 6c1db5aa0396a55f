// Emulation quantisers, NEON.
#include "emulate-table.h"
#include "vector-neon.h"

namespace bitwright {

constexpr EmulateTable kEmulateNeon = make_table<Neon>("neon");

}  // namespace bitwright
