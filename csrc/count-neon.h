// Counting bits on NEON: CNT counts bytes, which are added up as bytes for as long as they cannot
// overflow, and pairwise to 32 bits after that.
#pragma once

#include <arm_neon.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "layout.h"

namespace bitwright {
namespace {

constexpr int64_t kByteWords = 31;  // 31 words of 8 bits a byte stay below 256

// pc[m][channel] = sum of popcount(activation xor / and weight) over `runs` of `units` words, for M
// rows and the 16 channels of a tile. offset(run): bytes from a row's first tap; the weights of a
// run lie weight_run bytes behind those of the run before it.
template <int M, bool exclusive, typename Offset>
inline void count_tile(const std::byte* const (&rows)[M], int64_t runs, int64_t units,
                       Offset offset, const std::byte* tile_weights, int64_t weight_run,
                       int32x4_t (&pc)[M][4]) {
    for (int m = 0; m < M; ++m) {
        for (int q = 0; q < 4; ++q) pc[m][q] = vdupq_n_s32(0);
    }
    for (int64_t run = 0; run < runs; ++run) {
        const int64_t from = offset(run);
        const std::byte* weights = tile_weights + run * weight_run;
        for (int64_t start = 0; start < units; start += kByteWords) {
            const int64_t end = std::min(units, start + kByteWords);
            uint8x16_t bytes[M][8];  // two channels each: even ones first, see bit_lane
            for (int m = 0; m < M; ++m) {
                for (int r = 0; r < 8; ++r) bytes[m][r] = vdupq_n_u8(0);
            }
            for (int64_t unit = start; unit < end; ++unit, weights += kLanes * kWordBytes) {
                uint8x16_t a[M];
                for (int m = 0; m < M; ++m) {
                    const auto* word =
                        reinterpret_cast<const uint8_t*>(rows[m] + from + unit * kWordBytes);
                    const uint8x8_t half = vld1_u8(word);
                    a[m] = vcombine_u8(half, half);
                }
                for (int r = 0; r < 8; ++r) {
                    const uint8x16_t w =
                        vld1q_u8(reinterpret_cast<const uint8_t*>(weights) + 16 * r);
                    for (int m = 0; m < M; ++m) {
                        const uint8x16_t both = exclusive ? veorq_u8(a[m], w) : vandq_u8(a[m], w);
                        bytes[m][r] = vaddq_u8(bytes[m][r], vcntq_u8(both));
                    }
                }
            }
            const auto sum = [](uint8x16_t b) {  // of each half, in the lower 32 bits of 64
                return vreinterpretq_u32_u64(vpaddlq_u32(vpaddlq_u16(vpaddlq_u8(b))));
            };
            for (int m = 0; m < M; ++m) {
                for (int q = 0; q < 4; ++q) {  // even and odd channels take turns
                    const uint32x4_t four = vtrn1q_u32(sum(bytes[m][q]), sum(bytes[m][q + 4]));
                    pc[m][q] = vaddq_s32(pc[m][q], vreinterpretq_s32_u32(four));
                }
            }
        }
    }
}

}  // namespace
}  // namespace bitwright
