// What becomes of accumulators: arrays per channel, laid out in tiles, and the proof that float32
// serves for codes.
#include <algorithm>
#include <bit>
#include <cmath>

#include "graph.h"

namespace bitwright {
namespace {

constexpr float kNoRisk = 1.0F;  // no rest of a rounding is that large

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

// u(y) - y, the largest that float32 errs in y = sum of x m + b, or a negative number where float32
// does not serve. With u = 2^-24, each of n terms below S in all:
//   x, m and b are rounded: u (2 S + |b|); each multiply-add: u (S + |b|)
// Exact, 0: x M and B are multiples of 2^t, and their sum below 2^24 of these. Otherwise what
// matters lies near the codes, |y| <= R, where one term alone is below R + |b|; beyond, any error
// below 1 leaves the code clipped.
double single_error(const EpilogueSpec& e, const std::vector<Summand>& terms, size_t n) {
    const double b = std::ldexp(std::abs(static_cast<double>(e.offset[n])), -e.shift);
    double sum = 0;
    auto digits = static_cast<uint64_t>(e.offset[n]);
    for (const Summand& term : terms) {
        const int64_t m = (*term.multiplier)[n];
        digits |= static_cast<uint64_t>(m);
        sum += std::ldexp(static_cast<double>((*term.largest)[n]) * std::abs(double(m)), -e.shift);
    }
    const int ends = std::countr_zero(digits);
    if (sum + b < 0x1p30 && std::ldexp(sum + b, e.shift - std::min(ends, 62)) <= 0x1p24) return 0;
    const double codes = std::max(std::abs(double(e.low)), std::abs(double(e.high))) + 2;
    // A short fraction is often 1/2, which is no error but would be taken for one.
    if (terms.size() > 4 || sum + b >= 0x1p21 || e.shift - ends < 12) return -1;
    const double near = terms.size() == 1 ? std::min(sum, codes + b) : sum;
    return 0x1.01p-24 * static_cast<double>(2 + terms.size()) * (near + b);
}

}  // namespace

void EpilogueSpec::prove_single(const std::vector<Summand>& terms) {
    if (kind != Kind::codes || rounding != Rounding::nearest_even) return;
    std::vector<float> margins;
    for (size_t n = 0; n < offset.size(); ++n) {
        const double error = single_error(*this, terms, n);
        if (error < 0 || error > 0x1p-11) return;  // float64 would be asked too often
        margins.push_back(error > 0 ? static_cast<float>(0.5 - error) : kNoRisk);
    }
    single_margin = std::move(margins);
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
    spread(single_margin, channels, groups, kNoRisk);
    if (single_margin.empty()) return;
    single_multiplier.assign(scaled_multiplier.begin(), scaled_multiplier.end());
    single_offset.assign(scaled_offset.begin(), scaled_offset.end());
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
    e.single_margin = at(single_margin);
    return e;
}

}  // namespace bitwright
