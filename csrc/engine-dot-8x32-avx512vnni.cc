// 8-bit product, AVX-512 VNNI: acc = constant + sum of byte * weight, 4 taps per instruction.
//
// Lanes are output channels, 16 per register. A block is M rows x NT registers; 4 bytes of a row
// are broadcast against NT registers of weights. A run whose length is not a multiple of 4 reads
// up to 3 bytes of what follows it: their weights are 0. Accumulators start at the constant that
// takes the zero point out, so that the epilogue sees the sum itself.
#include <cstdint>

#include "engine-avx512.h"
#include "epilogue-avx512.h"

namespace bitwright {
namespace {

// acc += dot of 4 unsigned bytes and 4 signed ones, per lane. With the intrinsic, GCC 12 copies
// every accumulator twice per instruction (1.5x the time); an in-place operand leaves no choice.
inline void multiply_add(__m512i& acc, __m512i bytes, __m512i weights) {
    asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(bytes), "v"(weights));
}

inline __m512i broadcast(const std::byte* taps) {
    int32_t four;
    __builtin_memcpy(&four, taps, sizeof four);
    return _mm512_set1_epi32(four);
}

// Signs of 4 taps of 16 channels: that of byte i is bit i / 8 (layout.h).
inline __m512i repeat_signs(const std::byte* from) {
    int64_t all;
    __builtin_memcpy(&all, from, sizeof all);
    return _mm512_set1_epi64(all);
}

inline __m512i sign_bits() {
    return _mm512_sllv_epi64(_mm512_set1_epi8(1), _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0));
}

// 4 taps of 16 channels: bytes, or signs that become bytes on the way.
template <bool Signs>
inline __m512i load_weights(const std::byte* from) {
    if constexpr (!Signs) return _mm512_loadu_si512(from);
    const __mmask64 positive = _mm512_test_epi8_mask(repeat_signs(from), sign_bits());
    return _mm512_mask_blend_epi8(positive, _mm512_set1_epi8(-1), _mm512_set1_epi8(1));
}

template <bool Signs>
constexpr int64_t kUnitWeights = Signs ? kLanes * kDot / 8 : kLanes * kDot;

// M rows, starting at place `at` of the group, times NT tiles.
template <Epilogue::Kind K, bool Signs, int M, int NT>
inline __attribute__((always_inline)) void block(const DotArgs& args, int64_t tile,
                                                 const std::byte* input, std::byte* output,
                                                 int64_t at) {
    const int64_t tile_bytes = args.weight_tile;
    const std::byte* rows[M];
    for (int m = 0; m < M; ++m) rows[m] = input + args.rows.input_offset[at + m];

    __m512i acc[M][NT];
    for (int t = 0; t < NT; ++t) {
        const __m512i constant = _mm512_loadu_si512(args.constants + (tile + t) * kLanes);
        for (int m = 0; m < M; ++m) acc[m][t] = constant;
    }
    for (int64_t run = 0; run < args.runs; ++run) {
        const int64_t from = args.run_offset[run];
        const int64_t to = from + args.run_units * kDot;
        const std::byte* weights = args.weights + tile * tile_bytes + run * args.weight_run;
        for (int64_t i = from; i < to; i += kDot) {
            __m512i w[NT];
            for (int t = 0; t < NT; ++t) {
                w[t] = load_weights<Signs>(weights + t * tile_bytes);
            }
            for (int m = 0; m < M; ++m) {
                const __m512i a = broadcast(rows[m] + i);
                for (int t = 0; t < NT; ++t) multiply_add(acc[m][t], a, w[t]);
            }
            weights += kUnitWeights<Signs>;
        }
    }
    if constexpr (K == Epilogue::Kind::bits) {  // so little that it stays in registers
        const int32_t* places = args.rows.output_offset + at;
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) {
#pragma GCC unroll 4
            for (int t = 0; t < NT; ++t) {
                store_tile<K>(args.epilogue, acc[m][t], (tile + t) * kLanes, output + places[m]);
            }
        }
        return;
    }
    __m512i done[M * NT];
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 4
        for (int t = 0; t < NT; ++t) done[m * NT + t] = acc[m][t];
    }
    store_block<K>(args.epilogue, done, M, NT, tile, output, args.rows.output_offset + at);
}

