// Binary product, scalar: pc = sum over words of popcount(activation xor weight).
// The reference for every other bgemm kernel: same bytes in, same bytes out.
#include <algorithm>
#include <bit>
#include <cstring>

#include "kernels.h"
#include "layout.h"

namespace bitwright {
namespace {

uint64_t load_word(const std::byte* from) {
    uint64_t word;
    std::memcpy(&word, from, sizeof word);
    return word;
}

// pc of the 16 channels of one tile.
void count_tile(const ProductArgs& args, const std::byte* input, const std::byte* tile_weights,
                int64_t (&pc)[kLanes]) {
    std::fill(pc, pc + kLanes, int64_t{0});
    for (int64_t run = 0; run < args.runs; ++run) {
        const std::byte* taps = input + run * args.run_stride;
        const std::byte* weights = tile_weights + run * args.weight_run;
        for (int64_t unit = 0; unit < args.run_units; ++unit) {
            const uint64_t word = load_word(taps + unit * kWordBytes);
            for (int64_t lane = 0; lane < kLanes; ++lane) {
                const uint64_t weight = load_word(weights + bit_lane(lane) * kWordBytes);
                pc[lane] += std::popcount(word ^ weight);
            }
            weights += kLanes * kWordBytes;
        }
    }
}

template <typename Store>
void for_each_tile(const ProductArgs& args, Store store) {
    for (int64_t tile = 0; tile < args.tiles; ++tile) {
        for (int64_t row = 0; row < args.rows; ++row) {
            const int64_t group = row / args.group_rows, at = row % args.group_rows;
            int64_t pc[kLanes];
            count_tile(args, args.input + group * args.input_group + args.input_offset[at],
                       args.weights + tile * args.weight_tile, pc);
            store(tile, pc, args.constants + tile * kLanes,
                  args.output + group * args.output_group + args.output_offset[at]);
        }
    }
}

}  // namespace

void bgemm_bits_scalar(const ProductArgs& args) {
    for_each_tile(args, [](int64_t tile, const int64_t* pc, const int32_t* limit, std::byte* out) {
        unsigned bits = 0;
        for (unsigned lane = 0; lane < kLanes; ++lane) {
            bits |= static_cast<unsigned>(pc[lane] <= limit[lane]) << lane;
        }
        const auto packed = static_cast<uint16_t>(bits);
        std::memcpy(out + tile * 2, &packed, sizeof packed);
    });
}

void bgemm_sums_scalar(const ProductArgs& args) {
    for_each_tile(args, [](int64_t tile, const int64_t* pc, const int32_t* base, std::byte* out) {
        for (int64_t lane = 0; lane < kLanes; ++lane) {
            const auto sum = static_cast<int32_t>(base[lane] - 2 * pc[lane]);
            std::memcpy(out + (tile * kLanes + lane) * 4, &sum, sizeof sum);
        }
    });
}

}  // namespace bitwright
