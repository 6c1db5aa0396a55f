// Rounding to an integer, and the arithmetic on bits of floats that the grids share.
#pragma once

#include <cstdint>

#include "emulate.h"

namespace bitwright {
namespace {

constexpr int32_t kSignBit = INT32_MIN;
constexpr int32_t kExponentBits = 0x7F800000;
constexpr int32_t kMantissaBits = 0x007FFFFF;
constexpr int32_t kBias = 127;

template <typename V>
typename V::F abs(typename V::F x) {
    return V::bit_and(x, V::floats(V::all_int(INT32_MAX)));
}

template <typename V>
typename V::F infinity() {
    return V::floats(V::all_int(kExponentBits));
}

// 2^k, 2^k a normal float.
inline float power_of_two(int32_t k) {
    return __builtin_bit_cast(float, (k + kBias) << 23);
}

// x * 2^k, k = -150 .. 254, in two exact factors (the last product rounds where it is subnormal).
template <typename V>
typename V::F scale_by(typename V::F x, typename V::I k) {
    const auto half = V::template shift_right<1>(k), rest = V::sub_int(k, half);
    const auto bias = V::all_int(kBias);
    const auto first = V::template shift_left<23>(V::add_int(half, bias));
    const auto second = V::template shift_left<23>(V::add_int(rest, bias));
    return V::mul(V::mul(x, V::floats(first)), V::floats(second));
}

// On bits: compilers repeat comparisons of floats in loops rather than keep a flag.
inline bool same(float a, float b) {
    return __builtin_bit_cast(int32_t, a) == __builtin_bit_cast(int32_t, b);
}

inline bool is_nan(float x) {
    return (__builtin_bit_cast(int32_t, x) & INT32_MAX) > kExponentBits;
}

// x / 2 rounded toward zero: 2q > x if and only if q > half_below(x), also for subnormal x.
inline float half_below(float x) {
    const float half = x * 0.5F;
    return half * 2.0F > x ? __builtin_bit_cast(float, __builtin_bit_cast(int32_t, half) - 1)
                           : half;
}

template <typename V>
struct Counters {
    typename V::I over = V::all_int(0), over_half = V::all_int(0);
};

// The value that follows `below` where the draw asks for it: R < fraction * 2^bits.
template <typename V>
typename V::M draws_up(typename V::F draw, typename V::F fraction, float two_to_bits) {
    return V::lt(draw, V::mul(fraction, V::all(two_to_bits)));
}

template <typename V>
typename V::F up_where(typename V::F below, typename V::M up) {
    return V::add_where(up, below, V::all(1.0F));
}

// t to an integer. For magnitudes (t >= 0 of a number with the sign of q), floor and ceil are
// toward and away from zero by that sign.
template <typename V, Rounding R, bool magnitude>
typename V::F round(typename V::F t, typename V::F q, typename V::F draw, float two_to_bits) {
    using F = typename V::F;
    if constexpr (R == Rounding::nearest_even) {
        return V::nearest(t);
    } else if constexpr (R == Rounding::nearest_away) {
        const F whole = V::trunc(t);
        const F one = V::bit_or(V::all(1.0F), V::bit_and(t, V::floats(V::all_int(kSignBit))));
        const F away = V::keep(V::ge(abs<V>(V::sub(t, whole)), V::all(0.5F)), one);
        return V::add(whole, away);
    } else if constexpr (R == Rounding::toward_zero) {
        return V::trunc(t);
    } else if constexpr (R == Rounding::stochastic) {
        const F below = V::floor(t);
        return up_where<V>(below, draws_up<V>(draw, V::sub(t, below), two_to_bits));
    } else {
        const F below = V::floor(t), above = V::ceil(t);
        if constexpr (!magnitude) return R == Rounding::floor ? below : above;
        const auto negative = V::lt(q, V::all(0.0F));
        return R == Rounding::floor ? V::blend(negative, above, below)
                                    : V::blend(negative, below, above);
    }
}

}  // namespace
}  // namespace bitwright
