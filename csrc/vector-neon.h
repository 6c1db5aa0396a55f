// Four floats in a register of NEON (AArch64). See vector-scalar.h.
#pragma once

#include <arm_neon.h>

#include <cstdint>

namespace bitwright {
namespace {

struct Neon {
    using F = float32x4_t;
    using I = int32x4_t;
    using M = uint32x4_t;  // all bits of a lane
    using U = uint64x2_t;
    static constexpr int64_t kLanes = 4;
    static constexpr int64_t kBlocks = 2;

    static F load(const float* p) { return vld1q_f32(p); }
    static F load_some(const float* p, int64_t n, float fill) {
        float lanes[kLanes] = {fill, fill, fill, fill};
        for (int64_t i = 0; i < n; ++i) lanes[i] = p[i];
        return load(lanes);
    }
    static void store(float* p, F x) { vst1q_f32(p, x); }
    static void store_some(float* p, F x, int64_t n) {
        float lanes[kLanes];
        store(lanes, x);
        for (int64_t i = 0; i < n; ++i) p[i] = lanes[i];
    }
    static void stream(float* p, F x) { store(p, x); }  // no such store for one register
    static void fence() {}
    static I load_int(const int32_t* p) { return vld1q_s32(p); }
    static void store_int(int32_t* p, I x) { vst1q_s32(p, x); }
    static I load_draws(const uint16_t* p) { return vreinterpretq_s32_u32(vmovl_u16(vld1_u16(p))); }

    static F all(float x) { return vdupq_n_f32(x); }
    static I all_int(int32_t x) { return vdupq_n_s32(x); }
    static F add(F a, F b) { return vaddq_f32(a, b); }
    static F sub(F a, F b) { return vsubq_f32(a, b); }
    static F mul(F a, F b) { return vmulq_f32(a, b); }
    static F div(F a, F b) { return vdivq_f32(a, b); }
    static F min(F a, F b) { return vminq_f32(a, b); }
    static F max(F a, F b) { return vmaxq_f32(a, b); }
    static F nearest(F a) { return vrndnq_f32(a); }
    static F floor(F a) { return vrndmq_f32(a); }
    static F ceil(F a) { return vrndpq_f32(a); }
    static F trunc(F a) { return vrndq_f32(a); }
    static F bit_and(F a, F b) { return floats(and_int(bits(a), bits(b))); }
    static F bit_or(F a, F b) { return floats(or_int(bits(a), bits(b))); }
    static F or_masked(F a, F b, F mask) { return bit_or(a, bit_and(b, mask)); }
    static F add_zero_mul(F a, F b, F zero) { return vfmaq_f32(zero, a, b); }

    static M lt(F a, F b) { return vcltq_f32(a, b); }
    static M le(F a, F b) { return vcleq_f32(a, b); }
    static M gt(F a, F b) { return vcgtq_f32(a, b); }
    static M ge(F a, F b) { return vcgeq_f32(a, b); }
    static M eq(F a, F b) { return vceqq_f32(a, b); }
    static M ne(F a, F b) { return vorrq_u32(lt(a, b), gt(a, b)); }  // false for NaN
    static M ordered(F a) { return vceqq_f32(a, a); }
    static M both(M a, M b) { return vandq_u32(a, b); }
    static bool any(M m) { return vmaxvq_u32(m) != 0; }
    static F blend(M m, F yes, F no) { return vbslq_f32(m, yes, no); }
    static F keep(M m, F a) { return floats(and_int(vreinterpretq_s32_u32(m), bits(a))); }
    static F add_where(M m, F a, F b) { return blend(m, add(a, b), a); }
    static I count(I acc, M m) { return sub_int(acc, vreinterpretq_s32_u32(m)); }

    static I bits(F a) { return vreinterpretq_s32_f32(a); }
    static F floats(I a) { return vreinterpretq_f32_s32(a); }
    static F to_float(I a) { return vcvtq_f32_s32(a); }
    static I add_int(I a, I b) { return vaddq_s32(a, b); }
    static I sub_int(I a, I b) { return vsubq_s32(a, b); }
    static I and_int(I a, I b) { return vandq_s32(a, b); }
    static I or_int(I a, I b) { return vorrq_s32(a, b); }
    static I min_int(I a, I b) { return vminq_s32(a, b); }
    static I max_int(I a, I b) { return vmaxq_s32(a, b); }
    static M gt_int(I a, I b) { return vcgtq_s32(a, b); }
    static I blend_int(M m, I yes, I no) { return vbslq_s32(m, yes, no); }
    template <int n>
    static I shift_left(I a) {
        return vshlq_n_s32(a, n);
    }
    template <int n>
    static I shift_right(I a) {
        return vshrq_n_s32(a, n);
    }

    static int32_t reduce_max(I a) { return vmaxvq_s32(a); }
    static I reduce_max_each(const I* rows) {
        alignas(64) int32_t largest[kLanes];
        for (int64_t b = 0; b < kLanes; ++b) largest[b] = reduce_max(rows[b]);
        return load_int(largest);
    }
    static int64_t sum(I a) { return vaddlvq_s32(a); }

    static U blocks_from(uint64_t start) {
        return vcombine_u64(vcreate_u64(start), vcreate_u64(start + 1));
    }
    static U all_wide(uint64_t x) { return vdupq_n_u64(x); }
    static U multiply(U a, U b) { return vmull_u32(vmovn_u64(a), vmovn_u64(b)); }
    static U high(U a) { return vshrq_n_u64(a, 32); }
    static U exclusive_or(U a, U b, U c) { return veorq_u64(veorq_u64(a, b), c); }
    static void store_blocks(uint16_t* p, U w0, U w1, U w2, U w3, int shift) {
        const U low = vsliq_n_u64(w0, w1, 32), up = vsliq_n_u64(w2, w3, 32);
        const int16x8_t by = vdupq_n_s16(static_cast<int16_t>(-shift));
        vst1q_u16(p, vshlq_u16(vreinterpretq_u16_u64(vzip1q_u64(low, up)), by));
        vst1q_u16(p + 8, vshlq_u16(vreinterpretq_u16_u64(vzip2q_u64(low, up)), by));
    }
};

}  // namespace
}  // namespace bitwright
