// The engine's table for NEON, which every AArch64 has.
#include "engine-neon.h"

#include "count-neon.h"
#include "engine-wide-portable.h"

namespace bitwright {
namespace {

// Products of two taps fit into 16 bits one by one, and are added in pairs to 32 bits.
struct Pairs {
    struct Sum {
        int32x4_t low, high;  // two channels each: taps 0 + 1, taps 2 + 3
    };
    static Sum add(Sum acc, int8x16_t w, int8x16_t a) {
        return {vpadalq_s16(acc.low, vmull_s8(vget_low_s8(w), vget_low_s8(a))),
                vpadalq_s16(acc.high, vmull_high_s8(w, a))};
    }
    static int32x4_t total(Sum acc) { return vpaddq_s32(acc.low, acc.high); }
};

void depthwise_neon(const DotArgs& args) {
    for (int64_t tile = args.first_tile; tile < args.tiles; ++tile) {
        for_each_row(args.rows, [&](int64_t, const std::byte* input, std::byte* output) {
            Tile acc;
            for (int q = 0; q < 4; ++q) {
                acc[q] = vld1q_s32(args.constants + tile * kLanes + 4 * q);
            }
            const auto* first = reinterpret_cast<const uint8_t*>(input + tile * kLanes);
            const auto* weights =
                reinterpret_cast<const int8_t*>(args.weights + tile * args.weight_tile);
            for (int64_t unit = 0; unit < args.run_units; ++unit, weights += kLanes * kDot) {
                const int8x16x4_t w = vld4q_s8(weights);  // by tap
                for (int i = 0; i < kDot; ++i) {
                    const uint8x16_t a = vld1q_u8(first + args.run_offset[unit * kDot + i]);
                    const int16x8_t a0 = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(a)));
                    const int16x8_t a1 = vreinterpretq_s16_u16(vmovl_high_u8(a));
                    const int16x8_t w0 = vmovl_s8(vget_low_s8(w.val[i]));
                    const int16x8_t w1 = vmovl_high_s8(w.val[i]);
                    acc[0] = vmlal_s16(acc[0], vget_low_s16(a0), vget_low_s16(w0));
                    acc[1] = vmlal_high_s16(acc[1], a0, w0);
                    acc[2] = vmlal_s16(acc[2], vget_low_s16(a1), vget_low_s16(w1));
                    acc[3] = vmlal_high_s16(acc[3], a1, w1);
                }
            }
            store_tile_neon(args.epilogue, acc, tile * kLanes, output);
        });
    }
}

template <int M, bool exclusive>
void planes_block(const PlaneArgs& args, int64_t tile, const std::byte* input, std::byte* output,
                  int64_t at) {
    Tile acc[M];
    for (int m = 0; m < M; ++m) {
        const int32_t* constants = args.constants + tile * kLanes;
        for (int q = 0; q < 4; ++q) acc[m][q] = vld1q_s32(constants + 4 * q);
    }
    for (int64_t p = 0; p < args.pairs; ++p) {
        const PlanePair& pair = args.pair[p];
        const std::byte* rows[M];
        for (int m = 0; m < M; ++m) {
            rows[m] = input + pair.input + args.rows.input_offset[at + m];
        }
        int32x4_t pc[M][4];
        count_tile<M, exclusive>(
            rows, args.runs, args.run_units, [&](int64_t run) { return args.run_offset[run]; },
            args.weights + pair.weights + tile * args.weight_tile, args.weight_run, pc);
        for (int m = 0; m < M; ++m) {
            for (int q = 0; q < 4; ++q) {
                acc[m][q] = vmlaq_n_s32(acc[m][q], pc[m][q], pair.coefficient);
            }
        }
    }
    for (int m = 0; m < M; ++m) {
        store_tile_neon(args.epilogue, acc[m], tile * kLanes,
                        output + args.rows.output_offset[at + m]);
    }
}

