// Packs weights, folds zero points and padding into constants, lists the places of rows.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <map>
#include <stdexcept>

#include "graph.h"

namespace bitwright {
namespace {

constexpr int64_t kGroupRows = 64;  // a group has at least this many rows, if there are as many

// Taps that follow one another in memory are one run: rows of the kernel, or all of it. Otherwise
// (dilation, groups) every tap is a run of its own. `tap_bytes` of a pixel are read.
Runs list_runs(const Sliding& window, const Layout& input, int64_t tap_bytes, int64_t unit_bytes) {
    const int64_t pixel = input.pixel_bytes(), row = input.row_bytes() * window.dilation_h;
    const bool rows = window.dilation_w == 1 && tap_bytes == pixel;
    const bool all = rows && window.kernel_w * pixel == row;
    Runs runs;
    runs.taps_per_run = all ? window.taps() : rows ? window.kernel_w : 1;
    runs.tap_stride = pixel;
    runs.count = window.taps() / runs.taps_per_run;
    const int64_t bytes = (runs.taps_per_run - 1) * pixel + tap_bytes;
    runs.units = ceil_div(bytes, unit_bytes);
    for (int64_t run = 0; run < runs.count; ++run) {
        const int64_t tap = run * runs.taps_per_run;
        runs.offset.push_back(static_cast<int32_t>(
            tap / window.kernel_w * row + tap % window.kernel_w * window.dilation_w * pixel));
    }
    return runs;
}

Places list_places(const Sliding& window, const Layout& input, const Layout& output) {
    Places places;
    const int64_t width = output.shape.width;
    places.pixels = output.shape.pixels();
    places.input_image = input.image_bytes();
    places.output_image = output.image_bytes();
    // Offsets within a group are 32-bit.
    const int64_t most = INT32_MAX / std::max(places.input_image, places.output_image);
    places.group_images = std::clamp(ceil_div(kGroupRows, places.pixels), int64_t{1}, most);
    for (int64_t image = 0; image < places.group_images; ++image) {
        for (int64_t pixel = 0; pixel < places.pixels; ++pixel) {
            const int64_t y = pixel / width, x = pixel % width;
            places.input_offset.push_back(static_cast<int32_t>(
                image * places.input_image +
                input.offset(y * window.stride_h - window.top, x * window.stride_w - window.left)));
            places.output_offset.push_back(
                static_cast<int32_t>(image * places.output_image + output.offset(y, x)));
        }
    }
    return places;
}

// Place of a tap in its row's packed weights, in bytes: its run's start, and its place in the run.
int64_t packed_byte(const Runs& runs, int64_t unit_bytes, int64_t tap) {
    return tap / runs.taps_per_run * runs.units * unit_bytes +
           tap % runs.taps_per_run * runs.tap_stride;
}

// The taps [y0, y1) x [x0, x1) of one output pixel that lie inside the image.
using Inside = std::array<int64_t, 4>;

Inside inside(const Sliding& window, const Shape& input, int64_t out_y, int64_t out_x) {
    const auto range = [](int64_t start, int64_t kernel, int64_t dilation, int64_t size) {
        const int64_t first =
            std::clamp(ceil_div(std::max(-start, int64_t{0}), dilation), int64_t{0}, kernel);
        const int64_t end = size <= start ? 0 : ceil_div(size - start, dilation);
        return std::pair{first, std::clamp(end, first, kernel)};
    };
    const auto [y0, y1] = range(out_y * window.stride_h - window.top, window.kernel_h,
                                window.dilation_h, input.height);
    const auto [x0, x1] = range(out_x * window.stride_w - window.left, window.kernel_w,
                                window.dilation_w, input.width);
    return {y0, y1, x0, x1};
}

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

}  // namespace

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
    for (const int64_t b : offset)
        scaled_offset.push_back(std::ldexp(static_cast<double>(b), -shift));
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
    return e;
}

