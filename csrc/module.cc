// The Python binding: what this machine executes. Private: bitwright.kernels checks what users
// pass.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <vector>

#include "dispatch.h"
#include "module-emulate.h"
#include "module-graph.h"

namespace nb = nanobind;

namespace bitwright {
namespace {

nb::dict features() {
    nb::dict seen;
    for (const auto& [name, present] : cpu_features()) seen[name.c_str()] = present;
    return seen;
}

}  // namespace
}  // namespace bitwright

NB_MODULE(_native, m) {
    m.doc() = "Kernels and the network's graph; use bitwright.kernels.";
    m.def("cpu_features", &bitwright::features);
    bitwright::bind_emulate(m);
    bitwright::bind_graph(m);
}
