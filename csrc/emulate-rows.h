// The loops over a tensor with one scale per channel: rows of one scale, or scales that change from
// lane to lane; the gate of the clipped estimator; sums of magnitudes.
#pragma once

#include <cstdint>

#include "emulate-draws.h"
#include "emulate-grids.h"

namespace bitwright {
namespace {

// Division by s, as a multiplication where that gives the same bits: s a power of two whose
// reciprocal is a normal float.
inline bool has_exact_reciprocal(float s) {
    const int32_t bits = __builtin_bit_cast(int32_t, s);
    return (bits & kMantissaBits) == 0 && bits > 0 && bits <= 0x7E800000;
}

template <typename V>
struct Divisor {
    using F = typename V::F;

    F s, reciprocal;
    bool exact;

    static Divisor of(float scale) {
        return {V::all(scale), V::all(1.0F / scale), has_exact_reciprocal(scale)};
    }

    F operator()(F x) const { return exact ? V::mul(x, reciprocal) : V::div(x, s); }
};

// max |x| over the finite x, as an integer: the bits of |x| plus one in the exponent, which makes
// infinities and NaN negative. kNothing stands for 0.
constexpr int32_t kNothing = 1 << 23;

template <typename V>
typename V::I max_finite(typename V::I acc, typename V::F x) {
    return V::max_int(acc, V::add_int(V::bits(abs<V>(x)), V::all_int(kNothing)));
}

inline float magnitude_of(int32_t acc) {
    return __builtin_bit_cast(float, acc - kNothing);
}

// A vector of n <= kLanes elements; absent ones read as NaN, which no statistic counts.
template <typename V>
typename V::F load_live(const float* p, int64_t n) {
    if (n == V::kLanes) return V::load(p);
    return V::load_some(p, n, __builtin_nanf(""));
}

template <typename V>
void store_live(float* p, typename V::F x, int64_t n) {
    if (n == V::kLanes) {
        V::store(p, x);
    } else {
        V::store_some(p, x, n);
    }
}

template <typename V>
void put(float* p, typename V::F x, int64_t n, bool stream) {
    if (stream && n == V::kLanes && reinterpret_cast<uintptr_t>(p) % (4 * V::kLanes) == 0) {
        V::stream(p, x);
    } else {
        store_live<V>(p, x, n);
    }
}

// What the quantisation of consecutive elements needs and counts. All of it is inlined into the
// loops, and no address of it escapes: so it stays in registers, past every store of an output.
template <typename V, typename G>
struct Walk {
    using F = typename V::F;

    G grid;
    Counters<V> counters;
    typename V::I max_abs = V::all_int(kNothing);

    template <typename Args>
    explicit Walk(const Args& args) : grid(args.grid, args.random) {}

    // `i` is the row-major index of the first lane; `finite` promises that every x is, `unit` that
    // the scale is 1; `rare` expects few overflows (blocks have many by their scale's rule).
    template <bool observe, bool finite = false, bool unit = false, bool rare = false>
    [[gnu::always_inline]] F quantize(F x, int64_t i, const Divisor<V>& divide, F out_scale,
                                      Draws<V>& draws) {
        if constexpr (observe) max_abs = max_finite<V>(max_abs, x);
        F q = x;
        if constexpr (!unit) q = divide(x);
        grid.template count<rare>(q, counters);
        F draw{};
        if constexpr (G::kStochastic) draw = draws.at(i);
        F number;
        if constexpr (finite) {
            number = grid.of_finite(q, draw);
        } else {
            number = grid(q, draw);
        }
        if constexpr (unit) return V::add(number, grid.zero());
        return V::add_zero_mul(number, out_scale, grid.zero());
    }

