// The wide kernels in plain C++, compiled for each instruction set by the file that includes this
// (hence internal linkage).
#pragma once

#include <algorithm>
#include <cstring>
#include <limits>
#include <type_traits>

#include "engine-portable.h"
#include "engine-wide.h"

namespace bitwright {
namespace {

constexpr int64_t kStretch = 128;  // channels that are loaded at a time
#if defined(__AVX512F__)
constexpr int kWideRows = 4;  // pixels that share a pass over the weights
#else
constexpr int kWideRows = 2;
#endif

template <typename Stored, typename Value>
inline void load_stored(const std::byte* from, int64_t n, Value* out) {
    for (int64_t i = 0; i < n; ++i) {
        Stored value;
        std::memcpy(&value, from + i * static_cast<int64_t>(sizeof value), sizeof value);
        out[i] = static_cast<Value>(value);
    }
}

template <typename Stored, typename Value>
inline void store_stored(std::byte* to, int64_t n, const Value* values) {
    for (int64_t i = 0; i < n; ++i) {
        const auto value = static_cast<Stored>(values[i]);
        std::memcpy(to + i * static_cast<int64_t>(sizeof value), &value, sizeof value);
    }
}

// The levels of channels [first, first + n) of a pixel.
template <typename Value>
inline void load_levels(const View& from, const std::byte* pixel, int64_t first, int64_t n,
                        Value* out) {
    switch (from.layout.element) {
        case Element::bits:
            for (int64_t i = 0; i < n; ++i) {
                const int64_t c = first + i;
                unsigned value = 0;
                for (int64_t p = 0; p < from.layout.planes; ++p) {
                    const auto byte =
                        std::to_integer<unsigned>(pixel[p * from.layout.plane_bytes() + c / 8]);
                    value |= ((byte >> (c % 8)) & 1U) << p;
                }
                out[i] = static_cast<Value>(from.factor * static_cast<int32_t>(value) - from.zero);
            }
            break;
        case Element::bytes:
            for (int64_t i = 0; i < n; ++i) {
                out[i] = static_cast<Value>(std::to_integer<int32_t>(pixel[first + i]) - from.zero);
            }
            break;
        case Element::shorts:
            load_stored<int16_t>(pixel + 2 * first, n, out);
            break;
        case Element::sums:
            load_stored<int32_t>(pixel + 4 * first, n, out);
            break;
        case Element::longs:
            load_stored<int64_t>(pixel + 8 * first, n, out);
            break;
    }
}

// The reverse. No kernel here makes bits.
template <typename Value>
inline void store_levels(const View& to, std::byte* pixel, int64_t first, int64_t n,
                         const Value* levels) {
    switch (to.layout.element) {
        case Element::bits:
            break;
        case Element::bytes:
            for (int64_t i = 0; i < n; ++i) {
                pixel[first + i] = static_cast<std::byte>(static_cast<uint64_t>(levels[i]) +
                                                          static_cast<uint64_t>(to.zero));
            }
            break;
        case Element::shorts:
            store_stored<int16_t>(pixel + 2 * first, n, levels);
            break;
        case Element::sums:
            store_stored<int32_t>(pixel + 4 * first, n, levels);
            break;
        case Element::longs:
            store_stored<int64_t>(pixel + 8 * first, n, levels);
            break;
    }
}

// work(image, y, x) for every pixel of the range.
template <typename Work>
inline void for_each_pixel(const PixelRange& range, const Layout& layout, Work work) {
    const int64_t width = layout.shape.width;
    for (int64_t image = 0; image < range.images; ++image) {
        int64_t y = range.begin / width, x = range.begin % width;
        for (int64_t p = range.begin; p < range.end; ++p) {
            work(image, y, x);
            if (++x == width) {
                x = 0;
                ++y;
            }
        }
    }
}

// work(first, n) for stretches of channels.
template <typename Work>
inline void for_each_stretch(int64_t channels, Work work) {
    for (int64_t first = 0; first < channels; first += kStretch) {
        work(first, std::min(kStretch, channels - first));
    }
}

// One number for each of the 16 outputs of a tile, in registers: of vectors that are wider than
// those, GCC makes memory.
#if defined(__GNUC__)
#if defined(__AVX512F__)
constexpr int64_t kRegister = 64;
#elif defined(__AVX2__)
constexpr int64_t kRegister = 32;
#else
constexpr int64_t kRegister = 16;
#endif
template <typename T>
struct Lanes {
    static constexpr int64_t kEach = kRegister / static_cast<int64_t>(sizeof(T));
    template <typename U>
    struct Of {
        typedef U Vector __attribute__((vector_size(kEach * sizeof(U))));
    };
    typename Of<T>::Vector parts[kLanes / kEach];
    template <typename Stored>
    static Lanes load(const std::byte* from) {
        Lanes x;
        for (auto& part : x.parts) {
            typename Of<Stored>::Vector stored;
            std::memcpy(&stored, from, sizeof stored);
            from += sizeof stored;
            part = __builtin_convertvector(stored, typename Of<T>::Vector);
        }
        return x;
    }
    void add_product(T a, const Lanes& b) {
        for (int64_t i = 0; i < kLanes / kEach; ++i) parts[i] += a * b.parts[i];
    }
};
#else
template <typename T>
struct Lanes {
    T lanes[kLanes];
    template <typename Stored>
    static Lanes load(const std::byte* from) {
        Lanes x;
        load_stored<Stored>(from, kLanes, x.lanes);
        return x;
    }
    void add_product(T a, const Lanes& b) {
        for (int64_t i = 0; i < kLanes; ++i) lanes[i] += a * b.lanes[i];
    }
};
#endif

// kWideRows pixels times one tile of 16 outputs. Sums modulo 2^32, or in float64, which is exact in
// any order because every partial sum lies below 2^53.
template <typename Weight, typename Sum>
inline void wide_tile(const WideProductArgs& args, int64_t tile, const int64_t* images,
                      const int64_t* ys, const int64_t* xs, int64_t live) {
    const Sliding w = args.window;
    const Shape shape = args.input.layout.shape;
    const int64_t group_tiles = ceil_div(args.group_outputs, kLanes), group = tile / group_tiles;
    const int64_t inputs = args.group_inputs;
    constexpr auto kStep = static_cast<int64_t>(kLanes * sizeof(Weight));
    const std::byte* weights = args.weights + tile * w.taps() * inputs * kStep;
    Lanes<Sum> acc[kWideRows] = {};
    Sum levels[kWideRows][kStretch] = {};
    for (int64_t i = 0; i < w.kernel_h; ++i) {
        for (int64_t j = 0; j < w.kernel_w; ++j, weights += inputs * kStep) {
            const std::byte* taps[kWideRows];
            bool any = false;
            for (int64_t m = 0; m < kWideRows; ++m) {
                const int64_t y = ys[m] * w.stride_h - w.top + i * w.dilation_h;
                const int64_t x = xs[m] * w.stride_w - w.left + j * w.dilation_w;
                const bool inside =
                    m < live && y >= 0 && y < shape.height && x >= 0 && x < shape.width;
                taps[m] = inside ? args.input.pixel(images[m], y, x) : nullptr;
                any = any || inside;
            }
            if (!any) continue;
            for_each_stretch(inputs, [&](int64_t first, int64_t n) {
                for (int64_t m = 0; m < kWideRows; ++m) {
                    if (taps[m] == nullptr) {
                        std::fill(levels[m], levels[m] + n, Sum{0});
                    } else {
                        load_levels(args.input, taps[m], group * inputs + first, n, levels[m]);
                    }
                }
                const std::byte* at = weights + first * kStep;
                Lanes<Sum> sums[kWideRows];  // by value: what is stored could be the arguments
                for (int m = 0; m < kWideRows; ++m) sums[m] = acc[m];
                for (int64_t c = 0; c < n; ++c, at += kStep) {
                    const Lanes<Sum> weight = Lanes<Sum>::template load<Weight>(at);
                    for (int m = 0; m < kWideRows; ++m) sums[m].add_product(levels[m][c], weight);
                }
                for (int m = 0; m < kWideRows; ++m) acc[m] = sums[m];
            });
        }
    }
    const int64_t first = tile % group_tiles * kLanes;
    const int64_t outputs = std::min(kLanes, args.group_outputs - first);
    for (int64_t m = 0; m < live; ++m) {
        Sum sums[kLanes];
        std::memcpy(sums, &acc[m], sizeof sums);
        int64_t whole[kLanes];
        std::copy_n(sums, kLanes, whole);
        store_levels(args.output, args.output.pixel(images[m], ys[m], xs[m]),
                     group * args.group_outputs + first, outputs, whole);
    }
}

template <typename Weight, typename Sum>
inline void wide_product_of(const WideProductArgs& args) {
    int64_t images[kWideRows] = {}, ys[kWideRows] = {}, xs[kWideRows] = {}, live = 0;
    const auto flush = [&] {
        for (int64_t tile = args.first_tile; live > 0 && tile < args.end_tile; ++tile) {
            wide_tile<Weight, Sum>(args, tile, images, ys, xs, live);
        }
        live = 0;
    };
    for_each_pixel(args.pixels, args.output.layout, [&](int64_t image, int64_t y, int64_t x) {
        images[live] = image;
        ys[live] = y;
        xs[live] = x;
        if (++live == kWideRows) flush();
    });
    flush();
}

inline void wide_product(const WideProductArgs& args) {
    if (args.wide_weights) return wide_product_of<double, double>(args);
    if (args.wide_sums) return wide_product_of<int32_t, double>(args);
    wide_product_of<int32_t, uint32_t>(args);
}

inline void wide_affine(const WideAffineArgs& args) {
    for_each_pixel(args.pixels, args.output.layout, [&](int64_t image, int64_t y, int64_t x) {
        std::byte* out = args.output.pixel(image, y, x);
        for_each_stretch(args.channels, [&](int64_t first, int64_t n) {
            int64_t level[kStretch], sum[kStretch];
            std::copy_n(args.offset + first, n, sum);
            for (int64_t t = 0; t < args.count; ++t) {
                const View& input = args.inputs[t];
                load_levels(input, input.pixel(image, y, x), first, n, level);
                const int64_t* m = args.multiplier + t * args.channels + first;
                for (int64_t i = 0; i < n; ++i) {
                    sum[i] = static_cast<int64_t>(static_cast<uint64_t>(sum[i]) +
                                                  static_cast<uint64_t>(level[i]) *
                                                      static_cast<uint64_t>(m[i]));
                }
            }
            for (int64_t i = 0; i < n; ++i) {
                sum[i] =
                    std::clamp(round_shift(sum[i], args.shift, args.rounding), args.low, args.high);
            }
            store_levels(args.output, out, args.first_channel + first, n, sum);
        });
    });
}

inline void wide_steps(const WideStepsArgs& args) {
    const int64_t channels = args.output.layout.shape.channels;
    for_each_pixel(args.pixels, args.output.layout, [&](int64_t image, int64_t y, int64_t x) {
        for_each_stretch(channels, [&](int64_t first, int64_t n) {
            int64_t level[kStretch];
            load_levels(args.input, args.input.pixel(image, y, x), first, n, level);
            for (int64_t i = 0; i < n; ++i) {
                const int64_t c = first + i, directed = level[i] * args.direction[c];
                const int64_t* limits = args.limits + c * args.count;
                level[i] =
                    args.levels[std::upper_bound(limits, limits + args.count, directed) - limits];
            }
            store_levels(args.output, args.output.pixel(image, y, x), first, n, level);
        });
    });
}

template <int64_t size>
inline void wide_table_of(const WideTableArgs& args) {
    const int64_t channels = args.output.layout.shape.channels;
    const bool one = args.input.layout.shape.channels == 1;
    for_each_pixel(args.pixels, args.output.layout, [&](int64_t image, int64_t y, int64_t x) {
        const std::byte* in = args.input.pixel(image, y, x);
        std::byte* out = args.output.pixel(image, y, x);
        const auto row = [&](int64_t level) {
            return std::clamp(level - args.first, int64_t{0}, args.count - 1) * args.rows;
        };
        if (one) {  // one level, a whole row of entries
            int64_t level = 0;
            load_levels(args.input, in, 0, 1, &level);
            const std::byte* entries = args.entries + row(level) * size;
            for (int64_t c = 0; c < channels; ++c) {
                std::memcpy(out + c * size, entries + (args.rows == 1 ? 0 : c) * size, size);
            }
            return;
        }
        for_each_stretch(channels, [&](int64_t first, int64_t n) {
            int64_t level[kStretch];
            load_levels(args.input, in, first, n, level);
            for (int64_t i = 0; i < n; ++i) {
                const int64_t c = first + i, column = args.rows == 1 ? 0 : c;
                std::memcpy(out + c * size, args.entries + (row(level[i]) + column) * size, size);
            }
        });
    });
}

// kernel(std::integral_constant of the bytes that an element takes)
template <typename Kernel>
inline void with_size(int64_t size, Kernel kernel) {
    switch (size) {
        case 1:
            return kernel(std::integral_constant<int64_t, 1>{});
        case 2:
            return kernel(std::integral_constant<int64_t, 2>{});
        case 4:
            return kernel(std::integral_constant<int64_t, 4>{});
        default:
            return kernel(std::integral_constant<int64_t, 8>{});
    }
}

inline void wide_table(const WideTableArgs& args) {
    with_size(args.output.layout.element_bytes(),
              [&](auto size) { wide_table_of<decltype(size)::value>(args); });
}

inline void wide_pool(const WidePoolArgs& args) {
    const Sliding& w = args.window;
    const Shape& shape = args.input.layout.shape;
    for_each_pixel(args.pixels, args.output.layout, [&](int64_t image, int64_t y, int64_t x) {
        const int64_t top = y * w.stride_h - w.top, left = x * w.stride_w - w.left;
        const int64_t y0 = std::max(top, int64_t{0}), y1 = std::min(top + w.kernel_h, shape.height);
        const int64_t x0 = std::max(left, int64_t{0}),
                      x1 = std::min(left + w.kernel_w, shape.width);
        for_each_stretch(shape.channels, [&](int64_t first, int64_t n) {
            int64_t level[kStretch], pooled[kStretch];
            std::fill(pooled, pooled + n, args.sum ? 0 : std::numeric_limits<int64_t>::min());
            for (int64_t v = y0; v < y1; ++v) {
                for (int64_t u = x0; u < x1; ++u) {
                    load_levels(args.input, args.input.pixel(image, v, u), first, n, level);
                    for (int64_t i = 0; i < n; ++i) {
                        pooled[i] = args.sum ? pooled[i] + level[i] : std::max(pooled[i], level[i]);
                    }
                }
            }
            store_levels(args.output, args.output.pixel(image, y, x), first, n, pooled);
        });
    });
}

template <int64_t size>
inline void wide_gather_of(const WideGatherArgs& args) {
    const Layout &from = args.input.layout, &to = args.output.layout;
    const int64_t channels = to.shape.channels;
    const auto empty =
        static_cast<unsigned char>(to.element == Element::bytes ? args.output.zero : 0);
    for_each_pixel(args.pixels, to, [&](int64_t image, int64_t y, int64_t x) {
        const std::byte* in = args.input.data + image * from.image_bytes();
        std::byte* out = args.output.pixel(image, y, x);
        const int64_t p = y * to.shape.width + x;
        const int64_t runs = args.whole ? 1 : channels, run = channels / runs;
        for (int64_t r = 0; r < runs; ++r, out += run * size) {
            const int64_t at = args.source[p * runs + r];
            if (at < 0) {
                std::memset(out, empty, static_cast<size_t>(run * size));
            } else if (args.whole) {
                std::memcpy(out, in + at, static_cast<size_t>(run * size));
            } else {
                std::memcpy(out, in + at, size);
            }
        }
    });
}

inline void wide_gather(const WideGatherArgs& args) {
    with_size(args.output.layout.element_bytes(),
              [&](auto size) { wide_gather_of<decltype(size)::value>(args); });
}

constexpr WideKernels kWidePortable = {wide_product, wide_affine, wide_steps,
                                       wide_table,   wide_pool,   wide_gather};

}  // namespace
}  // namespace bitwright
