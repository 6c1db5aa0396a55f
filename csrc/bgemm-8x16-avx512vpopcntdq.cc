// Binary product, AVX-512 VPOPCNTDQ: pc = sum over words of popcount(activation xor weight).
//
// Lanes are output channels, 8 per register, two registers per tile of weights. A block is M rows
// x NT tiles; each word of a row is broadcast against 2 NT registers of weights: xor, popcount,
// add, and nothing else. The loop over channel tiles is outermost, so that the weights are read
// once for all rows. Few rows take two tiles at once: as many independent sums.
#include <immintrin.h>

#include "kernels.h"
#include "layout.h"

namespace bitwright {
namespace {

enum class Epilogue { bits, sums };

// pc[2 t], pc[2 t + 1]: counts of the even and the odd channels of tile t.
template <Epilogue E, int NT>
inline void store(const __m512i (&pc)[2 * NT], int64_t tile, const int32_t* constants,
                  std::byte* out) {
    for (int t = 0; t < NT; ++t) {
        const __m512i constant = _mm512_loadu_si512(constants + (tile + t) * kLanes);
        // Counts fit in 32 bits: the odd channels' move into the upper halves of the even ones'.
        const __m512i count =
            _mm512_mask_shuffle_epi32(pc[2 * t], 0xAAAA, pc[2 * t + 1], _MM_PERM_CCAA);
        if constexpr (E == Epilogue::bits) {
            const __mmask16 bits = _mm512_cmple_epi32_mask(count, constant);
            __builtin_memcpy(out + 2 * (tile + t), &bits, sizeof bits);
        } else {
            const __m512i sum = _mm512_sub_epi32(constant, _mm512_slli_epi32(count, 1));
            _mm512_storeu_si512(out + (tile + t) * kLanes * 4, sum);
        }
    }
}

// M rows, starting at place `at` of the group, times NT tiles.
template <Epilogue E, int M, int NT>
inline __attribute__((always_inline)) void block(const ProductArgs& args, int64_t tile,
                                                 const std::byte* input, std::byte* output,
                                                 int64_t at) {
    const int64_t tile_bytes = args.weight_tile;
    const std::byte* rows[M];
    for (int m = 0; m < M; ++m) rows[m] = input + args.input_offset[at + m];

    __m512i pc[M][2 * NT];
    for (int m = 0; m < M; ++m) {
        for (int t = 0; t < 2 * NT; ++t) pc[m][t] = _mm512_setzero_si512();
    }
    for (int64_t run = 0; run < args.runs; ++run) {
        const int64_t from = run * args.run_stride;
        const int64_t to = from + args.run_units * kWordBytes;
        const std::byte* weights = args.weights + tile * tile_bytes + run * args.weight_run;
        for (int64_t i = from; i < to; i += kWordBytes) {
            __m512i w[2 * NT];
            for (int t = 0; t < 2 * NT; ++t) {
                w[t] = _mm512_loadu_si512(weights + t / 2 * tile_bytes + t % 2 * 64);
            }
            for (int m = 0; m < M; ++m) {
                const __m512i a =
                    _mm512_set1_epi64(*reinterpret_cast<const long long*>(rows[m] + i));
                for (int t = 0; t < 2 * NT; ++t) {
                    const __m512i differ = _mm512_xor_si512(a, w[t]);
                    pc[m][t] = _mm512_add_epi64(pc[m][t], _mm512_popcnt_epi64(differ));
                }
            }
            weights += kLanes * kWordBytes;
        }
    }
    for (int m = 0; m < M; ++m) {
        store<E, NT>(pc[m], tile, args.constants, output + args.output_offset[at + m]);
    }
}

// One row times one tile: the time is that of the weights' way from the cache, shortest where they
// are read in order; several words at a time make independent sums.
template <Epilogue E>
inline __attribute__((always_inline)) void stream(const ProductArgs& args, int64_t tile,
                                                  const std::byte* input, std::byte* output,
                                                  int64_t at) {
    constexpr int kWords = 4;
    constexpr int64_t kWord = kLanes * kWordBytes;
    const std::byte* row = input + args.input_offset[at];
    __m512i pc[2 * kWords];
    for (__m512i& sum : pc) sum = _mm512_setzero_si512();
    const auto count = [&](const std::byte* taps, const std::byte* weights, int word) {
        const __m512i a = _mm512_set1_epi64(*reinterpret_cast<const long long*>(taps));
        for (int half = 0; half < 2; ++half) {
            const std::byte* from = weights + half * 64;
            const __m512i differ = _mm512_xor_si512(a, _mm512_loadu_si512(from));
            __m512i& sum = pc[2 * word + half];
            sum = _mm512_add_epi64(sum, _mm512_popcnt_epi64(differ));
        }
    };
    for (int64_t run = 0; run < args.runs; ++run) {
        const std::byte* taps = row + run * args.run_stride;
        const std::byte* weights = args.weights + tile * args.weight_tile + run * args.weight_run;
        int64_t unit = 0;
        for (; unit + kWords <= args.run_units; unit += kWords) {
#pragma GCC unroll 4
            for (int word = 0; word < kWords; ++word) {
                count(taps + word * kWordBytes, weights + word * kWord, word);
            }
            taps += kWords * kWordBytes;
            weights += kWords * kWord;
        }
        for (; unit < args.run_units; ++unit, taps += kWordBytes, weights += kWord) {
            count(taps, weights, 0);
        }
    }
    __m512i sums[2];
    for (int half = 0; half < 2; ++half) {
        sums[half] = _mm512_add_epi64(_mm512_add_epi64(pc[half], pc[2 + half]),
                                      _mm512_add_epi64(pc[4 + half], pc[6 + half]));
    }
    store<E, 1>(sums, tile, args.constants, output + args.output_offset[at]);
}

// All rows times NT tiles, MMax rows at a time. The copy tells the compiler that what a kernel
// stores cannot change its arguments: worth a tenth of the time.
template <Epilogue E, int MMax, int NT>
void tiles(const ProductArgs& given, int64_t tile) {
    const ProductArgs args = given;
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
    if (args.rows == 1) {
        const ProductArgs one = args;
        for (; tile < one.tiles; ++tile) stream<E>(one, tile, one.input, one.output, 0);
    }
    if (args.rows <= 4) {
        for (; tile + 2 <= args.tiles; tile += 2) tiles<E, 4, 2>(args, tile);
    }
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
