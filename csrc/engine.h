// What the kernels of the integer engine are given. Plain data: every instruction set reads the
// same bytes (layout.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "emulate.h"  // Rounding; stochastic does not occur here
#include "engine-wide.h"

namespace bitwright {

// What becomes of an int32 accumulator. Arrays are per channel, padded to whole tiles of 16.
//   sums    the accumulator itself
//   bits    (acc >= thresholds[n]) xor flip
//   levels  byte = base[n] + step[n] * (number of k with acc >= thresholds[k * padded + n])
//   codes   byte = clip(round((acc M[n] + B[n]) 2^-shift), low, high) + zero
// |acc M + B| < 2^53, so that codes are exact in float64 too: the scaled arrays hold M 2^-shift and
// B 2^-shift, and neither product nor sum needs more than 53 bits, with or without contraction.
// Where single_multiplier is given, float32 serves too: z = rint(fma(acc, single_multiplier[n],
// single_offset[n])) without its lowest bits, the fraction, is the code before it is clipped,
// unless the fraction is below single_limit.
struct Epilogue {
    enum class Kind { sums, bits, levels, codes };
    Kind kind = Kind::sums;
    int64_t channels = 0;  // stored; the last tile may be partial
    const int32_t* thresholds = nullptr;
    int64_t count = 0, padded = 0;
    const uint16_t* flips = nullptr;  // [tile], one bit per channel
    const int32_t *base = nullptr, *step = nullptr;
    const int64_t *multiplier = nullptr, *offset = nullptr;
    const double *scaled_multiplier = nullptr, *scaled_offset = nullptr;
    int shift = 0;
    Rounding rounding = Rounding::nearest_even;
    int32_t low = 0, high = 0, zero = 0;
    const float *single_multiplier = nullptr, *single_offset = nullptr;
    // The bits of the fraction; low, high (with any fraction) and zero above it; the byte above it,
    // four times over.
    int32_t single_fraction = 0, single_low = 0, single_high = 0, single_zero = 0, single_byte = 0;
    int32_t single_limit = 0;
};

// Rows (output pixels) of a group of images have their places listed once; the next group lies
// input_group / output_group bytes further.
struct Rows {
    const std::byte* input;
    int64_t input_group;
    const int32_t* input_offset;  // [group_rows] bytes to the first tap
    std::byte* output;
    int64_t output_group;
    const int32_t* output_offset;  // [group_rows] bytes to channel 0
    int64_t group_rows;
    int64_t rows;  // of all groups; the last group may be shorter
};

// acc[row, n] = constants[n] + sum over runs of taps of byte * weight. A run is run_units * 4 bytes
// at run_offset from the row's first tap; its weights lie weight_run bytes behind those of the run
// before it, those of the next tile weight_tile bytes further. Depthwise: run_units groups of 4
// taps, each tap at its own run_offset (absent taps weigh 0 and repeat an offset), one weight per
// channel.
struct DotArgs {
    Rows rows;
    int64_t runs, run_units;
    const int32_t* run_offset;
    const std::byte* weights;  // bytes or signs (layout.h)
    int64_t weight_run, weight_tile;
    int64_t first_tile, tiles;  // tiles [first_tile, tiles) of 16 channels
    const int32_t* constants;   // [tiles * 16]
    Epilogue epilogue;
};

// acc[row, n] = constants[n] + sum over pairs of coefficient * popcount(op(a, w)), op being xor or
// and; a unit is a word of 64 bits.
struct PlanePair {
    int64_t input, weights;  // bytes to the plane
    int32_t coefficient;
};
struct PlaneArgs {
    Rows rows;
    int64_t runs, run_units;
    const int32_t* run_offset;
    const std::byte* weights;  // BitWeights
    int64_t weight_run, weight_tile;
    int64_t first_tile, tiles;
    int64_t pairs;
    const PlanePair* pair;
    bool exclusive;            // op is xor
    const int32_t* constants;  // [tiles * 16]
    Epilogue epilogue;
};

// sum of level * M over the terms, then the epilogue; one term alone enters any epilogue as an
// accumulator, several only `codes` (M of a term counts, the epilogue's own M does not).
struct Term {
    const std::byte* data;
    int64_t stride;  // bytes from pixel to pixel
    bool sums;       // int32 accumulators; else bytes, level = byte - zero
    int32_t zero;
    const int64_t* multiplier;
    const double* scaled_multiplier;
    const float* single_multiplier;
};
struct CombineArgs {
    int64_t pixels;
    const Term* terms;
    int64_t count;
    std::byte* output;
    int64_t output_stride;
    Epilogue epilogue;
};

// One output pixel of a pool: `rows` x `columns` taps inside the image.
struct PoolArgs {
    const std::byte* input;
    int64_t rows, columns, row_bytes, pixel_bytes;
    int64_t channels;
    int32_t zero;  // of the bytes that are summed
    std::byte* output;
};

// Bytes to planes of bits: bit c of plane p = bit (first + p) of byte c; whole words, unused bits
// 0.
struct SplitArgs {
    const std::byte* input;
    int64_t channels;
    int first, planes;
    std::byte* output;
    int64_t plane_bytes;  // from one plane to the next
};

// One instruction set: a kernel for every operation.
struct EngineTable {
    const char* isa;
    void (*dot)(const DotArgs&);
    void (*dot_signs)(const DotArgs&);  // weights are signs; null: `dot` serves them as bytes
    void (*depthwise)(const DotArgs&);
    void (*planes)(const PlaneArgs&);
    void (*combine)(const CombineArgs&);
    void (*max_bytes)(const PoolArgs&);
    void (*max_sums)(const PoolArgs&);
    void (*add_bytes)(const PoolArgs&);
    void (*split)(const SplitArgs&);
    const char *dot_name, *depthwise_name, *planes_name;
    WideKernels wide;
};

extern const EngineTable kEngineScalar;
extern const EngineTable kEngineAvx2;
extern const EngineTable kEngineAvx512;
extern const EngineTable kEngineNeon;
extern const EngineTable kEngineNeonDot;

}  // namespace bitwright
