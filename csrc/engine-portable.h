// The kernels in plain C++: the scalar reference on every layout, and compiled once more for
// instruction sets that have no kernel of their own for an operation. Everything has internal
// linkage, because each file that includes this compiles it for another machine.
#pragma once

#include <algorithm>
#include <bit>
#include <cstring>

#include "engine.h"
#include "layout.h"

namespace bitwright {
namespace {

inline int32_t load_int32(const std::byte* from) {
    int32_t value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

inline void store_int32(std::byte* to, int32_t value) {
    std::memcpy(to, &value, sizeof value);
}

// y 2^-shift, rounded: an arithmetic shift floors, then one up where the rounding says so.
inline int64_t round_shift(int64_t y, int shift, Rounding rounding) {
    if (shift == 0) return y;
    const int64_t below = y >> shift, rest = y - (below << shift);
    const int64_t half = int64_t{1} << (shift - 1);
    bool up = false;
    switch (rounding) {
        case Rounding::nearest_even:
            up = rest > half || (rest == half && (below & 1) != 0);
            break;
        case Rounding::nearest_away:
            up = rest > half || (rest == half && y >= 0);
            break;
        case Rounding::floor:
        case Rounding::stochastic:
            break;
        case Rounding::ceil:
            up = rest > 0;
            break;
        case Rounding::toward_zero:
            up = rest > 0 && y < 0;
            break;
    }
    return below + (up ? 1 : 0);
}

inline std::byte code_of(const Epilogue& e, int64_t sum) {
    const int64_t level = round_shift(sum, e.shift, e.rounding);
    return static_cast<std::byte>(std::clamp<int64_t>(level, e.low, e.high) + e.zero);
}

// The channels n .. n + 15 of a pixel at `out`; unused channels of sums and bits are written too.
inline void store_tile(const Epilogue& e, const int32_t* acc, int64_t n, std::byte* out) {
    const int64_t live = std::min(kLanes, e.channels - n);
    switch (e.kind) {
        case Epilogue::Kind::sums:
            for (int64_t i = 0; i < live; ++i) store_int32(out + 4 * (n + i), acc[i]);
            break;
        case Epilogue::Kind::bits: {
            unsigned bits = 0;
            for (int64_t i = 0; i < live; ++i) {
                bits |= static_cast<unsigned>(acc[i] >= e.thresholds[n + i]) << i;
            }
            const auto word = static_cast<uint16_t>(bits ^ e.flips[n / kLanes]);
            std::memcpy(out + n / 8, &word, sizeof word);
            break;
        }
        case Epilogue::Kind::levels:
            for (int64_t i = 0; i < live; ++i) {
                int32_t passed = 0;
                for (int64_t k = 0; k < e.count; ++k) {
                    passed += acc[i] >= e.thresholds[k * e.padded + n + i] ? 1 : 0;
                }
                out[n + i] = static_cast<std::byte>(e.base[n + i] + e.step[n + i] * passed);
            }
            break;
        case Epilogue::Kind::codes:
            for (int64_t i = 0; i < live; ++i) {
                out[n + i] = code_of(e, acc[i] * e.multiplier[n + i] + e.offset[n + i]);
            }
            break;
    }
}

// work(place in the group, input, output) for every row.
template <typename Work>
inline void for_each_row(const Rows& rows, Work work) {
    for (int64_t row = 0; row < rows.rows; ++row) {
        const int64_t group = row / rows.group_rows, at = row % rows.group_rows;
        work(at, rows.input + group * rows.input_group + rows.input_offset[at],
             rows.output + group * rows.output_group + rows.output_offset[at]);
    }
}

// acc[lane] += sum of 4 bytes * 4 weights. Modulo 2^32: only the whole sum need fit.
inline void dot_unit(uint32_t* acc, const std::byte* const (&taps)[kDot], int64_t lane_step,
                     const std::byte* weights) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
        for (int64_t i = 0; i < kDot; ++i) {
            const auto a = std::to_integer<int32_t>(taps[i][lane * lane_step]);
            const auto w = static_cast<int32_t>(static_cast<int8_t>(weights[lane * kDot + i]));
            acc[lane] += static_cast<uint32_t>(a * w);
        }
    }
}

inline void start(const int32_t* constants, uint32_t (&acc)[kLanes]) {
    std::memcpy(acc, constants, sizeof acc);
}

inline void finish(const Epilogue& e, const uint32_t (&acc)[kLanes], int64_t n, std::byte* out) {
    int32_t sums[kLanes];
    std::memcpy(sums, acc, sizeof sums);
    store_tile(e, sums, n, out);
}

inline void dot_portable(const DotArgs& args) {
    for (int64_t tile = args.first_tile; tile < args.tiles; ++tile) {
        for_each_row(args.rows, [&](int64_t, const std::byte* input, std::byte* output) {
            uint32_t acc[kLanes];
            start(args.constants + tile * kLanes, acc);
            for (int64_t run = 0; run < args.runs; ++run) {
                const std::byte* taps = input + args.run_offset[run];
                const std::byte* weights =
                    args.weights + tile * args.weight_tile + run * args.weight_run;
                for (int64_t unit = 0; unit < args.run_units; ++unit, taps += kDot) {
                    dot_unit(acc, {taps, taps + 1, taps + 2, taps + 3}, 0, weights);
                    weights += kLanes * kDot;
                }
            }
            finish(args.epilogue, acc, tile * kLanes, output);
        });
    }
}

inline void depthwise_portable(const DotArgs& args) {
    for (int64_t tile = args.first_tile; tile < args.tiles; ++tile) {
        for_each_row(args.rows, [&](int64_t, const std::byte* input, std::byte* output) {
            uint32_t acc[kLanes];
            start(args.constants + tile * kLanes, acc);
            const std::byte* first = input + tile * kLanes;
            const std::byte* weights = args.weights + tile * args.weight_tile;
            for (int64_t unit = 0; unit < args.run_units; ++unit) {
                const int32_t* at = args.run_offset + unit * kDot;
                dot_unit(acc, {first + at[0], first + at[1], first + at[2], first + at[3]}, 1,
                         weights);
                weights += kLanes * kDot;
            }
            finish(args.epilogue, acc, tile * kLanes, output);
        });
    }
}

inline void planes_portable(const PlaneArgs& args) {
    for (int64_t tile = args.first_tile; tile < args.tiles; ++tile) {
        for_each_row(args.rows, [&](int64_t, const std::byte* input, std::byte* output) {
            uint32_t acc[kLanes];
            start(args.constants + tile * kLanes, acc);
            for (int64_t p = 0; p < args.pairs; ++p) {
                const PlanePair& pair = args.pair[p];
                for (int64_t run = 0; run < args.runs; ++run) {
                    const std::byte* taps = input + pair.input + args.run_offset[run];
                    const std::byte* weights = args.weights + pair.weights +
                                               tile * args.weight_tile + run * args.weight_run;
                    for (int64_t unit = 0; unit < args.run_units; ++unit) {
                        uint64_t a;
                        std::memcpy(&a, taps + unit * kWordBytes, sizeof a);
                        for (int64_t lane = 0; lane < kLanes; ++lane) {
                            uint64_t w;
                            std::memcpy(&w, weights + bit_lane(lane) * kWordBytes, sizeof w);
                            const int ones = std::popcount(args.exclusive ? a ^ w : a & w);
                            acc[lane] += static_cast<uint32_t>(pair.coefficient * ones);
                        }
                        weights += kLanes * kWordBytes;
                    }
                }
            }
            finish(args.epilogue, acc, tile * kLanes, output);
        });
    }
}

inline int32_t level_of(const Term& term, const std::byte* pixel, int64_t n) {
    return term.sums ? load_int32(pixel + 4 * n) : std::to_integer<int32_t>(pixel[n]) - term.zero;
}

inline void combine_portable(const CombineArgs& args) {
    const Epilogue& e = args.epilogue;
    for (int64_t pixel = 0; pixel < args.pixels; ++pixel) {
        std::byte* out = args.output + pixel * args.output_stride;
        for (int64_t n = 0; n < e.channels; n += kLanes) {
            const int64_t live = std::min(kLanes, e.channels - n);
            if (args.count == 1) {
                int32_t acc[kLanes] = {};
                const std::byte* from = args.terms->data + pixel * args.terms->stride;
                for (int64_t i = 0; i < live; ++i) acc[i] = level_of(*args.terms, from, n + i);
                store_tile(e, acc, n, out);
                continue;
            }
            for (int64_t i = 0; i < live; ++i) {
                int64_t sum = e.offset[n + i];
                for (int64_t t = 0; t < args.count; ++t) {
                    const Term& term = args.terms[t];
                    sum += level_of(term, term.data + pixel * term.stride, n + i) *
                           term.multiplier[n + i];
                }
                out[n + i] = code_of(e, sum);
            }
        }
    }
}

inline void max_bytes_portable(const PoolArgs& args) {
    auto* out = reinterpret_cast<uint8_t*>(args.output);
    std::memset(out, 0, static_cast<size_t>(args.channels));
    for (int64_t y = 0; y < args.rows; ++y) {
        for (int64_t x = 0; x < args.columns; ++x) {
            const auto* tap = reinterpret_cast<const uint8_t*>(args.input + y * args.row_bytes +
                                                               x * args.pixel_bytes);
            for (int64_t c = 0; c < args.channels; ++c) out[c] = std::max(out[c], tap[c]);
        }
    }
}

inline void max_sums_portable(const PoolArgs& args) {
    auto* out = reinterpret_cast<int32_t*>(args.output);
    std::fill(out, out + args.channels, INT32_MIN);
    for (int64_t y = 0; y < args.rows; ++y) {
        for (int64_t x = 0; x < args.columns; ++x) {
            const auto* tap = reinterpret_cast<const int32_t*>(args.input + y * args.row_bytes +
                                                               x * args.pixel_bytes);
            for (int64_t c = 0; c < args.channels; ++c) out[c] = std::max(out[c], tap[c]);
        }
    }
}

inline void add_bytes_portable(const PoolArgs& args) {
    auto* out = reinterpret_cast<int32_t*>(args.output);
    const auto zeros = static_cast<int32_t>(args.rows * args.columns * args.zero);
    std::fill(out, out + args.channels, -zeros);
    for (int64_t y = 0; y < args.rows; ++y) {
        for (int64_t x = 0; x < args.columns; ++x) {
            const auto* tap = reinterpret_cast<const uint8_t*>(args.input + y * args.row_bytes +
                                                               x * args.pixel_bytes);
            for (int64_t c = 0; c < args.channels; ++c) out[c] += tap[c];
        }
    }
}

inline void split_portable(const SplitArgs& args) {
    for (int plane = 0; plane < args.planes; ++plane) {
        std::byte* out = args.output + plane * args.plane_bytes;
        for (int64_t start = 0; start < args.channels; start += kWordBits, out += kWordBytes) {
            uint64_t word = 0;
            const int64_t live = std::min(kWordBits, args.channels - start);
            for (int64_t c = 0; c < live; ++c) {
                const auto byte = std::to_integer<unsigned>(args.input[start + c]);
                word |= uint64_t{(byte >> (args.first + plane)) & 1U} << c;
            }
            std::memcpy(out, &word, sizeof word);
        }
    }
}

}  // namespace
}  // namespace bitwright
