// From what Python states (canonical bits, thresholds) to what the kernels read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "layout.h"

namespace bitwright {

// Zeroed memory on a cache line, with kSlack readable bytes after its end.
class Bytes {
  public:
    Bytes() = default;
    explicit Bytes(int64_t size, uint8_t fill = 0);
    std::byte* data() { return memory_.get(); }
    const std::byte* data() const { return memory_.get(); }
    int64_t size() const { return size_; }

  private:
    struct Free {
        void operator()(std::byte* memory) const;
    };
    std::unique_ptr<std::byte, Free> memory_;
    int64_t size_ = 0;
};

// The windows that a product or pool slides over its input.
struct Window {
    int64_t kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w;
    constexpr int64_t taps() const { return kernel_h * kernel_w; }
    // Height and width after sliding over `input` (in pixels).
    Shape output(const Shape& input, int64_t channels) const;
};

// A product, packed. `thresholds` decides what it writes: bits if given, sums if not.
struct Product {
    Window window;
    Layout input;
    Shape output;
    bool sums;
    // As in ProductArgs.
    Bytes weights;
    int64_t tiles, runs, run_units, run_stride;
    std::vector<int32_t> constants;
    std::vector<int32_t> pixel_constants;  // [output pixel] elements to its constants
    // Filled by place().
    int64_t group_images = 0, output_image_bytes = 0;
    std::vector<int32_t> input_offset, constant_offset, output_offset;
};

// What Python states of a product. `weights` is [channels][ceil(K / 8)] bytes, bit i of a row at
// byte i / 8, bit i % 8, i = (c * kernel_h + y) * kernel_w + x; 1 = +1, 0 = -1.
struct ProductSpec {
    const uint8_t* weights;
    int64_t channels;
    Window window;
    const int32_t* thresholds;  // [channels] or null: sums
    const uint8_t* flips;       // [channels], 0 or 1; null with thresholds null

    bool flipped(int64_t n) const { return flips != nullptr && flips[n] != 0; }
    // A flipped channel is packed with negated weights:
    //   (acc >= T) xor 1  <=>  acc < T  <=>  -acc >= 1 - T
    int64_t threshold(int64_t n) const {
        return flipped(n) ? int64_t{1} - thresholds[n] : int64_t{thresholds[n]};
    }
};

// `input` already has the window's padding as its margin. `zero` is the byte of code 0.
Product pack_product(const ProductSpec& spec, const Layout& input, int32_t zero);

// Lists where each row of a group reads and writes, once the output's margin is known.
void place(Product& product, const Layout& output);

// One bit per channel, padded with zeros to whole words.
std::vector<uint64_t> pack_flags(const uint8_t* flags, int64_t channels);

}  // namespace bitwright
