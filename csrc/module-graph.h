// The binding of the graph, apart from the rest of the module.
#pragma once

#include <nanobind/nanobind.h>

namespace bitwright {

void bind_graph(nanobind::module_& m);

}  // namespace bitwright