template <bool exclusive>
void planes_of(const PlaneArgs& args) {
    const Rows& rows = args.rows;
    for (int64_t tile = args.first_tile; tile < args.tiles; ++tile) {
        const std::byte* input = rows.input;
        std::byte* output = rows.output;
        for (int64_t left = rows.rows; left > 0; left -= rows.group_rows) {
            const int64_t count = std::min(left, rows.group_rows);
            int64_t at = 0;
            for (; at + 2 <= count; at += 2) {
                planes_block<2, exclusive>(args, tile, input, output, at);
            }
            if (at < count) planes_block<1, exclusive>(args, tile, input, output, at);
            input += rows.input_group;
            output += rows.output_group;
        }
    }
}

void planes_neon(const PlaneArgs& args) {
    if (args.exclusive) {
        planes_of<true>(args);
    } else {
        planes_of<false>(args);
    }
}

// 16 levels of a term; those behind the last channel are of no consequence.
void load_tile(const Term& term, int64_t pixel, int64_t n, int32x4_t* levels) {
    const std::byte* from = term.data + pixel * term.stride;
    if (term.sums) {
        const auto* sums = reinterpret_cast<const int32_t*>(from) + n;
        for (int q = 0; q < 4; ++q) levels[q] = vld1q_s32(sums + 4 * q);
        return;
    }
    const uint8x16_t bytes = vld1q_u8(reinterpret_cast<const uint8_t*>(from) + n);
    const uint16x8_t low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_high_u8(bytes);
    const int32x4_t zero = vdupq_n_s32(term.zero);
    const auto level = [&](uint32x4_t value) {
        return vsubq_s32(vreinterpretq_s32_u32(value), zero);
    };
    levels[0] = level(vmovl_u16(vget_low_u16(low)));
    levels[1] = level(vmovl_high_u16(low));
    levels[2] = level(vmovl_u16(vget_low_u16(high)));
    levels[3] = level(vmovl_high_u16(high));
}

void combine_neon(const CombineArgs& args) {
    const Epilogue& e = args.epilogue;
    for (int64_t pixel = 0; pixel < args.pixels; ++pixel) {
        std::byte* out = args.output + pixel * args.output_stride;
        for (int64_t n = 0; n < e.channels; n += kLanes) {
            Tile levels;
            if (args.count == 1) {
                load_tile(*args.terms, pixel, n, levels);
                store_tile_neon(e, levels, n, out);
                continue;
            }
            float64x2_t y[8];
            for (int h = 0; h < 8; ++h) y[h] = vld1q_f64(e.scaled_offset + n + 2 * h);
            for (int64_t t = 0; t < args.count; ++t) {
                load_tile(args.terms[t], pixel, n, levels);
                const double* m = args.terms[t].scaled_multiplier + n;
                for (int q = 0; q < 4; ++q) {
                    const float64x2_t low = vcvtq_f64_s64(vmovl_s32(vget_low_s32(levels[q])));
                    const float64x2_t high = vcvtq_f64_s64(vmovl_high_s32(levels[q]));
                    y[2 * q] = vfmaq_f64(y[2 * q], low, vld1q_f64(m + 4 * q));
                    y[2 * q + 1] = vfmaq_f64(y[2 * q + 1], high, vld1q_f64(m + 4 * q + 2));
                }
            }
            store_codes(e, y, n, out);
        }
    }
}

constexpr EngineTable table(const char* isa, void (*dot)(const DotArgs&), const char* dot_name) {
    return {isa,
            dot,
            nullptr,
            depthwise_neon,
            planes_neon,
            combine_neon,
            max_bytes_portable,
            max_sums_portable,
            add_bytes_portable,
            split_portable,
            dot_name,
            "depthwise-neon",
            "planes-2x16-neon",
            kWidePortable};
}

}  // namespace

constinit const EngineTable kEngineNeon = table("neon", dot_neon<Pairs, 2>, "dot-2x16-neon");
constinit const EngineTable kEngineNeonDot = table("neondot", dot_4x16_neondot, "dot-4x16-neondot");

}  // namespace bitwright
