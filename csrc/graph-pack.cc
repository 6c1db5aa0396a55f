// Packs weights, folds zero points and padding into constants, lists the places of rows.
#include <algorithm>
#include <bit>
#include <cstring>
#include <map>
#include <stdexcept>

#include "graph.h"

namespace bitwright {
namespace {

constexpr int64_t kGroupRows = 64;  // a group has at least this many rows, if there are as many
constexpr int64_t kGroupRowsByKind = 512;  // so that the corners of several images fill a block
constexpr int64_t kLeastSkipped = 32;      // taps outside are skipped where they are 1 of so many

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

// Place of a tap in its row's packed weights, in bytes: its run's start, and its place in the run.
int64_t packed_byte(const Runs& runs, int64_t unit_bytes, int64_t tap) {
    return tap / runs.taps_per_run * runs.units * unit_bytes +
           tap % runs.taps_per_run * runs.tap_stride;
}

// The taps of one output pixel that lie inside the image.
Taps inside(const Sliding& window, const Shape& input, int64_t out_y, int64_t out_x) {
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

// Lists segments and places. `by_kind`: a segment's pixels have the same taps inside, even where
// all taps are taken. A unit is `unit_bytes` of activations and
// `unit_weights` bytes of weights.
Places list_places(const Sliding& window, const Runs& runs, const Layout& input,
                   const Layout& output, int64_t unit_bytes, int64_t unit_weights, bool by_kind,
                   bool may_skip) {
    const int64_t width = output.shape.width, pixel_bytes = input.pixel_bytes();
    Places places;
    places.height = output.shape.height;
    places.width = width;
    places.input_image = input.image_bytes();
    places.output_image = output.image_bytes();
    places.weight_run = runs.units * unit_weights;
    places.weight_tile = runs.count * places.weight_run;
    const bool rows =
        may_skip && runs.taps_per_run == window.kernel_w && runs.count == window.kernel_h;
    const bool columns = rows && pixel_bytes % unit_bytes == 0;
    const Taps all{0, window.kernel_h, 0, window.kernel_w};
    const auto kind_of = [&](int64_t pixel, bool skips) {
        const Taps in = inside(window, input.shape, pixel / width, pixel % width);
        const Taps taken{skips ? in.y0 : 0, skips ? in.y1 : all.y1, skips && columns ? in.x0 : 0,
                         skips && columns ? in.x1 : all.x1};
        return std::pair{taken, by_kind ? in : taken};
    };
    int64_t left_out = 0;
    for (int64_t pixel = 0; rows && pixel < places.pixels(); ++pixel) {
        left_out += all.count() - kind_of(pixel, true).first.count();
    }
    const bool skips = left_out * kLeastSkipped >= places.pixels() * all.count();
    std::map<std::pair<Taps, Taps>, std::vector<int64_t>> kinds;
    for (int64_t pixel = 0; pixel < places.pixels(); ++pixel) {
        kinds[kind_of(pixel, skips)].push_back(pixel);
    }
    // Offsets within a group are 32-bit.
    const int64_t most = INT32_MAX / std::max(places.input_image, places.output_image);
    const int64_t wanted = kinds.size() > 1 ? kGroupRowsByKind : kGroupRows;
    places.group_images = std::clamp(ceil_div(wanted, places.pixels()), int64_t{1}, most);
    int64_t before = 0;
    for (const auto& [kind, pixels] : kinds) {
        const auto& [taken, in] = kind;
        const auto count = static_cast<int64_t>(pixels.size());
        const int64_t units =
            skips && columns ? (taken.x1 - taken.x0) * pixel_bytes / unit_bytes : runs.units;
        const int64_t skipped = taken.x0 * pixel_bytes;
        const int64_t input_bytes =
            taken.y0 < taken.y1 ? runs.offset[static_cast<size_t>(taken.y0)] + skipped : 0;
        places.segments.push_back(
            {in,
             taken,
             count,
             before,
             skips ? taken.y1 - taken.y0 : runs.count,
             units,
             input_bytes,
             taken.y0 * places.weight_run + skipped / unit_bytes * unit_weights,
             0,
             {pixels.begin(), pixels.end()}});
        before += count;
        for (int64_t image = 0; image < places.group_images; ++image) {
            for (const int64_t pixel : pixels) {
                const int64_t y = pixel / width, x = pixel % width;
                const int64_t from = input.offset(y * window.stride_h - window.top,
                                                  x * window.stride_w - window.left);
                places.input_offset.push_back(
                    static_cast<int32_t>(image * places.input_image + from));
                places.output_offset.push_back(
                    static_cast<int32_t>(image * places.output_image + output.offset(y, x)));
            }
        }
    }
    return places;
}

// Room for the constants of every segment, `padded` each.
void lay_constants(std::vector<Segment>& segments, std::vector<int32_t>& constants,
                   int64_t padded) {
    for (size_t i = 0; i < segments.size(); ++i) {
        segments[i].constants = static_cast<int64_t>(i) * padded;
    }
    constants.assign(segments.size() * static_cast<size_t>(padded), 0);
}

int64_t sum_of(const std::vector<int64_t>& of_tap, const Taps& taps, int64_t kernel_w) {
    int64_t sum = 0;
    for (int64_t y = taps.y0; y < taps.y1; ++y) {
        for (int64_t x = taps.x0; x < taps.x1; ++x) {
            sum += of_tap[static_cast<size_t>(y * kernel_w + x)];
        }
    }
    return sum;
}

}  // namespace

// The margin holds the byte of level 0, so the taps that are multiplied have one constant:
//   acc = sum of byte * w - zero * sum(w)
void pack(DotStage& stage, const Tensor& input, const Tensor& output) {
    const Sliding& window = stage.window;
    const int64_t taps = window.taps(), groups = stage.depthwise ? 1 : stage.groups;
    const int64_t in_channels = input.layout.shape.channels / stage.groups;
    const int64_t group_channels = stage.channels / groups;
    stage.tiles = ceil_div(group_channels, kLanes);
    stage.runs = list_runs(window, input.layout, in_channels, kDot);
    if (stage.depthwise) {  // groups of 4 taps, each tap at its own offset
        stage.runs.units = ceil_div(taps, kDot);
        stage.runs.count = 1;
        stage.runs.offset.resize(static_cast<size_t>(stage.runs.units * kDot),
                                 stage.runs.offset.front());
    }
    // Signs have no weight of 0 for what lies behind a run.
    const int64_t run_bytes = (stage.runs.taps_per_run - 1) * stage.runs.tap_stride + in_channels;
    stage.signs = stage.signs && run_bytes % kDot == 0;
    const int64_t unit_weights = kLanes * kDot / (stage.signs ? 8 : 1);
    stage.places = list_places(window, stage.runs, input.layout, output.layout, kDot, unit_weights,
                               false, stage.groups == 1);
    const ByteWeights layout{stage.runs.count * stage.runs.units};
    const int64_t group_bytes = stage.tiles * layout.groups * unit_weights;
    stage.weights = Bytes(groups * group_bytes);
    const int64_t padded = groups * stage.tiles * kLanes;
    lay_constants(stage.places.segments, stage.constants, padded);
    const int8_t* level = stage.levels.data();
    std::vector<int64_t> tap_sums(static_cast<size_t>(taps));
    std::vector<int64_t> bounds(static_cast<size_t>(stage.channels));  // of |acc|
    for (int64_t n = 0; n < stage.channels; ++n) {
        const int64_t group = n / group_channels, lane = n % group_channels;
        std::fill(tap_sums.begin(), tap_sums.end(), 0);
        for (int64_t c = 0; c < in_channels; ++c) {
            for (int64_t tap = 0; tap < taps; ++tap, ++level) {
                const int64_t byte = stage.depthwise ? tap : packed_byte(stage.runs, kDot, tap) + c;
                const int64_t at = layout.index(lane, byte / kDot, byte % kDot);
                std::byte* weights = stage.weights.data() + group * group_bytes;
                if (stage.signs) {
                    weights[sign_byte(at)] |= std::byte{*level > 0} << sign_bit(at);
                } else {
                    weights[at] = static_cast<std::byte>(*level);
                }
                tap_sums[static_cast<size_t>(tap)] += *level;
                bounds[static_cast<size_t>(n)] += input.largest() * std::abs(int64_t{*level});
            }
        }
        for (const Segment& segment : stage.places.segments) {
            const int64_t at = segment.constants + group * stage.tiles * kLanes + lane;
            stage.constants[static_cast<size_t>(at)] = static_cast<int32_t>(
                -input.zero * sum_of(tap_sums, segment.taken, window.kernel_w));
        }
    }
    stage.epilogue.prove_single({{{&stage.epilogue.multiplier, &bounds}}});
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
//   popcount(v_i ^ b), over the taps that are multiplied
void pack(PlaneStage& stage, const Tensor& input, const Tensor& output) {
    const Sliding& window = stage.window;
    const Layout& layout = input.layout;
    const int64_t taps = window.taps(), channels = layout.shape.channels;
    stage.tiles = ceil_div(stage.channels, kLanes);
    stage.runs = list_runs(window, layout, layout.pixel_bytes(), kWordBytes);
    stage.places = list_places(window, stage.runs, layout, output.layout, kWordBytes,
                               kLanes * kWordBytes, input.zero != 0, true);
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

    const int64_t padded = stage.tiles * kLanes, most = (int64_t{1} << layout.planes) - 1;
    lay_constants(stage.places.segments, stage.constants, padded);
    if (counts) std::fill(stage.constants.begin(), stage.constants.end(), -1);
    std::vector<int64_t> tap_sums(static_cast<size_t>(taps)), tap_ones(tap_sums);
    for (int64_t n = 0; n < stage.channels; ++n) {
        std::fill(tap_sums.begin(), tap_sums.end(), 0);
        std::fill(tap_ones.begin(), tap_ones.end(), 0);
        for (int64_t i = 0; i < channels * taps; ++i) {
            const int64_t w = stage.levels[static_cast<size_t>(n * channels * taps + i)];
            tap_sums[static_cast<size_t>(i % taps)] += w;
            tap_ones[static_cast<size_t>(i % taps)] += w > 0 ? 1 : 0;
        }
        for (const Segment& segment : stage.places.segments) {
            const int64_t ones = sum_of(tap_ones, segment.taken, window.kernel_w);
            const int64_t sum =
                input.zero == 0 ? 0 : sum_of(tap_sums, segment.inside, window.kernel_w);
            const int64_t all = stage.exclusive ? input.factor * most * ones : 0;
            int64_t constant = all - input.zero * sum;
            if (counts) {  // constant - factor pc >= T <=> pc <= floor((constant - T) / factor)
                const int64_t rest = constant - stage.epilogue.thresholds[static_cast<size_t>(n)];
                const int64_t limit = input.factor == 2 ? rest >> 1 : rest;
                constant = std::clamp(limit, int64_t{-1}, channels * taps);
            }
            stage.constants[static_cast<size_t>(segment.constants + n)] =
                static_cast<int32_t>(constant);
        }
    }
    stage.epilogue.pad(stage.channels, 1);
    std::vector<int8_t>().swap(stage.levels);
}

}  // namespace bitwright
