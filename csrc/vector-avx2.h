// Eight floats in a register of AVX2. See vector-scalar.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace bitwright {
namespace {

struct Avx2 {
    using F = __m256;
    using I = __m256i;
    using M = __m256;  // all bits of a lane
    using U = __m256i;
    static constexpr int64_t kLanes = 8;
    static constexpr int64_t kBlocks = 4;

    static I first(int64_t n) {
        const I lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int32_t>(n)), lanes);
    }

    static F load(const float* p) { return _mm256_loadu_ps(p); }
    static F load_some(const float* p, int64_t n, float fill) {
        return blend(floats(first(n)), _mm256_maskload_ps(p, first(n)), all(fill));
    }
    static void store(float* p, F x) { _mm256_storeu_ps(p, x); }
    static void store_some(float* p, F x, int64_t n) { _mm256_maskstore_ps(p, first(n), x); }
    static void stream(float* p, F x) { _mm256_stream_ps(p, x); }
    static void fence() { _mm_sfence(); }
    static I load_int(const int32_t* p) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    }
    static void store_int(int32_t* p, I x) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x);
    }
    static I load_draws(const uint16_t* p) {
        return _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    }

    static F all(float x) { return _mm256_set1_ps(x); }
    static I all_int(int32_t x) { return _mm256_set1_epi32(x); }
    static F add(F a, F b) { return _mm256_add_ps(a, b); }
    static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
    static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
    static F div(F a, F b) { return _mm256_div_ps(a, b); }
    static F min(F a, F b) { return _mm256_min_ps(a, b); }
    static F max(F a, F b) { return _mm256_max_ps(a, b); }
    static F nearest(F a) {
        return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    }
    static F floor(F a) { return _mm256_floor_ps(a); }
    static F ceil(F a) { return _mm256_ceil_ps(a); }
    static F trunc(F a) { return _mm256_round_ps(a, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC); }
    static F bit_and(F a, F b) { return _mm256_and_ps(a, b); }
    static F bit_or(F a, F b) { return _mm256_or_ps(a, b); }
    static F or_masked(F a, F b, F mask) { return bit_or(a, bit_and(b, mask)); }
    static F add_zero_mul(F a, F b, F zero) { return mul(add(a, zero), b); }

    static M lt(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
    static M le(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_LE_OQ); }
    static M gt(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_GT_OQ); }
    static M ge(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_GE_OQ); }
    static M eq(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
    static M ordered(F a) { return _mm256_cmp_ps(a, a, _CMP_ORD_Q); }
    static M ne(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_NEQ_OQ); }
    static M both(M a, M b) { return _mm256_and_ps(a, b); }
    static F blend(M m, F yes, F no) { return _mm256_blendv_ps(no, yes, m); }
    static F keep(M m, F a) { return _mm256_and_ps(m, a); }
    static F add_where(M m, F a, F b) { return blend(m, add(a, b), a); }
    static bool any(M m) { return _mm256_movemask_ps(m) != 0; }
    static I count(I acc, M m) { return _mm256_sub_epi32(acc, bits(m)); }

    static I bits(F a) { return _mm256_castps_si256(a); }
    static F floats(I a) { return _mm256_castsi256_ps(a); }
    static F to_float(I a) { return _mm256_cvtepi32_ps(a); }
    static I add_int(I a, I b) { return _mm256_add_epi32(a, b); }
    static I sub_int(I a, I b) { return _mm256_sub_epi32(a, b); }
    static I and_int(I a, I b) { return _mm256_and_si256(a, b); }
    static I or_int(I a, I b) { return _mm256_or_si256(a, b); }
    static I min_int(I a, I b) { return _mm256_min_epi32(a, b); }
    static I max_int(I a, I b) { return _mm256_max_epi32(a, b); }
    static M gt_int(I a, I b) { return floats(_mm256_cmpgt_epi32(a, b)); }
    static I blend_int(M m, I yes, I no) { return bits(blend(m, floats(yes), floats(no))); }
    template <int n>
    static I shift_left(I a) {
        return _mm256_slli_epi32(a, n);
    }
    template <int n>
    static I shift_right(I a) {
        return _mm256_srai_epi32(a, n);
    }

    static int32_t reduce_max(I a) {
        __m128i m = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
        m = _mm_max_epi32(m, _mm_unpackhi_epi64(m, m));
        return _mm_cvtsi128_si32(_mm_max_epi32(m, _mm_shuffle_epi32(m, 1)));
    }
    static I reduce_max_each(const I* rows) {
        alignas(64) int32_t largest[kLanes];
        for (int64_t b = 0; b < kLanes; ++b) largest[b] = reduce_max(rows[b]);
        return load_int(largest);
    }
    static int64_t sum(I a) {
        alignas(32) int32_t lanes[kLanes];
        _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), a);
        int64_t total = 0;
        for (const int32_t lane : lanes) total += lane;
        return total;
    }

    static U blocks_from(uint64_t start) {
        return _mm256_add_epi64(all_wide(start), _mm256_setr_epi64x(0, 2, 1, 3));
    }
    static U all_wide(uint64_t x) { return _mm256_set1_epi64x(static_cast<int64_t>(x)); }
    static U multiply(U a, U b) { return _mm256_mul_epu32(a, b); }
    static U high(U a) { return _mm256_srli_epi64(a, 32); }
    static U exclusive_or(U a, U b, U c) { return _mm256_xor_si256(_mm256_xor_si256(a, b), c); }
    static void store_blocks(uint16_t* p, U w0, U w1, U w2, U w3, int shift) {
        const __m128i by = _mm_cvtsi32_si128(shift);
        const U low = _mm256_blend_epi32(w0, _mm256_slli_epi64(w1, 32), 0xAA);
        const U up = _mm256_blend_epi32(w2, _mm256_slli_epi64(w3, 32), 0xAA);
        const auto to = reinterpret_cast<__m256i*>(p);
        _mm256_storeu_si256(to, _mm256_srl_epi16(_mm256_unpacklo_epi64(low, up), by));
        _mm256_storeu_si256(to + 1, _mm256_srl_epi16(_mm256_unpackhi_epi64(low, up), by));
    }
};

}  // namespace
}  // namespace bitwright
