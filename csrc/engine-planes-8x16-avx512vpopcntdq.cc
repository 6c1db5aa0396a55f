// Product of planes of bits, AVX-512 VPOPCNTDQ: acc = constant + sum over pairs of planes of
// coefficient * popcount(activation op weight), op being xor or and.
//
// Lanes are output channels, 8 per register, two registers per tile of weights. A block is M rows
// x NT tiles; each word of a row is broadcast against 2 NT registers of weights: op, popcount, add,
// and nothing else. The loop over channel tiles is outermost, so that the weights are read once for
// all rows. Few rows take two tiles at once: as many independent sums.
#include "engine-avx512.h"
#include "epilogue-avx512.h"

namespace bitwright {
namespace {

// Counts pc[2 t], pc[2 t + 1] of the even and the odd channels of tile t, over one pair of planes.
template <bool Exclusive, int M, int NT>
inline __attribute__((always_inline)) void count(const PlaneArgs& args, const std::byte* weights,
                                                 const std::byte* const (&rows)[M],
                                                 int64_t tile_bytes, __m512i (&pc)[M][2 * NT]) {
    for (int m = 0; m < M; ++m) {
        for (int t = 0; t < 2 * NT; ++t) pc[m][t] = _mm512_setzero_si512();
    }
    for (int64_t run = 0; run < args.runs; ++run) {
        const int64_t from = args.run_offset[run];
        const int64_t to = from + args.run_units * kWordBytes;
        for (int64_t i = from; i < to; i += kWordBytes) {
            __m512i w[2 * NT];
            for (int t = 0; t < 2 * NT; ++t) {
                w[t] = _mm512_loadu_si512(weights + t / 2 * tile_bytes + t % 2 * 64);
            }
            for (int m = 0; m < M; ++m) {
                const __m512i a =
                    _mm512_set1_epi64(*reinterpret_cast<const long long*>(rows[m] + i));
                for (int t = 0; t < 2 * NT; ++t) {
                    const __m512i both =
                        Exclusive ? _mm512_xor_si512(a, w[t]) : _mm512_and_si512(a, w[t]);
                    pc[m][t] = _mm512_add_epi64(pc[m][t], _mm512_popcnt_epi64(both));
                }
            }
            weights += kLanes * kWordBytes;
        }
    }
}

// M rows, starting at place `at` of the group, times NT tiles.
template <Epilogue::Kind K, bool Exclusive, int M, int NT>
inline __attribute__((always_inline)) void block(const PlaneArgs& args, int64_t tile,
                                                 const std::byte* input, std::byte* output,
                                                 int64_t at) {
    const int64_t tile_bytes = args.runs * args.run_units * kLanes * kWordBytes;
    __m512i acc[M][NT];
    for (int m = 0; m < M; ++m) {
        for (int t = 0; t < NT; ++t) {
            acc[m][t] = _mm512_loadu_si512(args.constants + args.constant_offset[at + m] +
                                           (tile + t) * kLanes);
        }
    }
    for (int64_t p = 0; p < args.pairs; ++p) {
        const PlanePair& pair = args.pair[p];
        const std::byte* rows[M];
        for (int m = 0; m < M; ++m) {
            rows[m] = input + pair.input + args.rows.input_offset[at + m];
        }
        __m512i pc[M][2 * NT];
        count<Exclusive, M, NT>(args, args.weights + pair.weights + tile * tile_bytes, rows,
                                tile_bytes, pc);
        const __m512i coefficient = _mm512_set1_epi32(pair.coefficient);
        for (int m = 0; m < M; ++m) {
            for (int t = 0; t < NT; ++t) {
                // Counts fit in 32 bits: the odd channels' move into the upper halves.
                const __m512i counts = _mm512_mask_shuffle_epi32(pc[m][2 * t], 0xAAAA,
                                                                 pc[m][2 * t + 1], _MM_PERM_CCAA);
                acc[m][t] = _mm512_add_epi32(acc[m][t], _mm512_mullo_epi32(counts, coefficient));
            }
        }
    }
    store_block<K>(args.epilogue, acc[0], M, NT, tile, output, args.rows.output_offset + at);
}

template <Epilogue::Kind K, bool Exclusive, int MMax, int NT>
void tiles(const PlaneArgs& given, int64_t tile) {
    const PlaneArgs args = given;  // see the int8 kernel
    for_row_blocks<MMax>(args.rows,
                         [&]<int M>(int64_t at, const std::byte* input, std::byte* output) {
                             block<K, Exclusive, M, NT>(args, tile, input, output, at);
                         });
}

template <Epilogue::Kind K, bool Exclusive>
void planes(const PlaneArgs& args) {
    int64_t tile = args.first_tile;
    if (args.rows.rows <= 4) {
        for (; tile + 2 <= args.tiles; tile += 2) tiles<K, Exclusive, 4, 2>(args, tile);
    }
    for (; tile < args.tiles; ++tile) tiles<K, Exclusive, 8, 1>(args, tile);
}

}  // namespace

void planes_8x16_avx512vpopcntdq(const PlaneArgs& args) {
    with_kind(args.epilogue.kind, [&](auto tag) {
        args.exclusive ? planes<tag.kind, true>(args) : planes<tag.kind, false>(args);
    });
}

}  // namespace bitwright
