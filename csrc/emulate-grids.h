// Grids: q to the number that a format holds, for one vector V of an instruction set. A zero may
// come with either sign: number + zero() has the right one. Each grid also counts which q, and
// which 2q, lie outside its range.
#pragma once

#include <cstdint>

#include "emulate-round.h"

namespace bitwright {
namespace {

// The integers low..high. NaN counts as 0.
template <typename V, Rounding R, bool wrap>
class Uniform {
    using F = typename V::F;
    using I = typename V::I;

  public:
    static constexpr bool kStochastic = R == Rounding::stochastic;

    Uniform(const Grid& grid, const Random& random)
        : two_to_bits_(power_of_two(random.bits)),
          range_(grid.high - grid.low + 1.0F),
          low_limit_(V::all(grid.low)),
          high_limit_(V::all(grid.high)) {
        shift(V::all_int(0));
    }

    // Levels are codes minus the zero point.
    void shift(I zero_points) {
        const F zero = V::to_float(zero_points);
        low_ = V::sub(low_limit_, zero);
        high_ = V::sub(high_limit_, zero);
        half_low_ = V::mul(low_, V::all(0.5F));
        half_high_ = V::mul(high_, V::all(0.5F));
    }

    template <bool rare>
    [[gnu::always_inline]] void count(F q, Counters<V>& counters) const {
        const F half = V::min(V::max(q, half_low_), half_high_);
        counters.over = V::count(counters.over, V::ne(clip(q), q));
        counters.over_half = V::count(counters.over_half, V::ne(half, q));
    }

    // For a finite q.
    [[gnu::always_inline]] F of_finite(F q, F draw) const {
        if constexpr (wrap) return (*this)(q, draw);
        return round<V, R, false>(clip(q), q, draw, two_to_bits_);
    }

    [[gnu::always_inline]] F operator()(F q, F draw) const {
        const F known = V::keep(V::ordered(q), q);
        // clipping first gives the same: the limits are integers
        if constexpr (!wrap) return round<V, R, false>(clip(known), q, draw, two_to_bits_);
        const F r = round<V, R, false>(known, q, draw, two_to_bits_);
        // exact: r and the range are integers, the range a power of two
        const F period = V::all(range_);
        const F wrapped = V::sub(r, V::mul(V::floor(V::div(r, period)), period));
        const F folded = V::sub(wrapped, V::keep(V::gt(wrapped, high_), period));
        return V::blend(V::lt(abs<V>(r), infinity<V>()), folded, clip(r));
    }

    F zero() const { return V::all(0.0F); }

  private:
    F clip(F x) const { return V::min(V::max(x, low_), high_); }

    float two_to_bits_, range_;
    F low_limit_, high_limit_, low_, high_, half_low_, half_high_;
};

// What the grids of signed magnitudes share: the largest magnitude, and q < 0 of unsigned formats.
template <typename V>
class Magnitudes {
    using F = typename V::F;
    using I = typename V::I;
    using M = typename V::M;

  public:
    void shift(I) {}  // no zero points

    template <bool rare>
    [[gnu::always_inline]] void count(F q, Counters<V>& counters) const {
        const F u = abs<V>(q);
        const M half = V::gt(u, half_max_);
        if (rare && !V::any(half)) [[likely]]
            return;
        counters.over = V::count(counters.over, V::gt(u, max_));
        counters.over_half = V::count(counters.over_half, half);
    }

  protected:
    Magnitudes(float max, bool is_unsigned)
        : max_(V::all(max)),
          half_max_(V::all(half_below(max))),
          is_unsigned_(is_unsigned),
          sign_bit_(V::floats(V::all_int(is_unsigned ? 0 : kSignBit))) {}

    // |q|, or 0 where an unsigned format cannot hold q. NaN stays NaN.
    F magnitude(F q) const {
        const F u = abs<V>(q);
        return is_unsigned_ ? V::blend(V::lt(q, V::all(0.0F)), V::all(0.0F), u) : u;
    }

    F with_sign(F u, F q) const { return V::or_masked(u, q, sign_bit_); }

