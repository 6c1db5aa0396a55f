// The engine's table for AVX2: the int8 product by hand, the rest compiled from the portable code.
//
// vpmaddubsw saturates (255 * 127 * 2 > 2^15), so bytes and weights are widened to 16 bits and
// vpmaddwd sums two taps into 32 bits. A register holds 4 channels x 2 sums of two taps; they are
// added last.
#include <immintrin.h>

#include "engine-portable.h"
#include "engine-wide-portable.h"

namespace bitwright {
namespace {

constexpr int kQuads = static_cast<int>(kLanes / 4);

__m256i widen_weights(const std::byte* from) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}

// M rows, starting at place `at` of the group, times one tile.
template <int M>
void dot_block(const DotArgs& args, int64_t tile, const std::byte* input, std::byte* output,
               int64_t at) {
    const std::byte* rows[M];
    for (int m = 0; m < M; ++m) rows[m] = input + args.rows.input_offset[at + m];
    __m256i acc[M][kQuads];
    for (int m = 0; m < M; ++m) {
        for (int q = 0; q < kQuads; ++q) acc[m][q] = _mm256_setzero_si256();
    }
    for (int64_t run = 0; run < args.runs; ++run) {
        const int64_t from = args.run_offset[run];
        const int64_t to = from + args.run_units * kDot;
        const std::byte* weights = args.weights + tile * args.weight_tile + run * args.weight_run;
        for (int64_t i = from; i < to; i += kDot, weights += kLanes * kDot) {
            __m256i a[M];
            for (int m = 0; m < M; ++m) {
                a[m] = _mm256_cvtepu8_epi16(_mm_set1_epi32(load_int32(rows[m] + i)));
            }
            for (int q = 0; q < kQuads; ++q) {
                const __m256i w = widen_weights(weights + q * 16);
                for (int m = 0; m < M; ++m) {
                    acc[m][q] = _mm256_add_epi32(acc[m][q], _mm256_madd_epi16(a[m], w));
                }
            }
        }
    }
    for (int m = 0; m < M; ++m) {
        alignas(32) int32_t sums[kLanes];
        for (int q = 0; q < kQuads; q += 2) {
            const __m256i pairs = _mm256_hadd_epi32(acc[m][q], acc[m][q + 1]);
            const __m256i ordered = _mm256_permute4x64_epi64(pairs, 0xD8);
            const auto* constants =
                reinterpret_cast<const __m256i*>(args.constants + tile * kLanes + 4 * q);
            _mm256_store_si256(reinterpret_cast<__m256i*>(sums + 4 * q),
                               _mm256_add_epi32(ordered, _mm256_loadu_si256(constants)));
        }
        store_tile(args.epilogue, sums, tile * kLanes, output + args.rows.output_offset[at + m]);
    }
}

void dot_2x16_avx2(const DotArgs& args) {
    const Rows& rows = args.rows;
    for (int64_t tile = args.first_tile; tile < args.tiles; ++tile) {
        const std::byte* input = rows.input;
        std::byte* output = rows.output;
        for (int64_t left = rows.rows; left > 0; left -= rows.group_rows) {
            const int64_t count = std::min(left, rows.group_rows);
            int64_t at = 0;
            for (; at + 2 <= count; at += 2) dot_block<2>(args, tile, input, output, at);
            if (at < count) dot_block<1>(args, tile, input, output, at);
            input += rows.input_group;
            output += rows.output_group;
        }
    }
}

}  // namespace

const EngineTable kEngineAvx2 = {
    "avx2",           dot_2x16_avx2,      nullptr,           depthwise_portable, planes_portable,
    combine_portable, max_bytes_portable, max_sums_portable, add_bytes_portable, split_portable,
    "dot-2x16-avx2",  "depthwise-avx2",   "planes-avx2",     kWidePortable,
};

}  // namespace bitwright
