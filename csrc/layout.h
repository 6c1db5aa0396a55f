// The memory layouts, declared once: what the packers write and the kernels read.
//
// Activations are images, channels last, inside a margin that stands for the padding of the
// stage that reads them:
//   bits   one pixel = ceil(C / 64) words; channel c = bit c % 64 of word c / 64; 1 = +1, 0 = -1;
//          unused bits and the margin are 0
//   bytes  one pixel = C bytes, code + zero; the margin holds `zero`
//   sums   one pixel = int32 accumulators, channels rounded up to 16; no margin
//   shorts, longs   one pixel = C levels of int16, int64; no margin
// Weights are tiles of 16 output channels, one channel per SIMD lane:
//   bits   [tile][word of the taps][even channels, odd channels][8] uint64
//   bytes  [tile][group of 4 taps][16 channels][4] int8, absent taps 0
//   signs  [tile][group of 4 taps][8] uint8: a bit is set where the weight is +1; of the 64 bytes
//          that the group would take as `bytes`, number i is bit i / 8 of byte i % 8
// Even and odd channels apart, because 64-bit counts of two registers then merge into 32-bit
// counts in channel order with one instruction.
#pragma once

#include <bit>
#include <cstdint>

namespace bitwright {

static_assert(std::endian::native == std::endian::little, "packed words are little-endian");

inline constexpr int64_t kWordBits = 64;  // channels in one word of bits
inline constexpr int64_t kWordBytes = 8;  // bytes in one word of bits
inline constexpr int64_t kLanes = 16;     // output channels in one tile of weights
inline constexpr int64_t kDot = 4;        // taps that one 32-bit lane multiplies at once
inline constexpr int64_t kSlack = 64;     // readable bytes after every activation buffer

constexpr int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

constexpr int64_t round_up(int64_t a, int64_t b) {
    return ceil_div(a, b) * b;
}

struct Shape {
    int64_t channels = 0, height = 0, width = 0;
    constexpr int64_t pixels() const { return height * width; }
    constexpr int64_t elements() const { return channels * pixels(); }
};

enum class Element { bits, bytes, sums, shorts, longs };

// One image of activations; of bits, as many planes of them as its values have digits.
struct Layout {
    Element element = Element::bits;
    Shape shape;
    int64_t margin_h = 0, margin_w = 0;
    int64_t planes = 1;

    constexpr int64_t pixel_bytes() const {
        switch (element) {
            case Element::bits:
                return kWordBytes * ceil_div(shape.channels, kWordBits);
            case Element::bytes:
                return shape.channels;
            case Element::sums:
                return 4 * round_up(shape.channels, kLanes);
            case Element::shorts:
            case Element::longs:
                return element_bytes() * shape.channels;
        }
        return 0;
    }
    // Of one level; bits have none.
    constexpr int64_t element_bytes() const {
        switch (element) {
            case Element::bits:
                return 0;
            case Element::bytes:
                return 1;
            case Element::shorts:
                return 2;
            case Element::sums:
                return 4;
            case Element::longs:
                return 8;
        }
        return 0;
    }
    constexpr int64_t row_bytes() const { return (shape.width + 2 * margin_w) * pixel_bytes(); }
    constexpr int64_t plane_bytes() const { return (shape.height + 2 * margin_h) * row_bytes(); }
    constexpr int64_t image_bytes() const { return planes * plane_bytes(); }
    // Bytes from the start of the image to pixel (y, x); the margin has negative coordinates.
    constexpr int64_t offset(int64_t y, int64_t x) const {
        return (y + margin_h) * row_bytes() + (x + margin_w) * pixel_bytes();
    }
    // Pixels follow one another without a gap.
    constexpr bool dense() const { return margin_h == 0 && margin_w == 0; }
};

// Place of channel n among the 16 words of its tile.
constexpr int64_t bit_lane(int64_t n) {
    return n % 2 * (kLanes / 2) + n % kLanes / 2;
}

// Index of a word of channel n, counted in words.
struct BitWeights {
    int64_t words = 0;  // per channel
    constexpr int64_t index(int64_t n, int64_t word) const {
        return (n / kLanes * words + word) * kLanes + bit_lane(n);
    }
};

// Index of tap 4 * group + i of channel n, counted in bytes.
struct ByteWeights {
    int64_t groups = 0;  // of 4 taps, per channel
    constexpr int64_t index(int64_t n, int64_t group, int64_t i) const {
        return ((n / kLanes * groups + group) * kLanes + n % kLanes) * kDot + i;
    }
};

// Place of the sign of the weight that would be byte `index`. With the group's 8 bytes repeated in
// a register, byte i holds its bit, and all bytes of one channel hold theirs at the same place.
constexpr int64_t sign_byte(int64_t index) {
    return index / 64 * 8 + index % 8;
}

constexpr int64_t sign_bit(int64_t index) {
    return index % 64 / 8;
}

}  // namespace bitwright
