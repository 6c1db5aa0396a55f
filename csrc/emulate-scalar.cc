// Emulation quantisers, scalar.
#include "emulate-table.h"
#include "vector-scalar.h"

namespace bitwright {

constexpr EmulateTable kEmulateScalar = make_table<Scalar>("scalar");

}  // namespace bitwright