// Sum of the only row's bytes, in every lane.
__m512i sum_of_row(const DotArgs& args) {
    const std::byte* row = args.rows.input + *args.rows.input_offset;
    __m512i sum = _mm512_setzero_si512();
    for (int64_t run = 0; run < args.runs; ++run) {
        const std::byte* taps = row + args.run_offset[run];
        for (int64_t left = args.run_units * kDot; left > 0; left -= 64, taps += 64) {
            const __mmask64 live = left < 64 ? (__mmask64{1} << left) - 1 : ~__mmask64{0};
            multiply_add(sum, _mm512_maskz_loadu_epi8(live, taps), _mm512_set1_epi8(1));
        }
    }
    return _mm512_set1_epi32(_mm512_reduce_add_epi32(sum));
}

// So many units of signs leave the accumulators of `stream` below 2^31.
constexpr int64_t kMostSigns = INT32_MAX / (kDot * 255 * 128);

// One row times one tile: the weights are read in order, several units at a time (see bgemm).
// Signs do not become +-1; with p the place of a channel's bits,
//   acc = sum of byte * (signs & 2^p) = 2^p * sum of bytes at +1; -2^7 where p = 7
//   sum of byte * sign = 2 * sum of bytes at +1 - sum of bytes
template <Epilogue::Kind K, bool Signs>
inline __attribute__((always_inline)) void stream(const DotArgs& args, int64_t tile,
                                                  __m512i sum_of_bytes) {
    constexpr int kUnits = 4;
    const std::byte* row = args.rows.input + *args.rows.input_offset;
    __m512i acc[kUnits];
    for (int i = 0; i < kUnits; ++i) acc[i] = _mm512_setzero_si512();
    const auto add = [&](__m512i& sum, const std::byte* taps, const std::byte* weights) {
        multiply_add(sum, broadcast(taps),
                     Signs ? _mm512_and_si512(repeat_signs(weights), sign_bits())
                           : _mm512_loadu_si512(weights));
    };
    for (int64_t run = 0; run < args.runs; ++run) {
        const std::byte* taps = row + args.run_offset[run];
        const std::byte* weights = args.weights + tile * args.weight_tile + run * args.weight_run;
        int64_t unit = 0;
        for (; unit + kUnits <= args.run_units; unit += kUnits) {
#pragma GCC unroll 4
            for (int i = 0; i < kUnits; ++i) {
                add(acc[i], taps + i * kDot, weights + i * kUnitWeights<Signs>);
            }
            taps += kUnits * kDot;
            weights += kUnits * kUnitWeights<Signs>;
        }
        for (; unit < args.run_units; ++unit, taps += kDot, weights += kUnitWeights<Signs>) {
            add(acc[0], taps, weights);
        }
    }
    __m512i sum =
        _mm512_add_epi32(_mm512_add_epi32(acc[0], acc[1]), _mm512_add_epi32(acc[2], acc[3]));
    if constexpr (Signs) {
        sum = _mm512_srav_epi32(sum,
                                _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0));
        sum = _mm512_mask_sub_epi32(sum, 0xC000, _mm512_setzero_si512(), sum);  // p = 7
        sum = _mm512_sub_epi32(_mm512_add_epi32(sum, sum), sum_of_bytes);
    }
    sum = _mm512_add_epi32(sum, _mm512_loadu_si512(args.constants + tile * kLanes));
    store_tile<K>(args.epilogue, sum, tile * kLanes, args.rows.output + *args.rows.output_offset);
}

