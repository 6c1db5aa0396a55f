// 8-bit product, AVX-512 VNNI: acc = sum over taps of byte * weight, 4 taps per instruction.
//
// Lanes are output channels, 16 per register. A tile is M rows x NT registers; 4 bytes of a row
// are broadcast against NT registers of weights. A run whose length is not a multiple of 4 reads
// up to 3 bytes of what follows it: their weights are 0.
#include <immintrin.h>

#include "kernels.h"
#include "layout.h"

namespace bitwright {
namespace {

enum class Epilogue { bits, sums };

// acc += dot of 4 unsigned bytes and 4 signed ones, per lane. With the intrinsic, GCC 12 copies
// every accumulator twice per instruction (1.5x the time); an in-place operand leaves no choice.
inline void multiply_add(__m512i& acc, __m512i bytes, __m512i weights) {
    asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(bytes), "v"(weights));
}

template <Epilogue E, int NT>
inline void store(const __m512i (&acc)[NT], int64_t tile, const int32_t* constants,
                  std::byte* out) {
    for (int t = 0; t < NT; ++t) {
        const __m512i constant = _mm512_loadu_si512(constants + (tile + t) * kLanes);
        if constexpr (E == Epilogue::bits) {
            const __mmask16 raw = _mm512_cmpge_epi32_mask(acc[t], constant);
            __builtin_memcpy(out + 2 * (tile + t), &raw, sizeof raw);
        } else {
            _mm512_storeu_si512(out + (tile + t) * kLanes * 4, _mm512_add_epi32(constant, acc[t]));
        }
    }
}

// M rows, starting at place `at` of the group, times NT tiles.
template <Epilogue E, int M, int NT>
inline __attribute__((always_inline)) void block(const ProductArgs& args, int64_t tile,
                                                 const std::byte* input, std::byte* output,
                                                 int64_t at) {
    const int64_t tile_bytes = args.runs * args.run_units * kLanes * kDot;
    const std::byte* weights = args.weights + tile * tile_bytes;
    const std::byte* rows[M];
    for (int m = 0; m < M; ++m) rows[m] = input + args.input_offset[at + m];

    __m512i acc[M][NT];
    for (int m = 0; m < M; ++m) {
        for (int t = 0; t < NT; ++t) acc[m][t] = _mm512_setzero_si512();
    }
    for (int64_t run = 0; run < args.runs; ++run) {
        const int64_t from = run * args.run_stride;
        const int64_t to = from + args.run_units * kDot;
        for (int64_t i = from; i < to; i += kDot) {
            __m512i w[NT];
            for (int t = 0; t < NT; ++t) w[t] = _mm512_loadu_si512(weights + t * tile_bytes);
            for (int m = 0; m < M; ++m) {
                int32_t four;
                __builtin_memcpy(&four, rows[m] + i, sizeof four);
                const __m512i a = _mm512_set1_epi32(four);
                for (int t = 0; t < NT; ++t) multiply_add(acc[m][t], a, w[t]);
            }
            weights += kLanes * kDot;
        }
    }
    for (int m = 0; m < M; ++m) {
        store<E, NT>(acc[m], tile, args.constants + args.constant_offset[at + m],
                     output + args.output_offset[at + m]);
    }
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
void gemm(const ProductArgs& args) {
    int64_t tile = 0;
    if (args.rows <= 4) {
        for (; tile + 4 <= args.tiles; tile += 4) tiles<E, 4, 4>(args, tile);
    }
    for (; tile + 2 <= args.tiles; tile += 2) tiles<E, 8, 2>(args, tile);
    for (; tile < args.tiles; ++tile) tiles<E, 8, 1>(args, tile);
}

}  // namespace

void gemm_u8s8_bits_8x32_avx512vnni(const ProductArgs& args) {
    gemm<Epilogue::bits>(args);
}

void gemm_u8s8_sums_8x32_avx512vnni(const ProductArgs& args) {
    gemm<Epilogue::sums>(args);
}

}  // namespace bitwright
