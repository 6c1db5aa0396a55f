// The kernel tables, filled once when the library is loaded.
#include "dispatch.h"

#define BITWRIGHT_KERNEL(function) {function, #function}

namespace bitwright {
namespace {

constexpr KernelTable kScalar = {
    "scalar",
    BITWRIGHT_KERNEL(bgemm_bits_scalar),
    BITWRIGHT_KERNEL(bgemm_sums_scalar),
    BITWRIGHT_KERNEL(gemm_u8s8_bits_scalar),
    BITWRIGHT_KERNEL(gemm_u8s8_sums_scalar),
    BITWRIGHT_KERNEL(quantize_scalar),
    BITWRIGHT_KERNEL(sign_scalar),
};

#ifdef BITWRIGHT_AVX512
constexpr KernelTable kAvx512 = {
    "avx512",
    BITWRIGHT_KERNEL(bgemm_bits_8x16_avx512vpopcntdq),
    BITWRIGHT_KERNEL(bgemm_sums_8x16_avx512vpopcntdq),
    BITWRIGHT_KERNEL(gemm_u8s8_bits_8x32_avx512vnni),
    BITWRIGHT_KERNEL(gemm_u8s8_sums_8x32_avx512vnni),
    BITWRIGHT_KERNEL(quantize_avx512bw),
    BITWRIGHT_KERNEL(sign_avx512bw),
};
#endif

std::vector<KernelTable> fill() {
    std::vector<KernelTable> tables = {kScalar};
#ifdef BITWRIGHT_AVX512
    bool usable = true;
    for (const auto& [name, present] : cpu_features()) usable = usable && present;
    if (usable) tables.push_back(kAvx512);
#endif
    return tables;
}

const std::vector<KernelTable> kTables = fill();

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

std::vector<std::pair<std::string, bool>> cpu_features() {
#ifdef BITWRIGHT_AVX512
    // The compiler's run-time also asks whether the operating system saves the registers (XGETBV).
    __builtin_cpu_init();
    const auto has = [](int answer) { return answer != 0; };
    return {
        {"avx512f", has(__builtin_cpu_supports("avx512f"))},
        {"avx512bw", has(__builtin_cpu_supports("avx512bw"))},
        {"avx512dq", has(__builtin_cpu_supports("avx512dq"))},
        {"avx512vl", has(__builtin_cpu_supports("avx512vl"))},
        {"avx512vpopcntdq", has(__builtin_cpu_supports("avx512vpopcntdq"))},
        {"avx512vnni", has(__builtin_cpu_supports("avx512vnni"))},
    };
#else
    return {};
#endif
}

}  // namespace bitwright
