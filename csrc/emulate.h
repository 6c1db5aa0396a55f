// Emulation quantisers: float32 in, float32 on a format's grid out. Plain data: every instruction
// set reads the same arguments and writes the same bits.
//
//   q = x / s               one IEEE division
//   number = grid(q)        one rounding to the grid of the format
//   out = number * s        one IEEE multiplication, where `scaled`; else the number itself
//
// On the way, of the same pass: max |x| over the finite x, how many q lie outside the range of the
// grid, and how many 2q do. NaN does not count, infinities do.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace bitwright {

enum class Rounding : int32_t { nearest_even, nearest_away, floor, ceil, toward_zero, stochastic };

enum class GridKind : int32_t { uniform, floating, log2, logsqrt2, sign };

// The numbers that a format can hold, at scale 1. Python packs it: 14 words of 4 bytes, flags 0
// or 1.
struct Grid {
    GridKind kind = GridKind::uniform;
    // uniform: the integers low..high, |.| <= 2^24; beyond them saturate, or wrap modulo
    // high - low + 1, a power of two.
    float low = -128.0F, high = 127.0F;
    int32_t wrap = 0;
    // floating: significands of 1 + mantissa_bits bits, 2^emin the smallest normal, -127 <= emin,
    // emin - mantissa_bits >= -149.
    int32_t mantissa_bits = 0, emin = 0;
    float max = 1.0F;
    float beyond = 1.0F;       // magnitude of what rounds beyond max: max, infinity or NaN
    float at_infinity = 1.0F;  // magnitude of an infinite q
    float at_nan = 0.0F;       // of a NaN q: 0 or NaN
    int32_t negative_zero = 0;
    int32_t subnormals = 1;   // numbers between 0 and 2^emin
    int32_t is_unsigned = 0;  // negative q become +0 (floating and logarithmic grids)
    // log2, logsqrt2: 0 and +-base^0 .. +-base^(fields - 1).
    int32_t fields = 1;
};
static_assert(sizeof(Grid) == 14 * 4);

// Philox4x32-7: 8 draws of 16 bits per block, one draw per element in row-major order.
struct Random {
    uint32_t seed = 0, tensor = 0, step = 0, tail = 0;
    int32_t bits = 16;  // R = draw >> (16 - bits)
};

struct EmulateArgs {
    const float* input;
    float* output;               // may be the input
    int64_t size;                // elements
    int64_t row;                 // consecutive elements of one channel ...
    int64_t channels;            // ... and how many channels take turns
    const float* scales;         // [channels]
    const int32_t* zero_points;  // [channels] or null; uniform grids: limits minus zero point
    Grid grid;
    Rounding rounding;
    Random random;
    bool scaled;
    bool stream;  // stores that bypass the caches
};

enum class ScaleRule : int32_t { floor, ceil, rceil, even, divide };

// Blocks of `block` indices along `length` of an (outer, length, inner) array, the last one may be
// shorter. amax is max |x| over the finite x of a block, divided by `global`.
//   floor   s_b = 2^(floor(log2 amax) - emax), emax = floor(log2 elem_max)
//   ceil    s_b = 2^(ceil(log2 amax) - emax)
//   rceil   s_b = 2^ceil(log2(amax / elem_max))
//   even    as floor, of amax plus half a unit in its last of elem_bits mantissa places
//   divide  s_b = amax / elem_max, rounded to the nearest of the floating grid `scale_grid`
// The exponents of powers of two are clamped to [smin, smax]; amax = 0 gives smin.
// s = (s_b * unit) * global; where s = 0 the output is 0, and nothing counts as beyond the range.
struct BlockArgs {
    const float* input;
    float* output;
    int64_t outer, length, inner, block;
    float global, unit;
    ScaleRule rule;
    float elem_max;
    int32_t elem_bits;
    int32_t smin, smax;
    Grid scale_grid;
    float* block_scales;  // [outer][ceil(length / block)][inner], or null
    Grid grid;            // uniform, saturating, or floating
    Rounding rounding;
    Random random;
    bool scaled;
    bool stream;
};

// out = gradient where low <= x / s <= high, else 0 (also where x / s is a NaN).
struct GateArgs {
    const float* input;
    const float* gradient;
    float* output;  // may be the gradient
    int64_t size, row, channels;
    const float* scales;
    const int32_t* zero_points;
    float low, high;
};

struct Statistics {
    float* max_abs;  // [channels], 0 at the start
    int64_t over = 0, over_half = 0;
};

// Elements [begin, end) of the row-major order.
using EmulateKernel = void (*)(const EmulateArgs&, int64_t begin, int64_t end, Statistics&);
// Units [begin, end): blocks where inner = 1, else blocks times stretches of kStretch columns.
using BlockKernel = void (*)(const BlockArgs&, int64_t begin, int64_t end, Statistics&);
using GateKernel = void (*)(const GateArgs&, int64_t begin, int64_t end);
// The sum of |x| over `size` elements, in double, in an order that no instruction set changes.
using AbsSumKernel = double (*)(const float* input, int64_t size);

inline constexpr int64_t kStretch = 256;  // columns that strided blocks take at once

struct EmulateTable {
    const char* isa;
    EmulateKernel rows;
    BlockKernel blocks;
    GateKernel gate;
    AbsSumKernel abs_sum;
};

extern const EmulateTable kEmulateScalar, kEmulateAvx2, kEmulateAvx512, kEmulateNeon;

// What a call is given: (outer, channels, inner) and one scale per channel.
struct Layout3 {
    int64_t outer, channels, inner;
};

struct Counts {
    int64_t over = 0, over_half = 0;
};

// Whole tensors, on up to `threads` threads: the same bits for any number of them.
// `max_abs` [channels] is written, not accumulated.
Counts emulate(const EmulateTable& table, EmulateArgs args, const Layout3& layout, float* max_abs,
               int64_t threads);
Counts emulate_blocks(const EmulateTable& table, BlockArgs args, float* max_abs, int64_t threads);
void gate(const EmulateTable& table, GateArgs args, const Layout3& layout, int64_t threads);
void abs_sums(const EmulateTable& table, const float* input, int64_t rows, int64_t columns,
              double* sums, int64_t threads);

}  // namespace bitwright
