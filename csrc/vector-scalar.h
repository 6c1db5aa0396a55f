// A vector of one float: the operations that every instruction set gives the emulation kernels.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace bitwright {
namespace {

struct Scalar {
    using F = float;     // floats
    using I = int32_t;   // integers of the same number of lanes
    using M = bool;      // one truth per lane
    using U = uint64_t;  // 64-bit lanes, for Philox
    static constexpr int64_t kLanes = 1;
    static constexpr int64_t kBlocks = 1;  // lanes of U

    static F load(const float* p) { return *p; }
    static F load_some(const float* p, int64_t, float) { return *p; }  // `fill` beyond the count
    static void store(float* p, F x) { *p = x; }
    static void store_some(float* p, F x, int64_t) { *p = x; }
    static void stream(float* p, F x) { *p = x; }
    static void fence() {}
    static I load_int(const int32_t* p) { return *p; }
    static void store_int(int32_t* p, I x) { *p = x; }
    static I load_draws(const uint16_t* p) { return *p; }

    static F all(float x) { return x; }
    static I all_int(int32_t x) { return x; }
    static F add(F a, F b) { return a + b; }
    static F sub(F a, F b) { return a - b; }
    static F mul(F a, F b) { return a * b; }
    static F div(F a, F b) { return a / b; }
    static F min(F a, F b) { return a < b ? a : b; }
    static F max(F a, F b) { return a > b ? a : b; }
    static F nearest(F a) { return std::nearbyint(a); }  // ties to even
    static F floor(F a) { return std::floor(a); }
    static F ceil(F a) { return std::ceil(a); }
    static F trunc(F a) { return std::trunc(a); }
    static F bit_and(F a, F b) { return floats(bits(a) & bits(b)); }
    static F bit_or(F a, F b) { return floats(bits(a) | bits(b)); }
    // a | (b & mask)
    static F or_masked(F a, F b, F mask) { return bit_or(a, bit_and(b, mask)); }
    // (a + zero) * b, zero = 0 or -0: the same as a fused a * b + zero
    static F add_zero_mul(F a, F b, F zero) { return (a + zero) * b; }

    static M lt(F a, F b) { return a < b; }  // false where one is a NaN, as the next four
    static M le(F a, F b) { return a <= b; }
    static M gt(F a, F b) { return a > b; }
    static M ge(F a, F b) { return a >= b; }
    static M eq(F a, F b) { return a == b; }
    static M ordered(F a) { return a == a; }
    static M ne(F a, F b) { return a < b || a > b; }
    static M both(M a, M b) { return a && b; }
    static F blend(M m, F yes, F no) { return m ? yes : no; }
    static F keep(M m, F a) { return m ? a : 0.0F; }
    static F add_where(M m, F a, F b) { return m ? a + b : a; }
    static bool any(M m) { return m; }
    static I count(I acc, M m) { return acc + m; }

    static I bits(F a) { return std::bit_cast<int32_t>(a); }
    static F floats(I a) { return std::bit_cast<float>(a); }
    static F to_float(I a) { return static_cast<float>(a); }
    static I add_int(I a, I b) { return static_cast<I>(uint32_t(a) + uint32_t(b)); }  // wraps
    static I sub_int(I a, I b) { return static_cast<I>(uint32_t(a) - uint32_t(b)); }
    static I and_int(I a, I b) { return a & b; }
    static I or_int(I a, I b) { return a | b; }
    static I min_int(I a, I b) { return a < b ? a : b; }
    static I max_int(I a, I b) { return a > b ? a : b; }
    static M gt_int(I a, I b) { return a > b; }
    static I blend_int(M m, I yes, I no) { return m ? yes : no; }
    template <int n>
    static I shift_left(I a) {
        return static_cast<I>(static_cast<uint32_t>(a) << n);
    }
    template <int n>
    static I shift_right(I a) {  // arithmetic
        return a >> n;
    }

    static int32_t reduce_max(I a) { return a; }
    static I reduce_max_each(const I* rows) {
        alignas(64) int32_t largest[kLanes];
        for (int64_t b = 0; b < kLanes; ++b) largest[b] = reduce_max(rows[b]);
        return load_int(largest);
    }
    static int64_t sum(I a) { return a; }

    // Philox: lane order so that interleave gives consecutive blocks
    static U blocks_from(uint64_t first) { return first; }
    static U all_wide(uint64_t x) { return x; }
    static U multiply(U a, U b) { return (a & 0xFFFFFFFFU) * (b & 0xFFFFFFFFU); }  // low halves
    static U high(U a) { return a >> 32; }
    static U exclusive_or(U a, U b, U c) { return a ^ b ^ c; }
    // words 0 to 3 of each block, in the low halves, to consecutive memory
    static void store_blocks(uint16_t* p, U w0, U w1, U w2, U w3, int shift) {
        const U words[2] = {(w0 & 0xFFFFFFFFU) | w1 << 32, (w2 & 0xFFFFFFFFU) | w3 << 32};
        __builtin_memcpy(p, words, sizeof words);
        for (int i = 0; i < 8; ++i) p[i] = static_cast<uint16_t>(p[i] >> shift);
    }
};

}  // namespace
}  // namespace bitwright
