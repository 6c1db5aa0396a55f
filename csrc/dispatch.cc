// The kernel tables, filled once when the library is loaded.
#include "dispatch.h"

#include <algorithm>
#include <initializer_list>

#if defined(BITWRIGHT_NEON) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#define BITWRIGHT_KERNEL(function) {function, #function}

namespace bitwright {
namespace {

constexpr KernelTable kScalar = {
    "scalar",
    BITWRIGHT_KERNEL(bgemm_bits_scalar),
    BITWRIGHT_KERNEL(bgemm_sums_scalar),
    BITWRIGHT_KERNEL(quantize_scalar),
    BITWRIGHT_KERNEL(sign_scalar),
};

#ifdef BITWRIGHT_X86
constexpr KernelTable kAvx512 = {
    "avx512",
    BITWRIGHT_KERNEL(bgemm_bits_8x16_avx512vpopcntdq),
    BITWRIGHT_KERNEL(bgemm_sums_8x16_avx512vpopcntdq),
    BITWRIGHT_KERNEL(quantize_avx512bw),
    BITWRIGHT_KERNEL(sign_avx512bw),
};
#endif

#ifdef BITWRIGHT_NEON
constexpr KernelTable neon(const char* isa) {
    return {isa, BITWRIGHT_KERNEL(bgemm_bits_neon), BITWRIGHT_KERNEL(bgemm_sums_neon),
            BITWRIGHT_KERNEL(quantize_neon), BITWRIGHT_KERNEL(sign_neon)};
}

// Whether SDOT can be executed.
bool has_dot_product() {
#if defined(__APPLE__)
    return true;  // all of its desktop processors
#elif defined(__linux__)
    return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#else
    return false;
#endif
}
#endif

[[maybe_unused]] bool has_all(std::initializer_list<std::string> names) {
    const auto features = cpu_features();
    return std::all_of(names.begin(), names.end(), [&](const std::string& name) {
        return std::find(features.begin(), features.end(), std::pair{name, true}) != features.end();
    });
}

std::vector<KernelTable> fill() {
    std::vector<KernelTable> tables = {kScalar};
#ifdef BITWRIGHT_X86
    if (has_all({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vpopcntdq", "avx512vnni"})) {
        tables.push_back(kAvx512);
    }
#endif
#ifdef BITWRIGHT_NEON
    tables.push_back(neon("neon"));
    if (has_dot_product()) tables.push_back(neon("neondot"));
#endif
    return tables;
}

std::vector<EmulateTable> fill_emulate() {
    std::vector<EmulateTable> tables = {kEmulateScalar};
#ifdef BITWRIGHT_X86
    if (has_all({"avx2"})) tables.push_back(kEmulateAvx2);
    if (has_all({"avx512f", "avx512bw", "avx512dq", "avx512vl"})) tables.push_back(kEmulateAvx512);
#endif
#ifdef BITWRIGHT_NEON
    tables.push_back(kEmulateNeon);
    if (has_dot_product()) {  // the engine has more kernels there, the quantisers have the same
        tables.push_back(kEmulateNeon);
        tables.back().isa = "neondot";
    }
#endif
    return tables;
}

std::vector<EngineTable> fill_engine() {
    std::vector<EngineTable> tables = {kEngineScalar};
#ifdef BITWRIGHT_X86
    if (has_all({"avx2", "popcnt"})) tables.push_back(kEngineAvx2);
    if (has_all({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vbmi", "avx512vpopcntdq",
                 "avx512vnni"})) {
        tables.push_back(kEngineAvx512);
    }
#endif
#ifdef BITWRIGHT_NEON
    tables.push_back(kEngineNeon);
    if (has_dot_product()) tables.push_back(kEngineNeonDot);
#endif
    return tables;
}

const std::vector<KernelTable> kTables = fill();
const std::vector<EmulateTable> kEmulateTables = fill_emulate();
const std::vector<EngineTable> kEngineTables = fill_engine();

}  // namespace

const std::vector<KernelTable>& available_tables() {
    return kTables;
}

const KernelTable* find_table(const std::string& isa) {
    for (const KernelTable& table : kTables) {
        if (isa == table.isa) return &table;
    }
    return nullptr;
}

const std::vector<EmulateTable>& available_emulate_tables() {
    return kEmulateTables;
}

const EmulateTable* find_emulate_table(std::string_view isa) {
    for (const EmulateTable& table : kEmulateTables) {
        if (isa == table.isa) return &table;
    }
    return nullptr;
}

const std::vector<EngineTable>& available_engine_tables() {
    return kEngineTables;
}

const EngineTable* find_engine_table(std::string_view isa) {
    for (const EngineTable& table : kEngineTables) {
        if (isa == table.isa) return &table;
    }
    return nullptr;
}

std::vector<std::pair<std::string, bool>> cpu_features() {
#ifdef BITWRIGHT_X86
    // The compiler's run-time also asks whether the operating system saves the registers (XGETBV).
    __builtin_cpu_init();
    const auto has = [](int answer) { return answer != 0; };
    return {
        {"popcnt", has(__builtin_cpu_supports("popcnt"))},
        {"avx2", has(__builtin_cpu_supports("avx2"))},
        {"avx512f", has(__builtin_cpu_supports("avx512f"))},
        {"avx512bw", has(__builtin_cpu_supports("avx512bw"))},
        {"avx512dq", has(__builtin_cpu_supports("avx512dq"))},
        {"avx512vl", has(__builtin_cpu_supports("avx512vl"))},
        {"avx512vbmi", has(__builtin_cpu_supports("avx512vbmi"))},
        {"avx512vpopcntdq", has(__builtin_cpu_supports("avx512vpopcntdq"))},
        {"avx512vnni", has(__builtin_cpu_supports("avx512vnni"))},
    };
#elif defined(BITWRIGHT_NEON)
    return {{"asimd", true}, {"asimddp", has_dot_product()}};
#else
    return {};
#endif
}

}  // namespace bitwright
