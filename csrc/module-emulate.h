// The part of the Python binding that belongs to the emulation quantisers.
#pragma once

#include <nanobind/nanobind.h>

namespace bitwright {

void bind_emulate(nanobind::module_& m);

}  // namespace bitwright
