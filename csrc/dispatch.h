// Which kernels exist, and which of them this machine can execute.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "emulate.h"
#include "engine.h"
#include "kernels.h"

namespace bitwright {

template <typename Function>
struct Named {
    Function run;
    const char* name;
};

// One instruction set: a kernel for every operation.
struct KernelTable {
    const char* isa;
    Named<ProductKernel> bgemm_bits, bgemm_sums;
    Named<QuantizeKernel> quantize;
    Named<SignKernel> sign;
};

// The tables that this CPU and operating system can execute, the slowest first.
const std::vector<KernelTable>& available_tables();

// The table of an instruction set, or null if it is unknown or cannot be executed here.
const KernelTable* find_table(const std::string& isa);

// The same of the emulation quantisers, which exist for more instruction sets.
const std::vector<EmulateTable>& available_emulate_tables();
const EmulateTable* find_emulate_table(std::string_view isa);

// The same of the integer engine's graph.
const std::vector<EngineTable>& available_engine_tables();
const EngineTable* find_engine_table(std::string_view isa);

// The CPU features that dispatch looks at, and whether they are usable.
std::vector<std::pair<std::string, bool>> cpu_features();

}  // namespace bitwright
