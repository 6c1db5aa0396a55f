// The stages that run whatever the fast kernels do not: levels of any storage, one code path.
//
// A kernel loads a stretch of channels of one pixel as integers, computes, and stores them as the
// output's element; only load_levels and store_levels (engine-wide-portable.h) know how tensors are
// stored. Sums are int64, below 2^53 by construction of a network.
#pragma once

#include <cstddef>
#include <cstdint>

#include "emulate.h"  // Rounding
#include "layout.h"

namespace bitwright {

// What slides over an image. Taps outside it are level 0, or do not count (pools).
struct Sliding {
    int64_t kernel_h, kernel_w, stride_h, stride_w, top, left, bottom, right;
    int64_t dilation_h, dilation_w;
    int64_t taps() const { return kernel_h * kernel_w; }
    Shape output(const Shape& input, int64_t channels) const;
};

// A tensor's images in memory: level = factor * stored - zero.
struct View {
    std::byte* data = nullptr;
    Layout layout;
    int32_t factor = 1, zero = 0;
    std::byte* pixel(int64_t image, int64_t y, int64_t x) const {
        return data + image * layout.image_bytes() + layout.offset(y, x);
    }
};

// The pixels [begin, end) of every image, in row-major order.
struct PixelRange {
    int64_t images, begin, end;
};

// acc[o] = sum over taps and channels of a group of level * weight. Weights lie in tiles of 16
// outputs, [group][tile][tap][channel][16], int32 or float64. Sums are modulo 2^32 and exact in the
// end where the output holds int32, else in float64.
struct WideProductArgs {
    View input, output;
    Sliding window;
    PixelRange pixels;
    int64_t first_tile, end_tile;  // counted over all groups
    int64_t group_inputs, group_outputs;
    bool wide_weights, wide_sums;  // in float64
    const std::byte* weights;
};

// level = clip(round((sum of x_i M_i[c] + B[c]) 2^-shift), low, high); one M a channel and term.
struct WideAffineArgs {
    const View* inputs;
    int64_t count;
    View output;
    int64_t first_channel, channels;  // of the output
    PixelRange pixels;
    const int64_t* multiplier;  // [count][channels]
    const int64_t* offset;
    int shift;
    Rounding rounding;
    int64_t low, high;
};

// level = levels[number of k with direction[c] x >= limits[c][k]]; limits ascend.
struct WideStepsArgs {
    View input, output;
    PixelRange pixels;
    const int64_t* limits;  // [channels][count]
    int64_t count;
    const int8_t* direction;
    const int64_t* levels;  // [count + 1]
};

// stored = entries[x - first][c], or [x - first][0] where there is one row. An input of one channel
// serves every channel of the output (an embedding). Beyond the ends the end's entry is taken.
struct WideTableArgs {
    View input, output;
    PixelRange pixels;
    int64_t first, count, rows;
    const std::byte* entries;  // as the output stores them
};

// The maximum, or the sum, of the levels of each window; taps outside do not count.
struct WidePoolArgs {
    View input, output;
    Sliding window;
    PixelRange pixels;
    bool sum;
};

// Output pixel p, channel c = the input's bytes at source[p][c], or level 0 where that is negative.
// With `whole`, source[p] is where all channels of a pixel begin.
struct WideGatherArgs {
    View input, output;
    PixelRange pixels;
    const int32_t* source;
    bool whole;
};

struct WideKernels {
    void (*product)(const WideProductArgs&);
    void (*affine)(const WideAffineArgs&);
    void (*steps)(const WideStepsArgs&);
    void (*table)(const WideTableArgs&);
    void (*pool)(const WidePoolArgs&);
    void (*gather)(const WideGatherArgs&);
};

}  // namespace bitwright
