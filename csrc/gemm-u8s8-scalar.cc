// 8-bit product, scalar: acc = sum over taps of byte * weight, byte in 0..255, weight -1, 0 or 1.
// The reference for every other u8s8 kernel: same bytes in, same bytes out.
#include <algorithm>
#include <cstring>

#include "kernels.h"
#include "layout.h"

namespace bitwright {
namespace {

// acc of the 16 channels of one tile.
void sum_tile(const ProductArgs& args, const std::byte* input, const std::byte* weights,
              int32_t (&acc)[kLanes]) {
    std::fill(acc, acc + kLanes, 0);
    for (int64_t run = 0; run < args.runs; ++run) {
        const std::byte* taps = input + run * args.run_stride;
        for (int64_t unit = 0; unit < args.run_units; ++unit, taps += kDot) {
            for (int32_t& sum : acc) {
                for (int64_t i = 0; i < kDot; ++i) {
                    const auto weight = static_cast<int32_t>(static_cast<int8_t>(*weights++));
                    sum += std::to_integer<int32_t>(taps[i]) * weight;
                }
            }
        }
    }
}

template <typename Store>
void for_each_tile(const ProductArgs& args, Store store) {
    const int64_t tile_bytes = args.runs * args.run_units * kLanes * kDot;
    for (int64_t tile = 0; tile < args.tiles; ++tile) {
        for (int64_t row = 0; row < args.rows; ++row) {
            const int64_t group = row / args.group_rows, at = row % args.group_rows;
            int32_t acc[kLanes];
            sum_tile(args, args.input + group * args.input_group + args.input_offset[at],
                     args.weights + tile * tile_bytes, acc);
            store(tile, acc, args.constants + args.constant_offset[at] + tile * kLanes,
                  args.output + group * args.output_group + args.output_offset[at]);
        }
    }
}

}  // namespace

void gemm_u8s8_bits_scalar(const ProductArgs& args) {
    for_each_tile(args, [](int64_t tile, const int32_t* acc, const int32_t* limit, std::byte* out) {
        for (int64_t byte = 0; byte < kLanes / 8; ++byte) {
            const int64_t at = tile * (kLanes / 8) + byte;
            unsigned bits = 0;
            for (unsigned i = 0; i < 8; ++i) {
                bits |= static_cast<unsigned>(acc[8 * byte + i] >= limit[8 * byte + i]) << i;
            }
            out[at] = static_cast<std::byte>(bits);
        }
    });
}

void gemm_u8s8_sums_scalar(const ProductArgs& args) {
    for_each_tile(args, [](int64_t tile, const int32_t* acc, const int32_t* base, std::byte* out) {
        for (int64_t lane = 0; lane < kLanes; ++lane) {
            const int32_t sum = base[lane] + acc[lane];
            std::memcpy(out + (tile * kLanes + lane) * 4, &sum, sizeof sum);
        }
    });
}

}  // namespace bitwright
