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

constexpr int64_t kAhead = 4096;  // elements: 16 KiB of reads under way while a group is quantised

// inner = 1: blocks are stretches of memory; units are blocks, taken in groups of V::kLanes.
template <typename V, typename G>
class ContiguousBlocks {
    using F = typename V::F;
    using I = typename V::I;
    static constexpr int64_t kLanes = V::kLanes;

  public:
    explicit ContiguousBlocks(const BlockArgs& args)
        : args_(args),
          scales_(args),
          walk_(args),
          draws_(args.random),
          per_row_((args.length + args.block - 1) / args.block) {}

    void run(int64_t begin, int64_t end) {
        const bool regular = args_.block % kLanes == 0 && args_.length % args_.block == 0;
        const int64_t groups = regular ? (end - begin) / kLanes : 0;
        const bool aligned = reinterpret_cast<uintptr_t>(args_.output) % (4 * kLanes) == 0;
        if (groups > 0) {
            // one group ahead, since the way from a largest magnitude to a scale is long
            Group ready = prepare(begin);
            for (int64_t g = 0; g < groups; ++g) {
                const int64_t first = begin + g * kLanes;
                const Group next = g + 1 < groups ? prepare(first + kLanes) : Group{};
                if (!ready.simple) {
                    with_care(first, kLanes);
                } else if (args_.stream && aligned) {
                    apply<true>(first, ready);
                } else {
                    apply<false>(first, ready);
                }
                ready = next;
            }
        }
        for (int64_t first = begin + groups * kLanes; first < end; first += kLanes) {
            with_care(first, end - first < kLanes ? end - first : kLanes);
        }
        if (args_.stream) V::fence();
    }

    void report(Statistics& statistics) const {
        report_largest<V>(largest_, statistics);
        walk_.report(statistics);
    }

  private:
    // A group of whole blocks of whole vectors. It is simple where all elements are finite and all
    // scales have an exact reciprocal.
    struct Group {
        F seen, own, whole;
        bool simple;
    };

    [[gnu::always_inline]] Group prepare(int64_t first) const {
        const int64_t vectors = args_.block / kLanes;
        const float* input = args_.input + first * args_.block;
        I seen_by_block[kLanes];
        for (I& seen : seen_by_block) {
            I acc = V::all_int(0);
            for (int64_t v = 0; v < vectors; ++v, input += kLanes) {
                __builtin_prefetch(input + kAhead);
                acc = V::max_int(acc, V::bits(abs<V>(V::load(input))));
            }
            seen = acc;
        }
        const I bits = V::reduce_max_each(seen_by_block);
        const F seen = V::floats(bits);
        const F own = scales_(seen), whole = scales_.whole(own);
        // see has_exact_reciprocal
        const I s = V::bits(whole);
        const I inexact = V::max_int(
            V::and_int(s, V::all_int(kMantissaBits)),
            V::max_int(V::sub_int(V::all_int(1), s), V::sub_int(s, V::all_int(0x7E800000))));
        const I hard = V::max_int(inexact, V::sub_int(bits, V::all_int(kExponentBits - 1)));
        return {seen, own, whole, !V::any(V::gt_int(hard, V::all_int(0)))};
    }

    template <bool stream>
    [[gnu::always_inline]] void apply(int64_t first, const Group& group) {
        largest_ = V::max(largest_, group.seen);
        if (args_.block_scales) V::store(args_.block_scales + first, group.own);
        // 1 / 2^e from the exponent field; e is -126 .. 126
        alignas(64) float reciprocal[kLanes], out_scale[kLanes];
        V::store(reciprocal,
                 V::floats(V::sub_int(V::all_int(2 * kBias * (1 << 23)), V::bits(group.whole))));
        V::store(out_scale, args_.scaled ? group.whole : V::all(1.0F));
        Walk<V, G> walk = walk_;  // a copy, which stores of the output cannot touch
        for (int64_t b = 0; b < kLanes; ++b) {
            walk.template block<stream>(args_.input, args_.output, (first + b) * args_.block,
                                        args_.block / kLanes, V::all(reciprocal[b]),
                                        V::all(out_scale[b]), draws_);
        }
        walk_ = walk;
    }

    // Any group of up to kLanes blocks.
    void with_care(int64_t first, int64_t count) {
        int64_t start[kLanes + 1];
        alignas(64) float max_abs[kLanes] = {}, own[kLanes], whole[kLanes];
        int64_t j = first % per_row_;
        int64_t at = first / per_row_ * args_.length + j * args_.block;
        start[0] = at;
        for (int64_t b = 0; b < count; ++b) {
            const bool last = ++j == per_row_;
            const int64_t stop =
                last ? at + args_.length - (per_row_ - 1) * args_.block : at + args_.block;
            if (last) j = 0;
            I acc = V::all_int(kNothing);
            for (; at + kLanes <= stop; at += kLanes) {
                acc = max_finite<V>(acc, V::load(args_.input + at));
            }
            if (at < stop) acc = max_finite<V>(acc, load_live<V>(args_.input + at, stop - at));
            max_abs[b] = magnitude_of(V::reduce_max(acc));
            start[b + 1] = at = stop;
        }
        const F seen = V::load(max_abs);
        largest_ = V::max(largest_, seen);
        const F own_scales = scales_(seen);
        V::store(own, own_scales);
        V::store(whole, scales_.whole(own_scales));
        for (int64_t b = 0; b < count; ++b) {
            if (args_.block_scales) args_.block_scales[first + b] = own[b];
            if (whole[b] == 0.0F) {
                for (int64_t i = start[b]; i < start[b + 1]; ++i) args_.output[i] = 0.0F;
                continue;
            }
            const auto divide = Divisor<V>::of(whole[b]);
            const F out_scale = args_.scaled ? divide.s : V::all(1.0F);
            walk_.template span<false>(args_, start[b], start[b + 1], divide, out_scale, draws_);
        }
    }

    const BlockArgs& args_;
    const BlockScales<V> scales_;
    Walk<V, G> walk_;
    Draws<V> draws_;
    const int64_t per_row_;
    F largest_ = V::all(0.0F);
};

template <typename V, typename G>
void contiguous_blocks(const BlockArgs& args, int64_t begin, int64_t end, Statistics& statistics) {
    ContiguousBlocks<V, G> blocks(args);
    blocks.run(begin, end);
    blocks.report(statistics);
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
