// Float input to codes, scalar: the reference for every other quantize and sign kernel.
#include <algorithm>
#include <cmath>

#include "kernels.h"

namespace bitwright {

// Ties go to even: 0.5 -> 0, 1.5 -> 2, -2.5 -> -2. (The default rounding mode is assumed.)
bool quantize_scalar(const QuantizeArgs& args) {
    bool nan = false;
    for (int64_t i = 0; i < args.size; ++i) {
        const float quotient = args.input[i] / args.scale;
        if (std::isnan(quotient)) {
            nan = true;
            args.output[i] = 0;
            continue;
        }
        const float code = std::clamp(std::nearbyint(quotient), args.low, args.high);
        args.output[i] = static_cast<uint8_t>(static_cast<int32_t>(code) + args.zero);
    }
    return nan;
}

bool sign_scalar(const SignArgs& args) {
    bool nan = false;
    for (int64_t start = 0; start < args.size; start += 8) {
        unsigned bits = 0;
        const int64_t size = std::min<int64_t>(8, args.size - start);
        for (int64_t i = 0; i < size; ++i) {
            const float x = args.input[start + i];
            nan = nan || std::isnan(x);
            bits |= static_cast<unsigned>(x >= 0.0F) << static_cast<unsigned>(i);
        }
        args.output[start / 8] = static_cast<uint8_t>(bits);
    }
    return nan;
}

}  // namespace bitwright
