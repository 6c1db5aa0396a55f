// From accumulators to what is stored, 16 channels at a time, AVX-512.
#pragma once

#include <immintrin.h>

#include "engine.h"
#include "layout.h"

namespace bitwright {
namespace {

inline __mmask16 live_lanes(int64_t left) {
    return left >= kLanes ? __mmask16(0xFFFF) : static_cast<__mmask16>((1U << left) - 1U);
}

// Integers within 32 bits after the clip; the clip's bounds are integers, so it may come first.
inline __m256i round_codes(__m512d y, __m512d low, __m512d high, Rounding rounding) {
    y = _mm512_min_pd(_mm512_max_pd(y, low), high);
    switch (rounding) {
        case Rounding::nearest_even:
            return _mm512_cvt_roundpd_epi32(y, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        case Rounding::floor:
            return _mm512_cvt_roundpd_epi32(y, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
        case Rounding::ceil:
            return _mm512_cvt_roundpd_epi32(y, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC);
        case Rounding::toward_zero:
            return _mm512_cvttpd_epi32(y);
        case Rounding::nearest_away:
        case Rounding::stochastic:
            break;
    }
    // Whole part and rest are exact; y + 1/2 would round.
    const __m512d whole = _mm512_roundscale_pd(y, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
    const __m512d rest = _mm512_sub_pd(y, whole);
    const __m512d one = _mm512_set1_pd(1.0), half = _mm512_set1_pd(0.5);
    const __mmask8 up = _mm512_cmp_pd_mask(rest, half, _CMP_GE_OQ);
    const __mmask8 down =
        _mm512_cmp_pd_mask(rest, _mm512_sub_pd(_mm512_setzero_pd(), half), _CMP_LE_OQ);
    __m512d rounded = _mm512_mask_add_pd(whole, up, whole, one);
    rounded = _mm512_mask_sub_pd(rounded, down, rounded, one);
    return _mm512_cvttpd_epi32(rounded);
}

inline void store_bytes(__m512i bytes, int64_t live, std::byte* out) {
    const __m128i packed = _mm512_cvtepi32_epi8(bytes);
    if (live >= kLanes) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out), packed);
    } else {
        _mm_mask_storeu_epi8(out, live_lanes(live), packed);
    }
}

// y: the scaled sums of channels n .. n + 7 and n + 8 .. n + 15.
inline void store_codes(const Epilogue& e, __m512d y0, __m512d y1, int64_t n, std::byte* out) {
    const __m512d low = _mm512_set1_pd(e.low), high = _mm512_set1_pd(e.high);
    const __m256i c0 = round_codes(y0, low, high, e.rounding);
    const __m256i c1 = round_codes(y1, low, high, e.rounding);
    const __m512i codes = _mm512_inserti64x4(_mm512_castsi256_si512(c0), c1, 1);
    store_bytes(_mm512_add_epi32(codes, _mm512_set1_epi32(e.zero)), e.channels - n, out + n);
}

// Codes from float32 sums, 16 channels at a time; what was stored counts if it is `safe` in the
// end.
class SingleCodes {
  public:
    explicit SingleCodes(const Epilogue& e)
        : fraction_(_mm512_set1_epi32(e.single_fraction)),
          low_(_mm512_set1_epi32(e.single_low)),
          high_(_mm512_set1_epi32(e.single_high)),
          zero_(_mm512_set1_epi32(e.single_zero)),
          limit_(_mm512_set1_epi32(e.single_limit)),
          order_(_mm512_add_epi8(_mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x3C383430,
                                                  0x2C282420, 0x1C181410, 0x0C080400),
                                 _mm512_set1_epi32(e.single_byte))) {}
    inline __attribute__((always_inline)) void store(__m512 sum, int64_t live, std::byte* out) {
        __m512i z = _mm512_cvt_roundps_epi32(sum, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        least_ = _mm512_min_epu32(least_, _mm512_and_si512(z, fraction_));
        z = _mm512_min_epi32(_mm512_max_epi32(z, low_), high_);
        z = _mm512_permutexvar_epi8(order_, _mm512_add_epi32(z, zero_));
        if (live >= kLanes) {
            _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm512_castsi512_si128(z));
        } else {
            _mm_mask_storeu_epi8(out, live_lanes(live), _mm512_castsi512_si128(z));
        }
    }
    bool safe() const { return _mm512_cmplt_epu32_mask(least_, limit_) == 0; }

