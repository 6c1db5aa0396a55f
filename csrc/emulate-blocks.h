// Block formats: the largest magnitude of a block sets its scale, then the block is quantised.
// Scales are computed for a vector of blocks at a time, in both layouts.
#pragma once

#include <cstdint>
#include <limits>

#include "emulate-rows.h"

namespace bitwright {
namespace {

template <typename V>
class BlockScales {
    using F = typename V::F;
    using I = typename V::I;

  public:
    explicit BlockScales(const BlockArgs& args)
        : args_(args),
          emax_((__builtin_bit_cast(int32_t, args.elem_max) >> 23) - kBias),
          grid_(args.scale_grid, args.random) {}

    // s_b of blocks with these largest magnitudes.
    F operator()(F max_abs) const {
        // a small scale above the blocks must not make the quotient infinite
        const F amax = V::min(V::div(max_abs, V::all(args_.global)),
                              V::all(std::numeric_limits<float>::max()));
        const F ratio = V::div(amax, V::all(args_.elem_max));
        if (args_.rule == ScaleRule::divide) return grid_(ratio, F{});
        const bool by_ratio = args_.rule == ScaleRule::rceil;
        const F a = by_ratio ? ratio : amax;
        // a subnormal a is normalised, its exponent mended below
        const auto tiny = V::lt(a, V::all(0x1p-126F));
        I bits = V::bits(V::blend(tiny, V::mul(a, V::all(0x1p32F)), a));
        if (args_.rule == ScaleRule::even) {
            bits = V::add_int(bits, V::all_int(1 << (22 - args_.elem_bits)));
        }
        if (args_.rule == ScaleRule::ceil || by_ratio) {
            bits = V::add_int(bits, V::all_int(kMantissaBits));  // the next octave, if any is set
        }
        I e = V::sub_int(V::template shift_right<23>(bits), V::all_int(kBias));
        e = V::sub_int(e, V::blend_int(tiny, V::all_int(32), V::all_int(0)));
        if (!by_ratio) e = V::sub_int(e, V::all_int(emax_));
        e = V::max_int(V::min_int(e, V::all_int(args_.smax)), V::all_int(args_.smin));
        e = V::blend_int(V::gt(a, V::all(0.0F)), e, V::all_int(args_.smin));
        return scale_by<V>(V::all(1.0F), e);
    }

    // s, by which elements are divided.
    F whole(F own) const { return V::mul(V::mul(own, V::all(args_.unit)), V::all(args_.global)); }