    // Elements [i, end) with one scale.
    template <bool observe, typename Args>
    [[gnu::always_inline]] void span(const Args& args, int64_t i, int64_t end,
                                     const Divisor<V>& divide, F out_scale, Draws<V>& draws,
                                     bool unit = false) {
        const float* const input = args.input;
        float* const output = args.output;
        const auto some = [&](int64_t n) __attribute__((always_inline)) {
            const F x = load_live<V>(input + i, n);
            store_live<V>(output + i, quantize<observe>(x, i, divide, out_scale, draws), n);
            i += n;
        };
        if (args.stream) {
            const auto lanes = static_cast<int64_t>(reinterpret_cast<uintptr_t>(output + i) / 4);
            const int64_t head = -lanes & (V::kLanes - 1);
            if (head != 0 && i + head <= end) some(head);
            if constexpr (observe) {
                i = unit ? runs<true>(input, output, i, end, divide, out_scale, draws)
                         : runs<false>(input, output, i, end, divide, out_scale, draws);
            }
            for (; i + V::kLanes <= end; i += V::kLanes) {
                const F x = V::load(input + i);
                V::stream(output + i, quantize<observe>(x, i, divide, out_scale, draws));
            }
        }
        for (; i + V::kLanes <= end; i += V::kLanes) {
            const F x = V::load(input + i);
            V::store(output + i, quantize<observe>(x, i, divide, out_scale, draws));
        }
        if (i < end) some(end - i);
    }

    // Runs of vectors from i on, the output elsewhere than the input: taken to be of finite
    // quotients, and done again with care where one is not. Returns where the last whole run ends.
    template <bool unit>
    [[gnu::always_inline]] int64_t runs(const float* input, float* output, int64_t i, int64_t end,
                                        const Divisor<V>& divide, F out_scale, Draws<V>& draws) {
        using I = typename V::I;
        constexpr int64_t kRun = 8 * V::kLanes, kPages = 4096;  // elements; 16 KiB lie ahead
        // |x| up to here have a finite quotient
        const I limit =
            V::bits(V::min(V::mul(V::all(0x1p126F), divide.s), V::all(0x1.fffffep127F)));
        for (; i + kRun <= end; i += kRun) {
            const Counters<V> before = counters;
            I largest = V::all_int(0);
            for (int64_t v = 0; v < kRun; v += V::kLanes) {
                __builtin_prefetch(input + i + v + kPages);
                const F x = V::load(input + i + v);
                largest = V::max_int(largest, V::bits(abs<V>(x)));
                V::stream(output + i + v,
                          quantize<false, true, unit, true>(x, i + v, divide, out_scale, draws));
            }
            if (!V::any(V::gt_int(largest, limit))) [[likely]] {
                max_abs = V::max_int(max_abs, V::add_int(largest, V::all_int(kNothing)));
                continue;
            }
            counters = before;
            for (int64_t v = 0; v < kRun; v += V::kLanes) {
                const F x = V::load(input + i + v);
                V::store(output + i + v, quantize<true>(x, i + v, divide, out_scale, draws));
            }
        }
        return i;
    }

    // `vectors` whole vectors of finite elements from i on, whose statistics but the overflows are
    // taken already. The scale's reciprocal is exact.
    template <bool stream>
    [[gnu::always_inline]] void block(const float* input, float* output, int64_t i, int64_t vectors,
                                      F reciprocal, F out_scale, Draws<V>& draws) {
        const Divisor<V> divide{reciprocal, reciprocal, true};
        for (int64_t v = 0; v < vectors; ++v, i += V::kLanes) {
            const F x = V::load(input + i);
            const F out = quantize<false, true>(x, i, divide, out_scale, draws);
            if constexpr (stream) {
                V::stream(output + i, out);
            } else {
                V::store(output + i, out);
            }
        }
    }