    F max_, half_max_;
    bool is_unsigned_;
    F sign_bit_;
};

// Whether a floating grid is one of the usual kind, whose loop needs none of the rarer cases.
inline bool is_plain(const Grid& grid) {
    return grid.mantissa_bits >= 1 && grid.emin <= 0 && grid.emin - grid.mantissa_bits >= -126 &&
           grid.subnormals != 0 && grid.is_unsigned == 0;
}

// Binary floating point with subnormals (or without), and a stated fate of what lies beyond max.
template <typename V, Rounding R, bool plain>
class Floating : public Magnitudes<V> {
    using F = typename V::F;
    using I = typename V::I;
    using M = typename V::M;

  public:
    static constexpr bool kStochastic = R == Rounding::stochastic;

    Floating(const Grid& grid, const Random& random)
        : Magnitudes<V>(grid.max, grid.is_unsigned != 0),
          two_to_bits_(power_of_two(random.bits)),
          mantissa_(grid.mantissa_bits << 23),
          emin_(grid.emin),
          one_step_(grid.mantissa_bits >= 1 && grid.emin - grid.mantissa_bits >= -126 &&
                    grid.emin <= 126),
          subnormals_(grid.subnormals != 0),
          saturates_(R == Rounding::toward_zero || same(grid.beyond, grid.max)),
          nan_results_(is_nan(grid.beyond)),
          smallest_normal_(scale_by<V>(V::all(1.0F), V::all_int(grid.emin))),
          beyond_(V::all(grid.beyond)),
          at_infinity_(V::all(grid.at_infinity)),
          at_nan_(is_nan(grid.at_nan) ? quiet_nan() : V::all(0.0F)),
          zero_(V::all(grid.negative_zero != 0 ? -0.0F : 0.0F)) {}

    [[gnu::always_inline]] F operator()(F q, F draw) const {
        const F u = plain ? abs<V>(q) : this->magnitude(q);
        const F number = of_finite(q, draw);
        const M special = V::gt_int(V::bits(u), V::all_int(kExponentBits - 1));
        if (V::any(special)) [[unlikely]]
            return of_special(number, u, q);
        return number;
    }

    // For a finite q.
    [[gnu::always_inline]] F of_finite(F q, F draw) const {
        const F u = plain ? abs<V>(q) : this->magnitude(q);
        const I emin_bits = V::all_int((emin_ + kBias) * (1 << 23));
        // 2^E in float32's exponent field, E that of u, at least emin
        const I field = V::max_int(V::and_int(V::bits(u), V::all_int(kExponentBits)), emin_bits);
        I mantissa = V::all_int(mantissa_);  // m, or 0 where there are no subnormals
        if (!plain && !subnormals_) {
            mantissa = V::blend_int(V::lt(u, smallest_normal_), V::all_int(0), mantissa);
        }
        F number = plain || one_step_ ? in_one_step(u, q, draw, field, mantissa)
                                      : in_two_steps(u, q, draw, field, mantissa);
        number = saturates_ ? V::min(number, this->max_)
                            : V::blend(V::gt(number, this->max_), beyond(q), number);
        number = this->with_sign(number, q);
        if (nan_results_) number = without_sign_if_nan(number);
        return number;
    }

    F zero() const { return zero_; }  // x + -0 = x; x + 0 = x but for -0 + 0 = 0

  private:
    static F quiet_nan() { return V::floats(V::all_int(0x7FC00000)); }

    static F without_sign_if_nan(F number) {
        return V::blend(V::ordered(number), number, quiet_nan());
    }

    F of_special(F number, F u, F q) const {
        const F infinite = without_sign_if_nan(this->with_sign(at_infinity_, q));
        number = V::blend(V::eq(u, infinity<V>()), infinite, number);
        return V::blend(V::ordered(q), number, at_nan_);
    }