// Padding holds the byte of level 0, so one constant serves every pixel:
//   acc = sum of byte * w - zero * sum(w)
void pack(DotStage& stage, const Tensor& input, const Tensor& output) {
    const Sliding& window = stage.window;
    const int64_t taps = window.taps(), groups = stage.depthwise ? 1 : stage.groups;
    const int64_t in_channels = input.layout.shape.channels / stage.groups;
    const int64_t group_channels = stage.channels / groups;
    stage.tiles = ceil_div(group_channels, kLanes);
    stage.places = list_places(window, input.layout, output.layout);
    stage.runs = list_runs(window, input.layout, in_channels, kDot);
    if (stage.depthwise) {  // groups of 4 taps, each tap at its own offset
        stage.runs.units = ceil_div(taps, kDot);
        stage.runs.count = 1;
        stage.runs.offset.resize(static_cast<size_t>(stage.runs.units * kDot),
                                 stage.runs.offset.front());
    }
    const ByteWeights layout{stage.runs.count * stage.runs.units};
    const int64_t group_bytes = stage.tiles * layout.groups * kLanes * kDot;
    stage.weights = Bytes(groups * group_bytes);
    stage.constants.assign(static_cast<size_t>(groups * stage.tiles * kLanes), 0);
    const int8_t* level = stage.levels.data();
    for (int64_t n = 0; n < stage.channels; ++n) {
        const int64_t group = n / group_channels, lane = n % group_channels;
        int64_t sum = 0;
        for (int64_t c = 0; c < in_channels; ++c) {
            for (int64_t tap = 0; tap < taps; ++tap, ++level) {
                const int64_t byte = stage.depthwise ? tap : packed_byte(stage.runs, kDot, tap) + c;
                const int64_t at =
                    group * group_bytes + layout.index(lane, byte / kDot, byte % kDot);
                stage.weights.data()[at] = static_cast<std::byte>(*level);
                sum += *level;
            }
        }
        stage.constants[static_cast<size_t>(group * stage.tiles * kLanes + lane)] =
            static_cast<int32_t>(-input.zero * sum);
    }
    stage.epilogue.pad(stage.channels, groups);
    std::vector<int8_t>().swap(stage.levels);
}

// Whether the kernels of a single pair serve: one plane each, epilogues that they know, even runs.
bool is_single(const PlaneStage& stage, const Tensor& input) {
    const auto& offset = stage.runs.offset;
    for (size_t run = 0; run < offset.size(); ++run) {
        if (offset[run] != static_cast<int64_t>(run) * (offset.size() > 1 ? offset[1] : 0)) {
            return false;
        }
    }
    const Epilogue::Kind kind = stage.epilogue.kind;
    return stage.exclusive && input.layout.planes == 1 &&
           (kind == Epilogue::Kind::bits || (kind == Epilogue::Kind::sums && input.factor == 2));
}

// A flipped channel is packed with negated weights: (acc >= T) xor 1 <=> -acc >= 1 - T.
void negate_flipped(PlaneStage& stage) {
    const auto taps = static_cast<int64_t>(stage.levels.size()) / stage.channels;
    EpilogueSpec& e = stage.epilogue;
    for (int64_t n = 0; n < stage.channels; ++n) {
        auto& flip = e.flips[static_cast<size_t>(n)];
        if (flip == 0) continue;
        flip = 0;
        auto& threshold = e.thresholds[static_cast<size_t>(n)];
        // No accumulator reaches the largest int32, nor the mirror of the smallest.
        threshold = static_cast<int32_t>(std::min(int64_t{1} - threshold, int64_t{INT32_MAX}));
        for (int64_t i = n * taps; i < (n + 1) * taps; ++i) {
            stage.levels[static_cast<size_t>(i)] =
                static_cast<int8_t>(-stage.levels[static_cast<size_t>(i)]);
        }
    }
}