  private:
    const BlockArgs& args_;
    const int32_t emax_;
    const Floating<V, Rounding::nearest_even, false> grid_;
};

template <typename V>
void report_largest(typename V::F largest, Statistics& statistics) {
    float& max_abs = statistics.max_abs[0];
    const float seen = __builtin_bit_cast(float, V::reduce_max(V::bits(largest)));  // none negative
    if (seen > max_abs) max_abs = seen;
}

constexpr int64_t kAhead = 1024;  // elements, while the second look at a group keeps memory idle

// inner = 1: blocks are stretches of memory; units are blocks.
template <typename V, typename G>
void contiguous_blocks(const BlockArgs& args, int64_t begin, int64_t end, Statistics& statistics) {
    using F = typename V::F;
    constexpr int64_t kLanes = V::kLanes;
    Walk<V, G> walk(args);
    Draws<V> draws(args.random);
    const BlockScales<V> scales(args);
    F largest = V::all(0.0F);
    const int64_t per_row = (args.length + args.block - 1) / args.block;
    int64_t j = begin % per_row, at = begin / per_row * args.length + j * args.block;
    for (int64_t first = begin; first < end; first += kLanes) {
        const int64_t group = end - first < kLanes ? end - first : kLanes;
        int64_t start[kLanes + 1];
        alignas(64) float max_abs[kLanes] = {}, own[kLanes], whole[kLanes];
        start[0] = at;
        for (int64_t b = 0; b < group; ++b) {
            const bool last = ++j == per_row;
            const int64_t stop =
                last ? at + args.length - (per_row - 1) * args.block : at + args.block;
            if (last) j = 0;
            auto acc = V::all_int(kNothing);
            for (; at + kLanes <= stop; at += kLanes) {
                __builtin_prefetch(args.input + at + kAhead);
                acc = max_finite<V>(acc, V::load(args.input + at));
            }
            if (at < stop) acc = max_finite<V>(acc, load_live<V>(args.input + at, stop - at));
            max_abs[b] = magnitude_of(V::reduce_max(acc));
            start[b + 1] = at = stop;
        }
        const F seen = V::load(max_abs);
        largest = V::max(largest, seen);
        const F own_scales = scales(seen);
        V::store(own, own_scales);
        V::store(whole, scales.whole(own_scales));
        for (int64_t b = 0; b < group; ++b) {
            if (args.block_scales) args.block_scales[first + b] = own[b];
            if (whole[b] == 0.0F) {
                for (int64_t i = start[b]; i < start[b + 1]; ++i) args.output[i] = 0.0F;
                continue;
            }
            const auto divide = Divisor<V>::of(whole[b]);
            const F out_scale = args.scaled ? divide.s : V::all(1.0F);
            walk.template span<false>(args, start[b], start[b + 1], divide, out_scale, draws);
        }
    }
    if (args.stream) V::fence();
    report_largest<V>(largest, statistics);
    walk.report(statistics);
}

// inner > 1: lanes run along inner; units are (outer, block, stretch of kStretch columns).
template <typename V, typename G>
void strided_blocks(const BlockArgs& args, int64_t begin, int64_t end, Statistics& statistics) {
    using F = typename V::F;
    constexpr int64_t kLanes = V::kLanes, kVectors = kStretch / kLanes;
    Walk<V, G> walk(args);
    Draws<V> draws(args.random);
    const BlockScales<V> scales(args);
    F largest = V::all(0.0F);
    const int64_t per_row = (args.length + args.block - 1) / args.block;
    const int64_t stretches = (args.inner + kStretch - 1) / kStretch;
    for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t column = unit % stretches * kStretch;
        const int64_t block = unit / stretches;  // of all outer
        const int64_t row = block / per_row * args.length + block % per_row * args.block;
        const int64_t left = args.length - block % per_row * args.block;
        const int64_t stop = row + (left < args.block ? left : args.block);
        const int64_t columns = args.inner - column < kStretch ? args.inner - column : kStretch;

        alignas(64) int32_t max_abs[kStretch];
        alignas(64) float own[kStretch], whole[kStretch] = {}, reciprocal[kStretch] = {};
        for (int32_t& acc : max_abs) acc = kNothing;
        for (int64_t r = row; r < stop; ++r) {
            const float* x = args.input + r * args.inner + column;
            for (int64_t c = 0; c < columns; c += kLanes) {
                const int64_t n = columns - c < kLanes ? columns - c : kLanes;
                const auto acc = V::load_int(max_abs + c);
                V::store_int(max_abs + c, max_finite<V>(acc, load_live<V>(x + c, n)));
            }
        }
        bool exact = true, zeros = false;
        for (int64_t v = 0; v < kVectors; ++v) {
            const auto acc = V::load_int(max_abs + v * kLanes);
            const F seen = V::floats(V::sub_int(acc, V::all_int(kNothing)));
            largest = V::max(largest, seen);
            const F own_scales = scales(seen);
            V::store(own + v * kLanes, own_scales);
            V::store(whole + v * kLanes, scales.whole(own_scales));
        }
        for (int64_t c = 0; c < columns; ++c) {
            if (args.block_scales) args.block_scales[block * args.inner + column + c] = own[c];
            exact &= has_exact_reciprocal(whole[c]);
            reciprocal[c] = 1.0F / whole[c];
            zeros |= whole[c] == 0.0F;
        }
        for (int64_t r = row; r < stop; ++r) {
            const int64_t start = r * args.inner + column;
            for (int64_t c = 0; c < columns; c += kLanes) {
                const int64_t n = columns - c < kLanes ? columns - c : kLanes;
                const F s = V::load(whole + c);
                const Divisor<V> divide{s, V::load(reciprocal + c), exact};
                const F out_scale = args.scaled ? s : V::all(1.0F);
                const auto nonzero = V::gt(s, V::all(0.0F));
                F x = load_live<V>(args.input + start + c, n);
                // a NaN counts nowhere, and its output is not kept
                if (zeros) x = V::blend(nonzero, x, V::all(__builtin_nanf("")));
                F out = walk.template quantize<false>(x, start + c, divide, out_scale, draws);
                if (zeros) out = V::keep(nonzero, out);
                put<V>(args.output + start + c, out, n, args.stream);
            }
        }
    }
    if (args.stream) V::fence();
    report_largest<V>(largest, statistics);
    walk.report(statistics);
}

}  // namespace
}  // namespace bitwright