  private:
    __m512i fraction_, low_, high_, zero_, limit_, order_;
    __m512i least_ = _mm512_set1_epi32(-1);
};

template <Epilogue::Kind K>
inline __attribute__((always_inline)) void store_tile(const Epilogue& e, __m512i acc, int64_t n,
                                                      std::byte* out) {
    if constexpr (K == Epilogue::Kind::sums) {
        if (e.channels - n >= kLanes) {
            _mm512_storeu_si512(out + 4 * n, acc);
        } else {
            _mm512_mask_storeu_epi32(out + 4 * n, live_lanes(e.channels - n), acc);
        }
    } else if constexpr (K == Epilogue::Kind::bits) {
        const __m512i limit = _mm512_loadu_si512(e.thresholds + n);
        const auto bits =
            static_cast<uint16_t>(_mm512_cmpge_epi32_mask(acc, limit) ^ e.flips[n / kLanes]);
        __builtin_memcpy(out + n / 8, &bits, sizeof bits);
    } else if constexpr (K == Epilogue::Kind::levels) {
        __m512i passed = _mm512_setzero_si512();
        const __m512i one = _mm512_set1_epi32(1);
        for (int64_t k = 0; k < e.count; ++k) {
            const __m512i limit = _mm512_loadu_si512(e.thresholds + k * e.padded + n);
            passed =
                _mm512_mask_add_epi32(passed, _mm512_cmpge_epi32_mask(acc, limit), passed, one);
        }
        const __m512i step = _mm512_loadu_si512(e.step + n), base = _mm512_loadu_si512(e.base + n);
        store_bytes(_mm512_add_epi32(base, _mm512_mullo_epi32(step, passed)), e.channels - n,
                    out + n);
    } else {
        const double *m = e.scaled_multiplier + n, *b = e.scaled_offset + n;
        const __m512d x0 = _mm512_cvtepi32_pd(_mm512_castsi512_si256(acc));
        const __m512d x1 = _mm512_cvtepi32_pd(_mm512_extracti64x4_epi64(acc, 1));
        store_codes(e, _mm512_fmadd_pd(x0, _mm512_loadu_pd(m), _mm512_loadu_pd(b)),
                    _mm512_fmadd_pd(x1, _mm512_loadu_pd(m + 8), _mm512_loadu_pd(b + 8)), n, out);
    }
}

// Codes of `rows` rows x `count` tiles from float32; false if one of them is not safe.
inline __attribute__((noinline)) bool store_singles(const Epilogue& e, const __m512i* acc, int rows,
                                                    int count, int64_t tile, std::byte* output,
                                                    const int32_t* output_offset) {
    SingleCodes codes(e);
    const float *multiplier = e.single_multiplier, *offset = e.single_offset;
    const int64_t channels = e.channels;
    for (int t = 0; t < count; ++t) {
        const int64_t n = (tile + t) * kLanes;
        const __m512 m = _mm512_loadu_ps(multiplier + n), b = _mm512_loadu_ps(offset + n);
#pragma GCC unroll 1
        for (int row = 0; row < rows; ++row) {
            const __m512 x = _mm512_cvtepi32_ps(acc[row * count + t]);
            codes.store(_mm512_fmadd_ps(x, m, b), channels - n, output + output_offset[row] + n);
        }
    }
    return codes.safe();
}

// The accumulators of `rows` rows x `count` tiles. Not inlined: its loops index them by variables,
// which would move the kernels' own from registers to memory. The copy: what is stored could
// otherwise change the epilogue, for all that the compiler knows.
template <Epilogue::Kind K>
__attribute__((noinline)) void store_block(const Epilogue& given, const __m512i* acc, int rows,
                                           int count, int64_t tile, std::byte* output,
                                           const int32_t* output_offset) {
    if (K == Epilogue::Kind::codes && given.single_multiplier != nullptr &&
        store_singles(given, acc, rows, count, tile, output, output_offset)) {
        return;
    }
    const Epilogue e = given;
    for (int t = 0; t < count; ++t) {
        const int64_t n = (tile + t) * kLanes;
        if constexpr (K == Epilogue::Kind::codes) {
            const double *m = e.scaled_multiplier + n, *b = e.scaled_offset + n;
            const __m512d m0 = _mm512_loadu_pd(m), m1 = _mm512_loadu_pd(m + 8);
            const __m512d b0 = _mm512_loadu_pd(b), b1 = _mm512_loadu_pd(b + 8);
            for (int row = 0; row < rows; ++row) {
                const __m512i x = acc[row * count + t];
                const __m512d x0 = _mm512_cvtepi32_pd(_mm512_castsi512_si256(x));
                const __m512d x1 = _mm512_cvtepi32_pd(_mm512_extracti64x4_epi64(x, 1));
                store_codes(e, _mm512_fmadd_pd(x0, m0, b0), _mm512_fmadd_pd(x1, m1, b1), n,
                            output + output_offset[row]);
            }
        } else {
            for (int row = 0; row < rows; ++row) {
                store_tile<K>(e, acc[row * count + t], n, output + output_offset[row]);
            }
        }
    }
}

// Calls run(tag) with the kind as a constant.
template <Epilogue::Kind K>
struct KindTag {
    static constexpr Epilogue::Kind kind = K;
};
template <typename Run>
inline void with_kind(Epilogue::Kind kind, Run run) {
    switch (kind) {
        case Epilogue::Kind::sums:
            return run(KindTag<Epilogue::Kind::sums>{});
        case Epilogue::Kind::bits:
            return run(KindTag<Epilogue::Kind::bits>{});
        case Epilogue::Kind::levels:
            return run(KindTag<Epilogue::Kind::levels>{});
        case Epilogue::Kind::codes:
            return run(KindTag<Epilogue::Kind::codes>{});
    }
}

// All rows, MMax at a time: block<M>(place in the group, input, output).
template <int MMax, typename Block>
inline __attribute__((always_inline)) void for_row_blocks(const Rows& rows, Block block) {
    const std::byte* input = rows.input;
    std::byte* output = rows.output;
    for (int64_t left = rows.rows; left > 0; left -= rows.group_rows) {
        const int64_t count = left < rows.group_rows ? left : rows.group_rows;
        int64_t at = 0;
        for (; at + MMax <= count; at += MMax) block.template operator()<MMax>(at, input, output);
        switch (count - at) {
                // clang-format off
            case 1: block.template operator()<1>(at, input, output); break;
            case 2: block.template operator()<2>(at, input, output); break;
            case 3: block.template operator()<3>(at, input, output); break;
            case 4: if constexpr (MMax > 4) block.template operator()<4>(at, input, output); break;
            case 5: if constexpr (MMax > 5) block.template operator()<5>(at, input, output); break;
            case 6: if constexpr (MMax > 6) block.template operator()<6>(at, input, output); break;
            case 7: if constexpr (MMax > 7) block.template operator()<7>(at, input, output); break;
            default: break;
                // clang-format on
        }
        input += rows.input_group;
        output += rows.output_group;
    }
}

}  // namespace
}  // namespace bitwright
