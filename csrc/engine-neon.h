// The int8 product for ARM, over what multiplies 16 weights with 4 bytes of M rows: SDOT, or SMULL
// and SADALP. Both multiply signed by signed, so bytes are taken less 128 (their top bit flipped):
//   sum of byte * w = sum of (byte - 128) * w + 128 * sum of w
#pragma once

#include "engine-portable.h"
#include "epilogue-neon.h"

namespace bitwright {
namespace {

// Adds 128 * sum of w to the tile's constants. Once a call: rows share it.
template <typename Multiply>
inline void offset_constants(const DotArgs& args, int64_t tile, int32x4_t (&constants)[4]) {
    typename Multiply::Sum acc[4] = {};
    for (int64_t run = 0; run < args.runs; ++run) {
        const std::byte* weights = args.weights + tile * args.weight_tile + run * args.weight_run;
        for (int64_t unit = 0; unit < args.run_units; ++unit, weights += kLanes * kDot) {
            for (int q = 0; q < 4; ++q) {
                const int8x16_t w = vld1q_s8(reinterpret_cast<const int8_t*>(weights) + 16 * q);
                acc[q] = Multiply::add(acc[q], w, vdupq_n_s8(1));
            }
        }
    }
    for (int q = 0; q < 4; ++q) {
        constants[q] = vmlaq_n_s32(vld1q_s32(args.constants + tile * kLanes + 4 * q),
                                   Multiply::total(acc[q]), 128);
    }
}

// M rows, starting at place `at` of the group, times one tile.
template <typename Multiply, int M>
inline void dot_block(const DotArgs& args, int64_t tile, const int32x4_t (&constants)[4],
                      const std::byte* input, std::byte* output, int64_t at) {
    const std::byte* rows[M];
    for (int m = 0; m < M; ++m) rows[m] = input + args.rows.input_offset[at + m];
    typename Multiply::Sum acc[M][4] = {};
    for (int64_t run = 0; run < args.runs; ++run) {
        const int64_t from = args.run_offset[run], to = from + args.run_units * kDot;
        const std::byte* weights = args.weights + tile * args.weight_tile + run * args.weight_run;
        for (int64_t i = from; i < to; i += kDot, weights += kLanes * kDot) {
            int8x16_t a[M];
            for (int m = 0; m < M; ++m) {
                const auto four = static_cast<uint32_t>(load_int32(rows[m] + i)) ^ 0x80808080U;
                a[m] = vreinterpretq_s8_u32(vdupq_n_u32(four));
            }
            for (int q = 0; q < 4; ++q) {
                const int8x16_t w = vld1q_s8(reinterpret_cast<const int8_t*>(weights) + 16 * q);
                for (int m = 0; m < M; ++m) acc[m][q] = Multiply::add(acc[m][q], w, a[m]);
            }
        }
    }
    for (int m = 0; m < M; ++m) {
        Tile sums;
        for (int q = 0; q < 4; ++q) sums[q] = vaddq_s32(Multiply::total(acc[m][q]), constants[q]);
        store_tile_neon(args.epilogue, sums, tile * kLanes,
                        output + args.rows.output_offset[at + m]);
    }
}

template <typename Multiply, int M>
inline void dot_neon(const DotArgs& args) {
    const Rows& rows = args.rows;
    for (int64_t tile = args.first_tile; tile < args.tiles; ++tile) {
        int32x4_t constants[4];
        offset_constants<Multiply>(args, tile, constants);
        const std::byte* input = rows.input;
        std::byte* output = rows.output;
        for (int64_t left = rows.rows; left > 0; left -= rows.group_rows) {
            const int64_t count = std::min(left, rows.group_rows);
            int64_t at = 0;
            for (; at + M <= count; at += M) {
                dot_block<Multiply, M>(args, tile, constants, input, output, at);
            }
            for (; at < count; ++at) {
                dot_block<Multiply, 1>(args, tile, constants, input, output, at);
            }
            input += rows.input_group;
            output += rows.output_group;
        }
    }
}

}  // namespace

void dot_4x16_neondot(const DotArgs&);  // engine-dot-neondot.cc

}  // namespace bitwright
