// The scalar engine: the reference for every other instruction set.
#include "engine-portable.h"
#include "engine-wide-portable.h"

namespace bitwright {

const EngineTable kEngineScalar = {
    "scalar",         dot_portable,       nullptr,           depthwise_portable, planes_portable,
    combine_portable, max_bytes_portable, max_sums_portable, add_bytes_portable, split_portable,
    "dot-scalar",     "depthwise-scalar", "planes-scalar",   kWidePortable,
};

}  // namespace bitwright
