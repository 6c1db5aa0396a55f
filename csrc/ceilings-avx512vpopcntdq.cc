#include <immintrin.h>

#include "ceilings.h"

namespace bitwright {
namespace {

uint64_t sum_of(const __m512i (&lanes)[16]) {
    __m512i all = lanes[0];
    for (int i = 1; i < 16; ++i) all = _mm512_add_epi64(all, lanes[i]);
    return static_cast<uint64_t>(_mm512_reduce_add_epi64(all));
}

}  // namespace

uint64_t count_registers_avx512vpopcntdq(int64_t rounds) {
    __m512i sums[16], weights[8];
    for (int i = 0; i < 16; ++i) sums[i] = _mm512_setzero_si512();
    for (int i = 0; i < 8; ++i) weights[i] = _mm512_set1_epi64((i + 1) * 0x123456789ABCDEF);
    __m512i bits = _mm512_set1_epi64(0x5555333311117777);
    for (int64_t round = 0; round < rounds; ++round) {
        for (int i = 0; i < 16; ++i) {
            asm("" : "+v"(bits));  // another value, for all that the compiler knows
            const __m512i differ = _mm512_xor_si512(bits, weights[i % 8]);
            sums[i] = _mm512_add_epi64(sums[i], _mm512_popcnt_epi64(differ));
        }
    }
    return sum_of(sums);
}

uint64_t read_memory_avx512vpopcntdq(const std::byte* from, int64_t size) {
    __m512i sums[16];
    for (int i = 0; i < 16; ++i) sums[i] = _mm512_setzero_si512();
    for (int64_t at = 0; at < size; at += 1024) {
        for (int i = 0; i < 16; ++i) {
            sums[i] = _mm512_or_si512(sums[i], _mm512_loadu_si512(from + at + i * 64));
        }
    }
    return sum_of(sums);
}

}  // namespace bitwright
