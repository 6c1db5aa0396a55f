// Float input to codes, AVX-512: 16 elements at a time; the tail is masked.
#include <immintrin.h>

#include "kernels.h"

namespace bitwright {
namespace {

constexpr int64_t kFloats = 16;

__mmask16 lanes_left(int64_t left) {
    return left >= kFloats ? __mmask16(0xFFFF) : static_cast<__mmask16>((1U << left) - 1U);
}

}  // namespace

bool quantize_avx512bw(const QuantizeArgs& args) {
    const __m512 scale = _mm512_set1_ps(args.scale);
    const __m512 low = _mm512_set1_ps(args.low), high = _mm512_set1_ps(args.high);
    const __m512i zero = _mm512_set1_epi32(args.zero);
    __mmask16 nan = 0;
    for (int64_t i = 0; i < args.size; i += kFloats) {
        const __mmask16 live = lanes_left(args.size - i);
        const __m512 x = _mm512_maskz_loadu_ps(live, args.input + i);
        const __m512 quotient = _mm512_div_ps(x, scale);
        nan = static_cast<__mmask16>(nan | _mm512_cmp_ps_mask(quotient, quotient, _CMP_UNORD_Q));
        // Half to even, whatever the rounding mode. A NaN becomes `low` and is reported.
        const __m512 whole = _mm512_roundscale_ps(quotient, _MM_FROUND_TO_NEAREST_INT);
        const __m512 code = _mm512_min_ps(_mm512_max_ps(whole, low), high);
        const __m512i biased = _mm512_add_epi32(_mm512_cvttps_epi32(code), zero);
        _mm512_mask_cvtepi32_storeu_epi8(args.output + i, live, biased);
    }
    return nan != 0;
}

bool sign_avx512bw(const SignArgs& args) {
    const __m512 zero = _mm512_setzero_ps();
    __mmask16 nan = 0;
    for (int64_t i = 0; i < args.size; i += kFloats) {
        const __mmask16 live = lanes_left(args.size - i);
        const __m512 x = _mm512_maskz_loadu_ps(live, args.input + i);
        nan = static_cast<__mmask16>(nan | _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q));
        const __mmask16 bits = _mm512_mask_cmp_ps_mask(live, x, zero, _CMP_GE_OQ);
        args.output[i / 8] = static_cast<uint8_t>(bits);
        if (args.size - i > 8) args.output[i / 8 + 1] = static_cast<uint8_t>(bits >> 8);
    }
    return nan != 0;
}

}  // namespace bitwright
