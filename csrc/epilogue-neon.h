// What becomes of 16 accumulators on NEON (AArch64). See Epilogue in engine.h.
#pragma once

#include <arm_neon.h>

#include <algorithm>
#include <cstring>

#include "engine.h"
#include "layout.h"

namespace bitwright {
namespace {

using Tile = int32x4_t[4];  // 16 channels

// The low byte of every lane, for the live channels.
inline void store_low_bytes(const int32x4_t* values, int64_t live, std::byte* out) {
    const auto narrow = [](int32x4_t a, int32x4_t b) {
        return vuzp1q_u16(vreinterpretq_u16_s32(a), vreinterpretq_u16_s32(b));
    };
    const uint16x8_t low = narrow(values[0], values[1]), high = narrow(values[2], values[3]);
    const uint8x16_t bytes = vuzp1q_u8(vreinterpretq_u8_u16(low), vreinterpretq_u8_u16(high));
    if (live >= kLanes) {
        vst1q_u8(reinterpret_cast<uint8_t*>(out), bytes);
    } else {
        uint8_t lanes[kLanes];
        vst1q_u8(lanes, bytes);
        std::memcpy(out, lanes, static_cast<size_t>(live));
    }
}

// 16 flags (all bits of a lane) as bits, channel 0 the lowest.
inline uint16_t flag_bits(const uint32x4_t* flags) {
    static constexpr uint8_t kBits[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    const uint16x8_t low = vcombine_u16(vmovn_u32(flags[0]), vmovn_u32(flags[1]));
    const uint16x8_t high = vcombine_u16(vmovn_u32(flags[2]), vmovn_u32(flags[3]));
    const uint8x16_t bytes = vcombine_u8(vmovn_u16(low), vmovn_u16(high));
    const uint8x16_t bits = vandq_u8(bytes, vld1q_u8(kBits));
    return static_cast<uint16_t>(vaddv_u8(vget_low_u8(bits)) |
                                 (unsigned{vaddv_u8(vget_high_u8(bits))} << 8));
}

inline float64x2_t round_by(float64x2_t y, Rounding rounding) {
    switch (rounding) {
        case Rounding::nearest_even:
            return vrndnq_f64(y);
        case Rounding::nearest_away:
            return vrndaq_f64(y);
        case Rounding::floor:
        case Rounding::stochastic:
            return vrndmq_f64(y);
        case Rounding::ceil:
            return vrndpq_f64(y);
        case Rounding::toward_zero:
            return vrndq_f64(y);
    }
    return y;
}

// byte = clip(round(y), low, high) + zero of 16 channels; y holds (acc M + B) 2^-shift, exactly.
inline void store_codes(const Epilogue& e, const float64x2_t* y, int64_t n, std::byte* out) {
    const float64x2_t low = vdupq_n_f64(e.low), high = vdupq_n_f64(e.high);
    const auto code = [&](float64x2_t value) {
        const float64x2_t rounded = round_by(value, e.rounding);
        return vmovn_s64(vcvtq_s64_f64(vminq_f64(vmaxq_f64(rounded, low), high)));
    };
    const int32x4_t zero = vdupq_n_s32(e.zero);
    Tile codes;
    for (int q = 0; q < 4; ++q) {
        codes[q] = vaddq_s32(vcombine_s32(code(y[2 * q]), code(y[2 * q + 1])), zero);
    }
    store_low_bytes(codes, e.channels - n, out + n);
}

// The channels n .. n + 15 of a pixel at `out`.
inline void store_tile_neon(const Epilogue& e, const int32x4_t* acc, int64_t n, std::byte* out) {
    const int64_t live = std::min(kLanes, e.channels - n);
    switch (e.kind) {
        case Epilogue::Kind::sums: {
            int32_t lanes[kLanes];
            for (int q = 0; q < 4; ++q) vst1q_s32(lanes + 4 * q, acc[q]);
            std::memcpy(out + 4 * n, lanes, static_cast<size_t>(4 * live));
            break;
        }
        case Epilogue::Kind::bits: {
            uint32x4_t passed[4];
            for (int q = 0; q < 4; ++q) {
                passed[q] = vcgeq_s32(acc[q], vld1q_s32(e.thresholds + n + 4 * q));
            }
            const unsigned used = (1U << live) - 1U;
            const auto word =
                static_cast<uint16_t>((flag_bits(passed) & used) ^ e.flips[n / kLanes]);
            std::memcpy(out + n / 8, &word, sizeof word);
            break;
        }
        case Epilogue::Kind::levels: {
            Tile levels;
            for (int q = 0; q < 4; ++q) {
                int32x4_t passed = vdupq_n_s32(0);
                const int32_t* limits = e.thresholds + n + 4 * q;
                for (int64_t k = 0; k < e.count; ++k, limits += e.padded) {
                    const uint32x4_t flag = vcgeq_s32(acc[q], vld1q_s32(limits));
                    passed = vsubq_s32(passed, vreinterpretq_s32_u32(flag));
                }
                levels[q] =
                    vmlaq_s32(vld1q_s32(e.base + n + 4 * q), passed, vld1q_s32(e.step + n + 4 * q));
            }
            store_low_bytes(levels, live, out + n);
            break;
        }
        case Epilogue::Kind::codes: {
            float64x2_t y[8];
            for (int h = 0; h < 8; ++h) {
                const int32x2_t half =
                    h % 2 == 0 ? vget_low_s32(acc[h / 2]) : vget_high_s32(acc[h / 2]);
                y[h] = vfmaq_f64(vld1q_f64(e.scaled_offset + n + 2 * h),
                                 vcvtq_f64_s64(vmovl_s32(half)),
                                 vld1q_f64(e.scaled_multiplier + n + 2 * h));
            }
            store_codes(e, y, n, out);
            break;
        }
    }
}

}  // namespace
}  // namespace bitwright