// All rows times NT tiles, MMax rows at a time. The copy tells the compiler that what a kernel
// stores cannot change its arguments: worth a tenth of the time.
template <Epilogue::Kind K, bool Signs, int MMax, int NT>
void tiles(const DotArgs& given, int64_t tile) {
    const DotArgs args = given;
    for_row_blocks<MMax>(args.rows,
                         [&]<int M>(int64_t at, const std::byte* input, std::byte* output) {
                             block<K, Signs, M, NT>(args, tile, input, output, at);
                         });
}

template <Epilogue::Kind K, bool Signs>
void dot(const DotArgs& given) {
    const DotArgs args = given;
    int64_t tile = args.first_tile;
    if (args.rows.rows == 1 && (!Signs || args.runs * args.run_units <= kMostSigns)) {
        const __m512i sum = Signs ? sum_of_row(args) : _mm512_setzero_si512();
        for (; tile < args.tiles; ++tile) stream<K, Signs>(args, tile, sum);
    }
    if (args.rows.rows <= 4) {
        for (; tile + 4 <= args.tiles; tile += 4) tiles<K, Signs, 4, 4>(args, tile);
    }
    for (; tile + 2 <= args.tiles; tile += 2) tiles<K, Signs, 8, 2>(args, tile);
    for (; tile < args.tiles; ++tile) tiles<K, Signs, 8, 1>(args, tile);
}

// One byte of each of 4 taps for 16 channels, channel by channel.
inline __m512i interleave(const std::byte* first, const int32_t* at, __m512i order) {
    const auto load = [&](int i) {
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(first + at[i]));
    };
    const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(load(0)), load(1), 1);
    const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(load(2)), load(3), 1);
    const __m512i all = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
    return _mm512_permutexvar_epi8(order, all);
}

template <Epilogue::Kind K, int M>
inline __attribute__((always_inline)) void depthwise_block(const DotArgs& args, int64_t tile,
                                                           __m512i order, const std::byte* input,
                                                           std::byte* output, int64_t at) {
    const std::byte* weights = args.weights + tile * args.weight_tile;
    const std::byte* rows[M];
    __m512i acc[M];
    for (int m = 0; m < M; ++m) {
        rows[m] = input + args.rows.input_offset[at + m] + tile * kLanes;
        acc[m] = _mm512_loadu_si512(args.constants + tile * kLanes);
    }
    for (int64_t unit = 0; unit < args.run_units; ++unit) {
        const __m512i w = _mm512_loadu_si512(weights + unit * kLanes * kDot);
        for (int m = 0; m < M; ++m) {
            multiply_add(acc[m], interleave(rows[m], args.run_offset + unit * kDot, order), w);
        }
    }
    __m512i done[M];
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) done[m] = acc[m];
    store_block<K>(args.epilogue, done, M, 1, tile, output, args.rows.output_offset + at);
}

template <Epilogue::Kind K>
void depthwise(const DotArgs& given) {
    const DotArgs args = given;
    alignas(64) uint8_t places[64];
    for (int i = 0; i < 64; ++i) places[i] = static_cast<uint8_t>(i % kDot * kLanes + i / kDot);
    const __m512i order = _mm512_load_si512(places);
    for (int64_t tile = args.first_tile; tile < args.tiles; ++tile) {
        for_row_blocks<4>(args.rows,
                          [&]<int M>(int64_t at, const std::byte* input, std::byte* output) {
                              depthwise_block<K, M>(args, tile, order, input, output, at);
                          });
    }
}

}  // namespace

void dot_8x32_avx512vnni(const DotArgs& args) {
    with_kind(args.epilogue.kind, [&](auto tag) { dot<tag.kind, false>(args); });
}

void dot_signs_8x32_avx512vnni(const DotArgs& args) {
    with_kind(args.epilogue.kind, [&](auto tag) { dot<tag.kind, true>(args); });
}

void depthwise_4x16_avx512vnni(const DotArgs& args) {
    with_kind(args.epilogue.kind, [&](auto tag) { depthwise<tag.kind>(args); });
}

}  // namespace bitwright
