// The engine's table for AVX-512, and its kernels without sums of products.
#include "engine-avx512.h"

#include <algorithm>

#include "engine-portable.h"
#include "engine-wide-portable.h"
#include "epilogue-avx512.h"

namespace bitwright {
namespace {

// Levels of channels n .. n + 15; what lies behind the last channel is read and not stored.
inline __m512i load_levels(const Term& term, const std::byte* pixel, int64_t n, __mmask16 live) {
    if (term.sums) return _mm512_maskz_loadu_epi32(live, pixel + 4 * n);
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(pixel + n));
    return _mm512_sub_epi32(_mm512_cvtepu8_epi32(bytes), _mm512_set1_epi32(term.zero));
}

template <Epilogue::Kind K>
void convert(const CombineArgs& args) {
    const Epilogue e = args.epilogue;
    const Term term = *args.terms;
    for (int64_t pixel = 0; pixel < args.pixels; ++pixel) {
        const std::byte* from = term.data + pixel * term.stride;
        std::byte* out = args.output + pixel * args.output_stride;
        for (int64_t n = 0; n < e.channels; n += kLanes) {
            store_tile<K>(e, load_levels(term, from, n, live_lanes(e.channels - n)), n, out);
        }
    }
}

// The sums of `pixels` pixels from pixel `first` on, channels n .. n + 15, in float64.
inline void add_double(const CombineArgs& args, const Epilogue& e, int64_t n, int64_t first,
                       int64_t pixels) {
    const __mmask16 live = live_lanes(e.channels - n);
    for (int64_t pixel = first; pixel < first + pixels; ++pixel) {
        __m512d y0 = _mm512_loadu_pd(e.scaled_offset + n);
        __m512d y1 = _mm512_loadu_pd(e.scaled_offset + n + 8);
        for (int64_t t = 0; t < args.count; ++t) {
            const Term& term = args.terms[t];
            const __m512i x = load_levels(term, term.data + pixel * term.stride, n, live);
            const double* m = term.scaled_multiplier + n;
            const __m512d x0 = _mm512_cvtepi32_pd(_mm512_castsi512_si256(x));
            const __m512d x1 = _mm512_cvtepi32_pd(_mm512_extracti64x4_epi64(x, 1));
            y0 = _mm512_fmadd_pd(x0, _mm512_loadu_pd(m), y0);
            y1 = _mm512_fmadd_pd(x1, _mm512_loadu_pd(m + 8), y1);
        }
        store_codes(e, y0, y1, n, args.output + pixel * args.output_stride);
    }
}

// A residual add: two terms of bytes, in float32. What belongs to the channels stays in registers.
void add_two(const CombineArgs& args, const Epilogue& e) {
    constexpr int64_t kPixels = 32;  // that are done again where one of them is not safe
    const Term a = args.terms[0], b = args.terms[1];
    for (int64_t n = 0; n < e.channels; n += kLanes) {
        const __mmask16 live = live_lanes(e.channels - n);
        const __m512 ma = _mm512_loadu_ps(a.single_multiplier + n);
        const __m512 mb = _mm512_loadu_ps(b.single_multiplier + n);
        const __m512 offset = _mm512_loadu_ps(e.single_offset + n);
        for (int64_t first = 0; first < args.pixels; first += kPixels) {
            const int64_t pixels = std::min(kPixels, args.pixels - first);
            SingleCodes codes(e);
            for (int64_t pixel = first; pixel < first + pixels; ++pixel) {
                const __m512i x = load_levels(a, a.data + pixel * a.stride, n, live);
                const __m512i y = load_levels(b, b.data + pixel * b.stride, n, live);
                const __m512 sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(x), ma, offset);
                codes.store(_mm512_fmadd_ps(_mm512_cvtepi32_ps(y), mb, sum), e.channels - n,
                            args.output + pixel * args.output_stride + n);
            }
            if (!codes.safe()) add_double(args, e, n, first, pixels);
        }
    }
}

void combine_avx512(const CombineArgs& args) {
    if (args.count == 1) {
        with_kind(args.epilogue.kind, [&](auto tag) { convert<tag.kind>(args); });
        return;
    }
    const Epilogue e = args.epilogue;
    if (args.count == 2 && e.single_multiplier != nullptr) {
        add_two(args, e);
        return;
    }
    for (int64_t n = 0; n < e.channels; n += kLanes) add_double(args, e, n, 0, args.pixels);
}

void split_avx512(const SplitArgs& args) {
    for (int64_t start = 0; start < args.channels; start += kWordBits) {
        const int64_t live = args.channels - start;
        const __mmask64 lanes = live >= kWordBits ? ~__mmask64{0} : (__mmask64{1} << live) - 1;
        const __m512i bytes = _mm512_maskz_loadu_epi8(lanes, args.input + start);
        for (int plane = 0; plane < args.planes; ++plane) {
            const auto bit = static_cast<char>(1 << (args.first + plane));
            const uint64_t word = _mm512_test_epi8_mask(bytes, _mm512_set1_epi8(bit));
            std::byte* out = args.output + plane * args.plane_bytes + start / 8;
            __builtin_memcpy(out, &word, sizeof word);
        }
    }
}

}  // namespace

const EngineTable kEngineAvx512 = {
    "avx512",
    dot_8x32_avx512vnni,
    dot_signs_8x32_avx512vnni,
    depthwise_4x16_avx512vnni,
    planes_8x16_avx512vpopcntdq,
    combine_avx512,
    max_bytes_portable,
    max_sums_portable,
    add_bytes_portable,
    split_avx512,
    "dot-8x32-avx512vnni",
    "depthwise-4x16-avx512vnni",
    "planes-8x16-avx512vpopcntdq",
    kWidePortable,
};

}  // namespace bitwright
