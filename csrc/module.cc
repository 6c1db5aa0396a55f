// The Python binding: what this machine executes. Private: bitwright.kernels checks what users
// pass.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "ceilings.h"
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

using Memory = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void require_avx512() {
    if (find_engine_table("avx512") == nullptr)
        throw std::invalid_argument("ceilings need AVX-512");
}

// Benchmarks only: bits counted by the register loop, and a walk over memory.
int64_t count_registers([[maybe_unused]] int64_t rounds) {
    require_avx512();
#ifdef BITWRIGHT_X86
    [[maybe_unused]] volatile uint64_t seen = count_registers_avx512vpopcntdq(rounds);
#endif
    return rounds * kCountedBits;
}

void read_memory([[maybe_unused]] const Memory& memory) {
    require_avx512();
#ifdef BITWRIGHT_X86
    const auto* from = reinterpret_cast<const std::byte*>(memory.data());
    const auto size = static_cast<int64_t>(memory.size()) / 1024 * 1024;
    [[maybe_unused]] volatile uint64_t seen = read_memory_avx512vpopcntdq(from, size);
#endif
}

}  // namespace
}  // namespace bitwright

NB_MODULE(_native, m) {
    m.doc() = "Kernels and the network's graph; use bitwright.kernels.";
    m.def("cpu_features", &bitwright::features);
    m.def("count_registers", &bitwright::count_registers);
    m.def("read_memory", &bitwright::read_memory);
    bitwright::bind_emulate(m);
    bitwright::bind_graph(m);
}
