// What becomes of accumulators: arrays per channel, laid out in tiles, and the proof that float32
// serves for codes.
#include <algorithm>
#include <bit>
#include <cmath>

#include "graph.h"

namespace bitwright {
namespace {

constexpr int kFractionBits = 16;  // of what float32 gives where it is not exact

template <typename T>
void spread(std::vector<T>& array, int64_t channels, int64_t groups, T unused) {
    if (array.empty()) return;
    const int64_t rows = static_cast<int64_t>(array.size()) / channels, each = channels / groups;
    const int64_t padded = round_up(each, kLanes);
    std::vector<T> laid(static_cast<size_t>(rows * groups * padded), unused);
    for (int64_t i = 0; i < rows * channels; ++i) {
        const int64_t n = i % channels;
        const int64_t to = (i / channels * groups + n / each) * padded + n % each;
        laid[static_cast<size_t>(to)] = array[static_cast<size_t>(i)];
    }
    array = std::move(laid);
}

// What float32 makes of y = sum of x m + b for one channel.
struct Single {
    bool exact;    // every partial sum is a multiple of a power of two, and below 2^24 of them
    double error;  // in codes, the largest; negative where float32 does not serve
};

// The error is that of |y| <= R, near the codes: by the rounding of m, of x beyond 24 bits, of b,
// and of each multiply-add. One term alone is at most R + |b| there; several are as large as they
// can be. Beyond R any error below 1 will do.
Single judge(const EpilogueSpec& e, const std::vector<Summand>& terms, size_t n) {
    constexpr double unit = 0x1p-24;
    const double b = std::ldexp(std::abs(static_cast<double>(e.offset[n])), -e.shift);
    const double codes = std::max(std::abs(double(e.low)), std::abs(double(e.high))) + 2;
    auto digits = static_cast<uint64_t>(e.offset[n]);
    double sum = b, error = unit * (b + 1 + codes + 1);
    for (const Summand& term : terms) {
        digits |= static_cast<uint64_t>((*term.multiplier)[n]);
        const double m = std::ldexp(static_cast<double>((*term.multiplier)[n]), -e.shift);
        const auto largest = static_cast<double>((*term.largest)[n]);
        const double all = largest * std::abs(m);
        const double near = terms.size() == 1 ? std::min(all, codes + b) : all;
        const double relative = m == 0 ? 0 : std::abs(double(static_cast<float>(m)) / m - 1);
        error += near * (relative + (largest > 0x1p24 ? unit : 0));
        sum += all;
    }
    error += unit * static_cast<double>(terms.size() - 1) * (sum + 1);
    const int ends = std::min(std::countr_zero(digits), 62);
    const bool exact = sum < 0x1p30 && std::ldexp(sum, e.shift - ends) <= 0x1p24;
    // A short fraction is often exactly 1/2, which would be taken for an error.
    const bool fits =
        sum + codes < std::ldexp(1, 31 - kFractionBits) && (digits == 0 || e.shift - ends >= 12);
    return {exact, fits ? error : -1};
}

}  // namespace

// Exact sums are rounded at once. The others are made in 2^-16 codes, with 1/2 and their own error
// added, so that cutting the fraction off rounds them, unless the fraction is below twice the error
// (and the half that the conversion to integers adds to it).
void EpilogueSpec::prove_single(const std::vector<Summand>& terms) {
    if (kind != Kind::codes || rounding != Rounding::nearest_even) return;
    bool exact = true, serves = true;
    double largest = 0;
    for (size_t n = 0; n < offset.size(); ++n) {
        const Single channel = judge(*this, terms, n);
        exact = exact && channel.exact;
        serves = serves && channel.error >= 0;
        largest = std::max(largest, channel.error);
    }
    const double added = std::ceil(1.01 * std::ldexp(largest, kFractionBits) + 0.5);
    single = exact || (serves && added <= 32);  // beyond, float64 would be asked too often
    if (!single || exact) return;
    single_bits = kFractionBits;
    single_added = static_cast<int32_t>(added);
}

void EpilogueSpec::pad(int64_t channels, int64_t groups) {
    group_channels = channels / groups;
    group_padded = round_up(group_channels, kLanes);
    padded = groups * group_padded;
    spread(flips, channels, groups, uint8_t{0});
    tile_flips.assign(static_cast<size_t>(padded / kLanes), 0);
    for (size_t n = 0; n < flips.size(); ++n) {
        tile_flips[n / kLanes] |= static_cast<uint16_t>(unsigned{flips[n] != 0} << (n % kLanes));
    }
    spread(thresholds, channels, groups, int32_t{INT32_MAX});
    spread(base, channels, groups, int32_t{0});
    spread(step, channels, groups, int32_t{0});
    spread(multiplier, channels, groups, int64_t{0});
    spread(offset, channels, groups, int64_t{0});
    for (const int64_t m : multiplier) {
        scaled_multiplier.push_back(std::ldexp(static_cast<double>(m), -shift));
    }
    for (const int64_t b : offset) {
        scaled_offset.push_back(std::ldexp(static_cast<double>(b), -shift));
    }
    if (!single) return;
    const double half = single_bits == 0 ? 0 : std::ldexp(1, single_bits - 1);
    for (size_t n = 0; n < offset.size(); ++n) {
        const auto scaled = [&](double value) { return std::ldexp(value, single_bits); };
        single_multiplier.push_back(static_cast<float>(scaled(scaled_multiplier[n])));
        single_offset.push_back(static_cast<float>(scaled(scaled_offset[n]) + half + single_added));
    }
}

Epilogue EpilogueSpec::view(int64_t group, int32_t zero) const {
    const auto at = [&](const auto& array) {
        return array.empty() ? nullptr : array.data() + group * group_padded;
    };
    Epilogue e;
    e.kind = kind;
    e.channels = group_channels;
    e.thresholds = at(thresholds);
    e.count = count;
    e.padded = padded;
    e.flips = tile_flips.data() + group * group_padded / kLanes;
    e.base = at(base);
    e.step = at(step);
    e.multiplier = at(multiplier);
    e.offset = at(offset);
    e.scaled_multiplier = at(scaled_multiplier);
    e.scaled_offset = at(scaled_offset);
    e.shift = shift;
    e.rounding = rounding;
    e.low = low;
    e.high = high;
    e.zero = zero;
    e.single_multiplier = at(single_multiplier);
    e.single_offset = at(single_offset);
    const int32_t one = 1 << single_bits;
    e.single_fraction = one - 1;
    e.single_low = low * one;
    e.single_high = high * one + one - 1;
    e.single_zero = static_cast<int32_t>(static_cast<uint32_t>(zero) << single_bits);
    e.single_byte = single_bits / 8 * 0x01010101;
    e.single_limit = single_bits == 0 ? 0 : 2 * single_added + 1;
    return e;
}

}  // namespace bitwright
