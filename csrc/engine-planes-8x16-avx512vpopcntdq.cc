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

// A block: its rows' first taps and outputs, and what the pairs before have summed.
template <int M, int NT>
struct Block {
    int64_t tile;
    const std::byte* input[M];
    std::byte* output[M];
    __m512i sums[M * NT];
};

// M rows times NT tiles over one pair of planes. A function of its own, so that nothing else
// competes for its registers.
template <Epilogue::Kind K, bool Exclusive, int M, int NT>
__attribute__((noinline)) void count(const PlaneArgs& args, const PlanePair& pair, bool first,
                                     bool last, Block<M, NT>& block) {
    const int64_t runs = args.runs, run_bytes = args.run_units * kWordBytes;
    const int64_t tile_bytes = args.weight_tile, weight_run = args.weight_run;
    const int32_t* const run_offset = args.run_offset;
    const std::byte* first_weights = args.weights + pair.weights + block.tile * tile_bytes;
    const std::byte* rows[M];
    for (int m = 0; m < M; ++m) rows[m] = block.input[m] + pair.input;
    __m512i pc[M][2 * NT];  // the even and the odd channels of each tile
    for (int m = 0; m < M; ++m) {
        for (int t = 0; t < 2 * NT; ++t) pc[m][t] = _mm512_setzero_si512();
    }
    for (int64_t run = 0; run < runs; ++run) {
        const int64_t from = run_offset[run];
        const int64_t to = from + run_bytes;
        const std::byte* weights = first_weights + run * weight_run;
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
    const __m512i coefficient = _mm512_set1_epi32(pair.coefficient);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 2
        for (int t = 0; t < NT; ++t) {
            // Counts fit in 32 bits: the odd channels' move into the upper halves.
            const __m512i counts =
                _mm512_mask_shuffle_epi32(pc[m][2 * t], 0xAAAA, pc[m][2 * t + 1], _MM_PERM_CCAA);
            const int64_t n = (block.tile + t) * kLanes;
            __m512i& sum = block.sums[m * NT + t];
            const __m512i before = first ? _mm512_loadu_si512(args.constants + n) : sum;
            const __m512i after = _mm512_add_epi32(before, _mm512_mullo_epi32(counts, coefficient));
            if (K == Epilogue::Kind::bits && last) {
                store_tile<K>(args.epilogue, after, n, block.output[m]);
            } else {
                sum = after;
            }
        }
    }
    if (K == Epilogue::Kind::bits || !last) return;
    for (int m = 0; m < M; ++m) {  // too long to be unrolled
        for (int t = 0; t < NT; ++t) {
            const int64_t n = (block.tile + t) * kLanes;
            store_tile<K>(args.epilogue, block.sums[m * NT + t], n, block.output[m]);
        }
    }
}

template <Epilogue::Kind K, bool Exclusive, int MMax, int NT>
void tiles(const PlaneArgs& given, int64_t tile) {
    const PlaneArgs args = given;  // see the int8 kernel
    for_row_blocks<MMax>(
        args.rows, [&]<int M>(int64_t at, const std::byte* input, std::byte* output) {
            Block<M, NT> block;
            block.tile = tile;
            for (int m = 0; m < M; ++m) {
                block.input[m] = input + args.rows.input_offset[at + m];
                block.output[m] = output + args.rows.output_offset[at + m];
            }
            for (int64_t p = 0; p < args.pairs; ++p) {
                count<K, Exclusive, M, NT>(args, args.pair[p], p == 0, p == args.pairs - 1, block);
            }
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