    void report(Statistics& statistics) const {
        statistics.over += V::sum(counters.over);
        statistics.over_half += V::sum(counters.over_half);
    }
};

template <typename V, typename G>
void rows(const EmulateArgs& args, int64_t begin, int64_t end, Statistics& statistics) {
    using F = typename V::F;
    Walk<V, G> walk(args);
    Draws<V> draws(args.random);
    for (int64_t i = begin; i < end;) {
        const int64_t row = i / args.row;
        const int64_t channel = row % args.channels;
        const int64_t stop = (row + 1) * args.row < end ? (row + 1) * args.row : end;
        const auto divide = Divisor<V>::of(args.scales[channel]);
        const F out_scale = args.scaled ? divide.s : V::all(1.0F);
        if (args.zero_points) walk.grid.shift(V::all_int(args.zero_points[channel]));
        walk.max_abs = V::all_int(kNothing);
        walk.template span<true>(args, i, stop, divide, out_scale, draws,
                                 args.scales[channel] == 1.0F);
        float& max_abs = statistics.max_abs[channel];
        const float seen = magnitude_of(V::reduce_max(walk.max_abs));
        if (seen > max_abs) max_abs = seen;
        i = stop;
    }
    if (args.stream) V::fence();
    walk.report(statistics);
}

// row = 1: the channel changes with every element.
template <typename V, typename G>
void lanes(const EmulateArgs& args, int64_t begin, int64_t end, Statistics& statistics) {
    using F = typename V::F;
    Walk<V, G> walk(args);
    Draws<V> draws(args.random);
    for (int64_t i = begin, c = begin % args.channels; i < end;) {
        int64_t n = args.channels - c < end - i ? args.channels - c : end - i;
        if (n > V::kLanes) n = V::kLanes;
        const bool whole = n == V::kLanes;
        const F s = whole ? V::load(args.scales + c) : V::load_some(args.scales + c, n, 1.0F);
        if (args.zero_points) {
            int32_t zeros[V::kLanes] = {};
            for (int64_t j = 0; j < n; ++j) zeros[j] = args.zero_points[c + j];
            walk.grid.shift(V::load_int(zeros));
        }
        float* max_abs = statistics.max_abs + c;
        const F before = whole ? V::load(max_abs) : V::load_some(max_abs, n, 0.0F);
        walk.max_abs = V::add_int(V::bits(before), V::all_int(kNothing));
        const F x = load_live<V>(args.input + i, n);
        const F out_scale = args.scaled ? s : V::all(1.0F);
        const F out = walk.template quantize<true>(x, i, Divisor<V>{s, s, false}, out_scale, draws);
        put<V>(args.output + i, out, n, args.stream);
        const auto seen = V::sub_int(walk.max_abs, V::all_int(kNothing));
        store_live<V>(max_abs, V::floats(seen), n);
        i += n;
        c = c + n == args.channels ? 0 : c + n;
    }
    if (args.stream) V::fence();
    walk.report(statistics);
}

template <typename V>
void gate_rows(const GateArgs& args, int64_t begin, int64_t end) {
    using F = typename V::F;
    for (int64_t i = begin; i < end;) {
        const int64_t row = i / args.row;
        const int64_t channel = row % args.channels;
        const int64_t stop = (row + 1) * args.row < end ? (row + 1) * args.row : end;
        const auto divide = Divisor<V>::of(args.scales[channel]);
        const int32_t zero = args.zero_points ? args.zero_points[channel] : 0;
        const F low = V::all(args.low - static_cast<float>(zero));
        const F high = V::all(args.high - static_cast<float>(zero));
        for (; i < stop; i += V::kLanes) {
            const int64_t n = stop - i < V::kLanes ? stop - i : V::kLanes;
            const F q = divide(load_live<V>(args.input + i, n));
            const auto inside = V::both(V::ge(q, low), V::le(q, high));
            store_live<V>(args.output + i, V::keep(inside, load_live<V>(args.gradient + i, n)), n);
        }
        i = stop;
    }
}

// Sixteen partial sums in every build, so that the order of additions is the same.
inline double sum_of_magnitudes(const float* input, int64_t size) {
    constexpr int64_t kSums = 16;
    double sums[kSums] = {};
    int64_t i = 0;
    for (; i + kSums <= size; i += kSums) {
        for (int64_t j = 0; j < kSums; ++j) sums[j] += __builtin_fabs(double{input[i + j]});
    }
    for (int64_t j = 0; i + j < size; ++j) sums[j] += __builtin_fabs(double{input[i + j]});
    for (int64_t width = kSums / 2; width > 0; width /= 2) {
        for (int64_t j = 0; j < width; ++j) sums[j] += sums[j + width];
    }
    return sums[0];
}

}  // namespace
}  // namespace bitwright