    // 2^(m-E) and 2^(E-m) are normal floats for every E of a finite u.
    F in_one_step(F u, F q, F draw, I field, I mantissa) const {
        const I twice_bias = V::add_int(V::all_int(2 * kBias * (1 << 23)), mantissa);
        const F t = positive(V::mul(u, V::floats(V::sub_int(twice_bias, field))), u);
        const F r = round<V, R, true>(t, q, draw, two_to_bits_);
        return V::mul(r, V::floats(V::sub_int(field, mantissa)));
    }

    // They are not: two factors of half the exponent each.
    F in_two_steps(F u, F q, F draw, I field, I mantissa) const {
        const I bias = V::all_int(kBias);
        const I m = V::template shift_right<23>(mantissa);
        const I e = V::sub_int(V::template shift_right<23>(field), bias);
        const F t = positive(scale_by<V>(u, V::sub_int(m, e)), u);
        const F r = round<V, R, true>(t, q, draw, two_to_bits_);
        return scale_by<V>(r, V::sub_int(e, m));
    }

    // Where the smallest normal lies above 1, t can underflow: a u > 0 stays above 0, which is all
    // that any rounding asks of so small a t.
    F positive(F t, F u) const {
        return !plain && emin_ > 0 ? V::max(t, V::min(u, V::floats(V::all_int(1)))) : t;
    }

    // A finite q beyond max that is rounded toward zero stays at max.
    F beyond(F q) const {
        if constexpr (R == Rounding::floor || R == Rounding::ceil) {
            const M negative = V::lt(q, V::all(0.0F));
            return R == Rounding::floor ? V::blend(negative, beyond_, this->max_)
                                        : V::blend(negative, this->max_, beyond_);
        }
        return beyond_;
    }

    float two_to_bits_;
    int32_t mantissa_, emin_;
    bool one_step_, subnormals_, saturates_, nan_results_;
    F smallest_normal_, beyond_, at_infinity_, at_nan_, zero_;
};

// Powers of 2, or of sqrt(2): 0 and +-base^k, k = 0 .. fields - 1. NaN counts as 0.
template <typename V, Rounding R, bool root>
class Logarithmic : public Magnitudes<V> {
    using F = typename V::F;
    using I = typename V::I;
    using M = typename V::M;

  public:
    static constexpr bool kStochastic = R == Rounding::stochastic;

    Logarithmic(const Grid& grid, const Random& random)
        : Magnitudes<V>(largest(grid.fields), grid.is_unsigned != 0),
          two_to_bits_(power_of_two(random.bits)),
          last_(V::all_int(grid.fields - 1)) {}

    [[gnu::always_inline]] F of_finite(F q, F draw) const { return (*this)(q, draw); }

    [[gnu::always_inline]] F operator()(F q, F draw) const {
        const F u = V::keep(V::ordered(q), this->magnitude(q));
        const I k = V::min_int(exponent(u, q, draw), last_);
        const F number = V::keep(V::gt_int(k, V::all_int(-1)), power(k));
        return this->with_sign(number, q);
    }

    F zero() const { return V::all(0.0F); }

  private:
    // Mantissa fields: of float32(sqrt 2), which is below sqrt 2, and of the smallest floats that
    // are at least 2^(1/4), 2^(1/2), 2^(3/4).
    static constexpr int32_t kRoot = 0x3504F3;
    static constexpr int32_t kQuarter = 0x1837F1, kHalf = 0x3504F4, kThreeQuarters = 0x5744FD;

    static float largest(int32_t fields) {
        const int32_t k = fields - 1;
        const int32_t exponent = root ? k >> 1 : k, odd = root ? k & 1 : 0;
        return __builtin_bit_cast(float, (exponent + kBias) << 23 | (odd != 0 ? kRoot : 0));
    }

    // base^k; wrong below 0, where nobody asks.
    static F power(I k) {
        const I exponent = root ? V::template shift_right<1>(k) : k;
        I bits = V::template shift_left<23>(V::add_int(exponent, V::all_int(kBias)));
        if constexpr (root) {
            const I odd = V::and_int(k, V::all_int(1));
            bits = V::or_int(bits, V::and_int(V::sub_int(V::all_int(0), odd), V::all_int(kRoot)));
        }
        return V::floats(bits);
    }

