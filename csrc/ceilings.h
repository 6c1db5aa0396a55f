// What the processor can do at most, for benchmarks to compare with.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bitwright {

// Bits per round of `count_registers`.
inline constexpr int64_t kCountedBits = 16 * 512;

// xor, popcount, add in registers alone, 16 independent sums of 512 bits a round.
uint64_t count_registers_avx512vpopcntdq(int64_t rounds);
// Reads `size` bytes (a multiple of 1024) and does next to nothing with them.
uint64_t read_memory_avx512vpopcntdq(const std::byte* from, int64_t size);

}  // namespace bitwright