// With a = level of the activation = factor * v - zero, v spelt by planes, v = 0 outside:
//   acc = factor * sum of v w - zero * (sum of w over the taps inside)
//   and:  sum of v w = sum over i, j of 2^i c_j popcount(v_i & w_j), c_j = 2^j, the sign's -2^j
//   xor:  w = 2 b - 1, factor 1 or 2; sum of v w = (2^P - 1) popcount(b) - sum over i of 2^i
//   popcount(v_i ^ b)
void pack(PlaneStage& stage, const Tensor& input, const Tensor& output) {
    const Sliding& window = stage.window;
    const Layout& layout = input.layout;
    const int64_t taps = window.taps(), channels = layout.shape.channels;
    stage.tiles = ceil_div(stage.channels, kLanes);
    stage.places = list_places(window, layout, output.layout);
    stage.runs = list_runs(window, layout, layout.pixel_bytes(), kWordBytes);
    stage.single = is_single(stage, input);
    const bool counts = stage.single && stage.epilogue.kind == Epilogue::Kind::bits;
    if (counts) negate_flipped(stage);
    const BitWeights packed{stage.runs.count * stage.runs.units};
    const int64_t plane_bytes = stage.tiles * packed.words * kLanes * kWordBytes;
    stage.weights = Bytes(stage.weight_planes * plane_bytes);
    for (int64_t n = 0; n < stage.channels; ++n) {
        const int8_t* levels = stage.levels.data() + n * channels * taps;
        for (int64_t plane = 0; plane < stage.weight_planes; ++plane) {
            std::byte* weights = stage.weights.data() + plane * plane_bytes;
            for (int64_t tap = 0; tap < taps; ++tap) {
                const int64_t first = packed_byte(stage.runs, kWordBytes, tap) / kWordBytes;
                for (int64_t start = 0; start < channels; start += kWordBits) {
                    uint64_t word = 0;
                    for (int64_t c = start; c < std::min(channels, start + kWordBits); ++c) {
                        const int w = levels[c * taps + tap];
                        const auto digits = static_cast<unsigned>(stage.exclusive ? w > 0 : w);
                        word |= uint64_t{(digits >> plane) & 1U} << (c - start);
                    }
                    const int64_t at = packed.index(n, first + start / kWordBits);
                    std::memcpy(weights + at * kWordBytes, &word, sizeof word);
                }
            }
        }
    }
    for (int64_t i = 0; i < layout.planes; ++i) {
        for (int64_t j = 0; j < stage.weight_planes; ++j) {
            const bool sign = stage.is_signed && j == stage.weight_planes - 1;
            const int32_t digit = stage.exclusive ? -1 : (sign ? -1 : 1) * (1 << j);
            stage.pairs.push_back(
                {i * layout.plane_bytes(), j * plane_bytes, input.factor * (1 << i) * digit});
        }
    }

    // One set of constants for each kind of pixel: which taps lie inside.
    std::map<Inside, int32_t> kinds;
    const int64_t padded = stage.tiles * kLanes;
    std::vector<int32_t> of_pixel;
    for (int64_t pixel = 0; pixel < stage.places.pixels; ++pixel) {
        const int64_t y = pixel / output.layout.shape.width, x = pixel % output.layout.shape.width;
        const Inside kind = input.zero == 0 ? Inside{} : inside(window, layout.shape, y, x);
        const auto next = static_cast<int64_t>(kinds.size()) * padded;
        if (next + padded > INT32_MAX) throw std::invalid_argument("too many kinds of pixels");
        of_pixel.push_back(kinds.try_emplace(kind, static_cast<int32_t>(next)).first->second);
    }
    for (int64_t image = 0; image < stage.places.group_images; ++image) {
        stage.constant_offset.insert(stage.constant_offset.end(), of_pixel.begin(), of_pixel.end());
    }
    stage.constants.assign(kinds.size() * static_cast<size_t>(padded), counts ? -1 : 0);
    const int64_t most = (int64_t{1} << layout.planes) - 1;
    std::vector<int64_t> tap_sums(static_cast<size_t>(taps));
    for (int64_t n = 0; n < stage.channels; ++n) {
        int64_t ones = 0;
        std::fill(tap_sums.begin(), tap_sums.end(), 0);
        for (int64_t i = 0; i < channels * taps; ++i) {
            const int64_t w = stage.levels[static_cast<size_t>(n * channels * taps + i)];
            ones += w > 0 ? 1 : 0;
            tap_sums[static_cast<size_t>(i % taps)] += w;
        }
        for (const auto& [kind, offset] : kinds) {
            int64_t sum = 0;
            for (int64_t y = kind[0]; y < kind[1]; ++y) {
                for (int64_t x = kind[2]; x < kind[3]; ++x) {
                    sum += tap_sums[static_cast<size_t>(y * window.kernel_w + x)];
                }
            }
            const int64_t all = stage.exclusive ? input.factor * most * ones : 0;
            int64_t constant = all - input.zero * sum;
            if (counts) {  // constant - factor pc >= T <=> pc <= floor((constant - T) / factor)
                const int64_t rest = constant - stage.epilogue.thresholds[static_cast<size_t>(n)];
                const int64_t limit = input.factor == 2 ? rest >> 1 : rest;
                constant = std::clamp(limit, int64_t{-1}, channels * taps);
            }
            stage.constants[static_cast<size_t>(offset + n)] = static_cast<int32_t>(constant);
        }
    }
    stage.epilogue.pad(stage.channels, 1);
    std::vector<int8_t>().swap(stage.levels);
}

}  // namespace bitwright