    static I one_where(M m) { return V::blend_int(m, V::all_int(1), V::all_int(0)); }
    static M at_least(I mantissa, int32_t bound) {
        return V::gt_int(mantissa, V::all_int(bound - 1));
    }
    static I steps(I mantissa, int32_t first, int32_t second) {
        if constexpr (!root) return one_where(at_least(mantissa, first));
        return V::add_int(one_where(at_least(mantissa, first)),
                          one_where(at_least(mantissa, second)));
    }

    // k of the number that u becomes; negative: 0.
    I exponent(F u, F q, F draw) const {
        const I bits = V::bits(u);
        const I octave = V::sub_int(V::template shift_right<23>(bits), V::all_int(kBias));
        const I start = root ? V::add_int(octave, octave) : octave;  // k of 2^octave
        const I mantissa = V::and_int(bits, V::all_int(kMantissaBits));
        if constexpr (R == Rounding::nearest_even || R == Rounding::nearest_away) {
            // below 1 the first threshold of sqrt(2) leads to k = -1, which is 0 too
            return V::add_int(start, root ? steps(mantissa, kQuarter, kThreeQuarters)
                                          : steps(mantissa, kHalf, kHalf));
        } else {
            const M small = V::lt(u, V::all(1.0F));
            const I floor =
                V::add_int(start, root ? one_where(at_least(mantissa, kRoot)) : V::all_int(0));
            const I below = V::blend_int(small, V::all_int(-1), floor);
            if constexpr (R == Rounding::toward_zero) return below;
            if constexpr (R == Rounding::stochastic) {
                const M up = draws_up<V>(draw, fraction(u, floor, mantissa, small), two_to_bits_);
                return V::add_int(below, one_where(up));
            }
            const I ceil = V::add_int(start, steps(mantissa, 1, kRoot + 1));
            const I above = V::blend_int(V::both(small, V::gt(u, V::all(0.0F))), V::all_int(0),
                                         V::blend_int(small, V::all_int(-1), ceil));
            const M negative = V::lt(q, V::all(0.0F));
            return R == Rounding::floor ? V::blend_int(negative, above, below)
                                        : V::blend_int(negative, below, above);
        }
    }

    // Where u lies between its two neighbours on the grid, 0 to 1.
    static F fraction(F u, I floor, I mantissa, M small) {
        F part;
        if constexpr (root) {
            const F below = power(floor), above = power(V::add_int(floor, V::all_int(1)));
            part = V::div(V::sub(u, below), V::sub(above, below));
        } else {
            part = V::mul(V::to_float(mantissa), V::all(0x1p-23F));
        }
        return V::blend(small, u, part);
    }

    float two_to_bits_;
    I last_;
};

template <typename V, Rounding R>
using Log2 = Logarithmic<V, R, false>;
template <typename V, Rounding R>
using LogSqrt2 = Logarithmic<V, R, true>;

// +1 where q >= 0 (also -0) or NaN, else -1. Nothing lies outside.
template <typename V, Rounding R>
class Sign {
    using F = typename V::F;
    using I = typename V::I;

  public:
    static constexpr bool kStochastic = R == Rounding::stochastic;

    Sign(const Grid&, const Random& random) : half_of_draws_(power_of_two(random.bits - 1)) {}

    void shift(I) {}
    template <bool>
    void count(F, Counters<V>&) const {}
    F zero() const { return V::all(0.0F); }

    [[gnu::always_inline]] F of_finite(F q, F draw) const { return (*this)(q, draw); }

    [[gnu::always_inline]] F operator()(F q, F draw) const {
        const F one = V::all(1.0F), minus_one = V::all(-1.0F);
        if constexpr (kStochastic) {
            const F chance = V::add(V::keep(V::ordered(q), q), one);
            return V::blend(V::lt(draw, V::mul(chance, V::all(half_of_draws_))), one, minus_one);
        } else {
            return V::blend(V::lt(q, V::all(0.0F)), minus_one, one);
        }
    }

  private:
    float half_of_draws_;
};

}  // namespace
}  // namespace bitwright
