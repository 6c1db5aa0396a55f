// Float input to codes and signs on NEON.
#include <arm_neon.h>

#include <algorithm>
#include <cstring>

#include "kernels.h"

namespace bitwright {
namespace {

constexpr int64_t kStep = 8;

// Eight floats, of which `live` are read; the others are 0.
struct Eight {
    float32x4_t low, high;
    Eight(const float* from, int64_t live) {
        float lanes[kStep] = {};
        if (live < kStep) {
            std::memcpy(lanes, from, static_cast<size_t>(live) * sizeof(float));
            from = lanes;
        }
        low = vld1q_f32(from);
        high = vld1q_f32(from + 4);
    }
};

uint8x8_t narrow(uint32x4_t low, uint32x4_t high) {
    return vmovn_u16(vcombine_u16(vmovn_u32(low), vmovn_u32(high)));
}

}  // namespace

bool quantize_neon(const QuantizeArgs& args) {
    const float32x4_t scale = vdupq_n_f32(args.scale);
    const float32x4_t least = vdupq_n_f32(args.low), most = vdupq_n_f32(args.high);
    const int32x4_t zero = vdupq_n_s32(args.zero);
    uint32x4_t nan = vdupq_n_u32(0);
    const auto code = [&](float32x4_t x) {
        const float32x4_t q = vdivq_f32(x, scale);
        const uint32x4_t number = vceqq_f32(q, q);
        nan = vornq_u32(nan, number);
        const float32x4_t clipped = vminq_f32(vmaxq_f32(vrndnq_f32(q), least), most);
        return vandq_u32(vreinterpretq_u32_s32(vaddq_s32(vcvtq_s32_f32(clipped), zero)), number);
    };
    for (int64_t i = 0; i < args.size; i += kStep) {
        const int64_t live = std::min(kStep, args.size - i);
        const Eight x(args.input + i, live);
        const uint32x4_t low = code(x.low);
        const uint8x8_t codes = narrow(low, code(x.high));
        uint8_t lanes[kStep];
        vst1_u8(lanes, codes);
        std::memcpy(args.output + i, lanes, static_cast<size_t>(live));
    }
    return vmaxvq_u32(nan) != 0;
}

bool sign_neon(const SignArgs& args) {
    static constexpr uint8_t kBits[kStep] = {1, 2, 4, 8, 16, 32, 64, 128};
    const uint8x8_t bits = vld1_u8(kBits);
    uint32x4_t nan = vdupq_n_u32(0);
    for (int64_t i = 0; i < args.size; i += kStep) {
        const int64_t live = std::min(kStep, args.size - i);
        const Eight x(args.input + i, live);
        nan = vornq_u32(nan, vandq_u32(vceqq_f32(x.low, x.low), vceqq_f32(x.high, x.high)));
        const unsigned signs =
            vaddv_u8(vand_u8(narrow(vcgezq_f32(x.low), vcgezq_f32(x.high)), bits));
        args.output[i / kStep] = static_cast<uint8_t>(signs & ((1U << live) - 1U));
    }
    return vmaxvq_u32(nan) != 0;
}

}  // namespace bitwright
