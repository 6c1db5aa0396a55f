// Binary product on NEON: pc = sum over words of popcount(activation xor weight).
#include <cstring>

#include "count-neon.h"
#include "epilogue-neon.h"
#include "kernels.h"

namespace bitwright {
namespace {

template <int M, typename Store>
void block(const ProductArgs& args, int64_t tile, int64_t group, int64_t at, Store store) {
    const std::byte* rows[M];
    for (int m = 0; m < M; ++m) {
        rows[m] = args.input + group * args.input_group + args.input_offset[at + m];
    }
    int32x4_t pc[M][4];
    const std::byte* weights = args.weights + tile * args.weight_tile;
    count_tile<M, true>(
        rows, args.runs, args.run_units, [&](int64_t run) { return run * args.run_stride; },
        weights, args.weight_run, pc);
    for (int m = 0; m < M; ++m) {
        store(tile, pc[m], args.constants + tile * kLanes,
              args.output + group * args.output_group + args.output_offset[at + m]);
    }
}

template <typename Store>
void for_each_tile(const ProductArgs& args, Store store) {
    for (int64_t tile = 0; tile < args.tiles; ++tile) {
        for (int64_t first = 0; first < args.rows; first += args.group_rows) {
            const int64_t group = first / args.group_rows;
            const int64_t count = std::min(args.group_rows, args.rows - first);
            int64_t at = 0;
            for (; at + 2 <= count; at += 2) block<2>(args, tile, group, at, store);
            if (at < count) block<1>(args, tile, group, at, store);
        }
    }
}

}  // namespace

void bgemm_bits_neon(const ProductArgs& args) {
    for_each_tile(args,
                  [](int64_t tile, const int32x4_t* pc, const int32_t* limit, std::byte* out) {
                      uint32x4_t passed[4];
                      for (int q = 0; q < 4; ++q)
                          passed[q] = vcleq_s32(pc[q], vld1q_s32(limit + 4 * q));
                      const uint16_t word = flag_bits(passed);
                      std::memcpy(out + tile * 2, &word, sizeof word);
                  });
}

void bgemm_sums_neon(const ProductArgs& args) {
    for_each_tile(args, [](int64_t tile, const int32x4_t* pc, const int32_t* base, std::byte* out) {
        auto* sums = reinterpret_cast<int32_t*>(out) + tile * kLanes;
        for (int q = 0; q < 4; ++q) {
            vst1q_s32(sums + 4 * q, vmlsq_n_s32(vld1q_s32(base + 4 * q), pc[q], 2));
        }
    });
}

}  // namespace bitwright
