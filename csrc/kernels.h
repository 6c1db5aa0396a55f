// What a kernel is given. Plain data: every instruction set reads the same bytes.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bitwright {

// The products of one plane of bits with weights of +-1 (engine.h has the others), for all rows
// (output pixels) and output channels n: pc = sum of popcount(activation xor weight). A row reads
// `runs` stretches of memory, each `run_units` words long; the weights of a run lie weight_run
// bytes behind those of the run before it, those of the next tile weight_tile bytes further. The
// rows of a group of images have their places listed once; the next group lies input_group /
// output_group bytes further.
//   bgemm_bits  writes bit n of a row: pc <= constant
//   bgemm_sums  writes int32 sums: constant - 2 * pc
struct ProductArgs {
    const std::byte* input;
    int64_t input_group;
    const int32_t* input_offset;  // [group_rows] bytes to the first tap
    int64_t runs;
    int64_t run_units;
    int64_t run_stride;  // bytes from one run to the next
    const std::byte* weights;
    int64_t weight_run, weight_tile;
    int64_t tiles;             // of 16 channels
    const int32_t* constants;  // [tiles * 16]
    std::byte* output;
    int64_t output_group;
    const int32_t* output_offset;  // [group_rows] bytes to channel 0
    int64_t group_rows;
    int64_t rows;  // of all groups; the last group may be shorter
};

// code = clip(rint_half_even(x / scale), low, high); out = code + zero. True if a NaN was seen.
struct QuantizeArgs {
    const float* input;
    int64_t size;
    float scale, low, high;
    int32_t zero;
    uint8_t* output;
};

// bit = x >= 0, first element in the lowest bit, unused bits 0. True if a NaN was seen.
struct SignArgs {
    const float* input;
    int64_t size;
    uint8_t* output;
};

using ProductKernel = void (*)(const ProductArgs&);
using QuantizeKernel = bool (*)(const QuantizeArgs&);
using SignKernel = bool (*)(const SignArgs&);

void bgemm_bits_scalar(const ProductArgs&);
void bgemm_sums_scalar(const ProductArgs&);
bool quantize_scalar(const QuantizeArgs&);
bool sign_scalar(const SignArgs&);

void bgemm_bits_8x16_avx512vpopcntdq(const ProductArgs&);
void bgemm_sums_8x16_avx512vpopcntdq(const ProductArgs&);
bool quantize_avx512bw(const QuantizeArgs&);
bool sign_avx512bw(const SignArgs&);

void bgemm_bits_neon(const ProductArgs&);
void bgemm_sums_neon(const ProductArgs&);
bool quantize_neon(const QuantizeArgs&);
bool sign_neon(const SignArgs&);

}  // namespace bitwright
