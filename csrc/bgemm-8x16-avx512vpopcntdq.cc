// Binary product, AVX-512 VPOPCNTDQ: pc = sum over words of popcount(activation xor weight).
//
// Lanes are output channels, 8 per register. A tile is M rows x NT registers; each word of a row
// is broadcast against NT words of weights: xor, popcount, add, and nothing else. The loop over
// channel tiles is outermost, so that the weights are read once for all rows. Few rows take four
// tiles at once: as many independent sums, and four streams of weights.
#include <immintrin.h>

#include "kernels.h"
#include "layout.h"

namespace bitwright {
namespace {

enum class Epilogue { bits, sums };

template <Epilogue E, int NT>
inline void store(const ProductArgs& args, const __m512i (&pc)[NT], int64_t tile,
                  const int32_t* constants, std::byte* out) {
    if constexpr (E == Epilogue::bits) {
        for (int t = 0; t < NT; ++t) {
            const __m512i limit = _mm512_cvtepi32_epi64(_mm256_loadu_si256(
                reinterpret_cast<const __m256i*>(constants + (tile + t) * kBitLanes)));
            const __mmask8 raw = _mm512_cmple_epi64_mask(pc[t], limit);
            out[tile + t] = static_cast<std::byte>(raw ^ args.flips[tile + t]);
        }
    } else {
        for (int t = 0; t < NT; ++t) {
            const __m256i count = _mm512_cvtepi64_epi32(pc[t]);
            const __m256i base = _mm256_loadu_si256(
                reinterpret_cast<const __m256i*>(constants + (tile + t) * kBitLanes));
            const __m256i sum = _mm256_sub_epi32(base, _mm256_slli_epi32(count, 1));
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(out) + tile + t, sum);
        }
    }
}

// M rows, starting at place `at` of the group, times NT tiles.
template <Epilogue E, int M, int NT>
inline __attribute__((always_inline)) void block(const ProductArgs& args, int64_t tile,
                                                 const std::byte* input, std::byte* output,
                                                 int64_t at) {
    const int64_t words = args.runs * args.run_units;
    const int64_t tile_bytes = words * kBitLanes * kWordBytes;
    const std::byte* weights = args.weights + tile * tile_bytes;
    const std::byte* rows[M];
    for (int m = 0; m < M; ++m) rows[m] = input + args.input_offset[at + m];

    __m512i pc[M][NT];
    for (int m = 0; m < M; ++m) {
        for (int t = 0; t < NT; ++t) pc[m][t] = _mm512_setzero_si512();
    }
    for (int64_t run = 0; run < args.runs; ++run) {
        const int64_t from = run * args.run_stride;
        const int64_t to = from + args.run_units * kWordBytes;
        for (int64_t i = from; i < to; i += kWordBytes) {
            __m512i w[NT];
            for (int t = 0; t < NT; ++t) w[t] = _mm512_loadu_si512(weights + t * tile_bytes);
            for (int m = 0; m < M; ++m) {
                const __m512i a =
                    _mm512_set1_epi64(*reinterpret_cast<const long long*>(rows[m] + i));
                for (int t = 0; t < NT; ++t) {
                    const __m512i differ = _mm512_xor_si512(a, w[t]);
                    pc[m][t] = _mm512_add_epi64(pc[m][t], _mm512_popcnt_epi64(differ));
                }
            }
            weights += kBitLanes * kWordBytes;
        }
    }
    for (int m = 0; m < M; ++m) {
        store<E, NT>(args, pc[m], tile, args.constants + args.constant_offset[at + m],
                     output + args.output_offset[at + m]);
    }
}

// All rows times NT tiles, MMax rows at a time.
template <Epilogue E, int MMax, int NT>
void tiles(const ProductArgs& args, int64_t tile) {
    const std::byte* input = args.input;
    std::byte* output = args.output;
    for (int64_t left = args.rows; left > 0; left -= args.group_rows) {
        const int64_t rows = left < args.group_rows ? left : args.group_rows;
        int64_t at = 0;
        for (; at + MMax <= rows; at += MMax) block<E, MMax, NT>(args, tile, input, output, at);
        switch (rows - at) {
            // clang-format off
            case 1: block<E, 1, NT>(args, tile, input, output, at); break;
            case 2: block<E, 2, NT>(args, tile, input, output, at); break;
            case 3: block<E, 3, NT>(args, tile, input, output, at); break;
            case 4: if constexpr (MMax > 4) block<E, 4, NT>(args, tile, input, output, at); break;
            case 5: if constexpr (MMax > 5) block<E, 5, NT>(args, tile, input, output, at); break;
            case 6: if constexpr (MMax > 6) block<E, 6, NT>(args, tile, input, output, at); break;
            case 7: if constexpr (MMax > 7) block<E, 7, NT>(args, tile, input, output, at); break;
            default: break;
            // clang-format on
        }
        input += args.input_group;
        output += args.output_group;
    }
}

template <Epilogue E>
void bgemm(const ProductArgs& args) {
    int64_t tile = 0;
    if (args.rows <= 4) {
        for (; tile + 4 <= args.tiles; tile += 4) tiles<E, 4, 4>(args, tile);
    }
    for (; tile + 2 <= args.tiles; tile += 2) tiles<E, 8, 2>(args, tile);
    for (; tile < args.tiles; ++tile) tiles<E, 8, 1>(args, tile);
}

}  // namespace

void bgemm_bits_8x16_avx512vpopcntdq(const ProductArgs& args) {
    bgemm<Epilogue::bits>(args);
}

void bgemm_sums_8x16_avx512vpopcntdq(const ProductArgs& args) {
    bgemm<Epilogue::sums>(args);
}

}  // namespace bitwright
