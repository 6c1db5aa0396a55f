// Sixteen floats in a register of AVX-512 (F, BW, DQ, VL). See vector-scalar.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace bitwright {
namespace {

struct Avx512 {
    using F = __m512;
    using I = __m512i;
    using M = __mmask16;
    using U = __m512i;
    static constexpr int64_t kLanes = 16;
    static constexpr int64_t kBlocks = 8;

    static M first(int64_t n) { return static_cast<M>((1U << n) - 1U); }

    static F load(const float* p) { return _mm512_loadu_ps(p); }
    static F load_some(const float* p, int64_t n, float fill) {
        return _mm512_mask_loadu_ps(all(fill), first(n), p);
    }
    static void store(float* p, F x) { _mm512_storeu_ps(p, x); }
    static void store_some(float* p, F x, int64_t n) { _mm512_mask_storeu_ps(p, first(n), x); }
    static void stream(float* p, F x) { _mm512_stream_ps(p, x); }
    static void fence() { _mm_sfence(); }
    static I load_int(const int32_t* p) { return _mm512_loadu_si512(p); }
    static void store_int(int32_t* p, I x) { _mm512_storeu_si512(p, x); }
    static I load_draws(const uint16_t* p) {
        return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    }

    static F all(float x) { return _mm512_set1_ps(x); }
    static I all_int(int32_t x) { return _mm512_set1_epi32(x); }
    static F add(F a, F b) { return _mm512_add_ps(a, b); }
    static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
    static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
    static F div(F a, F b) { return _mm512_div_ps(a, b); }
    static F min(F a, F b) { return _mm512_min_ps(a, b); }
    static F max(F a, F b) { return _mm512_max_ps(a, b); }
    static F nearest(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT); }
    static F floor(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEG_INF); }
    static F ceil(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_POS_INF); }
    static F trunc(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_ZERO); }
    static F bit_and(F a, F b) { return _mm512_and_ps(a, b); }
    static F bit_or(F a, F b) { return _mm512_or_ps(a, b); }
    static F or_masked(F a, F b, F mask) {
        return floats(_mm512_ternarylogic_epi32(bits(a), bits(b), bits(mask), 0xF8));
    }
    static F add_zero_mul(F a, F b, F zero) { return _mm512_fmadd_ps(a, b, zero); }

    static M lt(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
    static M le(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
    static M gt(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
    static M ge(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
    static M eq(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
    static M ordered(F a) { return _mm512_cmp_ps_mask(a, a, _CMP_ORD_Q); }
    static M ne(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_NEQ_OQ); }
    static M both(M a, M b) { return static_cast<M>(a & b); }
    static F blend(M m, F yes, F no) { return _mm512_mask_blend_ps(m, no, yes); }
    static F keep(M m, F a) { return _mm512_maskz_mov_ps(m, a); }
    static F add_where(M m, F a, F b) { return _mm512_mask_add_ps(a, m, a, b); }
    static bool any(M m) { return m != 0; }
    static I count(I acc, M m) { return _mm512_mask_sub_epi32(acc, m, acc, all_int(-1)); }

    static I bits(F a) { return _mm512_castps_si512(a); }
    static F floats(I a) { return _mm512_castsi512_ps(a); }
    static F to_float(I a) { return _mm512_cvtepi32_ps(a); }
    static I add_int(I a, I b) { return _mm512_add_epi32(a, b); }
    static I sub_int(I a, I b) { return _mm512_sub_epi32(a, b); }
    static I and_int(I a, I b) { return _mm512_and_si512(a, b); }
    static I or_int(I a, I b) { return _mm512_or_si512(a, b); }
    static I min_int(I a, I b) { return _mm512_min_epi32(a, b); }
    static I max_int(I a, I b) { return _mm512_max_epi32(a, b); }
    static M gt_int(I a, I b) { return _mm512_cmpgt_epi32_mask(a, b); }
    static I blend_int(M m, I yes, I no) { return _mm512_mask_blend_epi32(m, no, yes); }
    template <int n>
    static I shift_left(I a) {
        return _mm512_slli_epi32(a, n);
    }
    template <int n>
    static I shift_right(I a) {
        return _mm512_srai_epi32(a, n);
    }

    static int32_t reduce_max(I a) { return _mm512_reduce_max_epi32(a); }
    // Lane b of the result: the largest lane of rows[b]. A tree of 15 pairwise merges.
    static I reduce_max_each(const I* rows) {
        I two[8], four[4], eight[2];
        for (int i = 0; i < 8; ++i) {
            const I a = rows[2 * i], b = rows[2 * i + 1];
            two[i] = max_int(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        }
        for (int i = 0; i < 4; ++i) {
            const I a = two[2 * i], b = two[2 * i + 1];
            four[i] = max_int(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
        }
        // each 128-bit part now holds one candidate of four rows
        for (int i = 0; i < 2; ++i) {
            const I a = four[2 * i], b = four[2 * i + 1];
            eight[i] = max_int(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xDD));
        }
        return max_int(_mm512_shuffle_i32x4(eight[0], eight[1], 0x88),
                       _mm512_shuffle_i32x4(eight[0], eight[1], 0xDD));
    }
    static int64_t sum(I a) {
        alignas(64) int32_t lanes[kLanes];
        _mm512_store_si512(lanes, a);
        int64_t total = 0;
        for (const int32_t lane : lanes) total += lane;
        return total;
    }

    static U blocks_from(uint64_t start) {
        return _mm512_add_epi64(all_wide(start), _mm512_set_epi64(7, 3, 6, 2, 5, 1, 4, 0));
    }
    static U all_wide(uint64_t x) { return _mm512_set1_epi64(static_cast<int64_t>(x)); }
    static U multiply(U a, U b) { return _mm512_mul_epu32(a, b); }
    static U high(U a) { return _mm512_srli_epi64(a, 32); }
    static U exclusive_or(U a, U b, U c) { return _mm512_ternarylogic_epi64(a, b, c, 0x96); }
    static void store_blocks(uint16_t* p, U w0, U w1, U w2, U w3, int shift) {
        const __m128i by = _mm_cvtsi32_si128(shift);
        const U low = _mm512_mask_shuffle_epi32(w0, 0xAAAA, w1, _MM_PERM_CCAA);
        const U up = _mm512_mask_shuffle_epi32(w2, 0xAAAA, w3, _MM_PERM_CCAA);
        _mm512_storeu_si512(p, _mm512_srl_epi16(_mm512_unpacklo_epi64(low, up), by));
        _mm512_storeu_si512(p + 32, _mm512_srl_epi16(_mm512_unpackhi_epi64(low, up), by));
    }
};

}  // namespace
}  // namespace bitwright
