// Where numbers enter a graph and leave it: samples to codes, levels to the caller's arrays.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine-wide-portable.h"
#include "graph.h"

namespace bitwright {
namespace {

void store_word(std::byte* to, uint64_t word) {
    std::memcpy(to, &word, sizeof word);
}

GraphFault first_nan(const float* samples, int64_t size, int64_t image) {
    const float* found = std::find_if(samples, samples + size, [](float x) { return x != x; });
    return {GraphFault::Kind::nan, image, found - samples};
}

// Codes of the input format to bytes; the index of the first out of range, or size. Modulo 256 a
// code and its byte differ by `shift`, one to one, so the range is checked on bytes.
int64_t copy_codes(const uint8_t* codes, int64_t size, uint8_t shift, uint8_t low, uint8_t high,
                   uint8_t* out) {
    const auto span = static_cast<uint8_t>(high - low);
    const auto beyond = [&](uint8_t code) {
        return static_cast<uint8_t>(static_cast<uint8_t>(code + shift) - low);
    };
    uint8_t largest = 0;
    for (int64_t i = 0; i < size; ++i) {  // no early exit: the compiler makes vectors of it
        out[i] = static_cast<uint8_t>(codes[i] + shift);
        largest = std::max(largest, beyond(codes[i]));
    }
    if (largest <= span) return size;
    return std::find_if(codes, codes + size, [&](uint8_t c) { return beyond(c) > span; }) - codes;
}

// Codes -1 and +1 to bits, 8 to a byte; the index of the first other code, or size.
int64_t copy_signs(const int8_t* codes, int64_t size, uint8_t* out) {
    for (int64_t start = 0; start < size; start += 8) {
        unsigned bits = 0;
        for (int64_t i = start; i < std::min(size, start + 8); ++i) {
            if (codes[i] != 1 && codes[i] != -1) return i;
            bits |= static_cast<unsigned>(codes[i] == 1) << (i - start);
        }
        out[start / 8] = static_cast<uint8_t>(bits);
    }
    return size;
}

// [C][H][W] bytes to pixels, channels last.
void spread_bytes(const uint8_t* planes, const Layout& layout, std::byte* image) {
    const auto [channels, height, width] = layout.shape;  // stores of bytes could change the layout
    for (int64_t y = 0; y < height; ++y) {
        std::byte* row = image + layout.offset(y, 0);
        for (int64_t c = 0; c < channels; ++c) {
            const uint8_t* plane = planes + (c * height + y) * width;
            for (int64_t x = 0; x < width; ++x) {
                row[x * channels + c] = static_cast<std::byte>(plane[x]);
            }
        }
    }
}

// [C][H][W] bits to pixels, channels last.
void spread_bits(const uint8_t* planes, const Layout& layout, std::byte* image) {
    const Shape& shape = layout.shape;
    for (int64_t y = 0; y < shape.height; ++y) {
        for (int64_t x = 0; x < shape.width; ++x) {
            std::byte* pixel = image + layout.offset(y, x);
            for (int64_t start = 0; start < shape.channels; start += kWordBits) {
                uint64_t word = 0;
                for (int64_t c = start; c < std::min(shape.channels, start + kWordBits); ++c) {
                    const int64_t i = (c * shape.height + y) * shape.width + x;
                    word |= uint64_t{(planes[i / 8] >> (i % 8)) & 1U} << (c - start);
                }
                store_word(pixel + start / kWordBits * kWordBytes, word);
            }
        }
    }
}

}  // namespace

// What the quantising kernels do not make: numbers of any width, one by one.
bool Graph::wide_input() const {
    const Element element = tensors_.front().layout.element;
    return exact_ || (element != Element::bits && element != Element::bytes);
}

GraphFault Graph::load_wide(const GraphBatch& batch, int64_t image, std::byte* place) const {
    const Tensor& input = tensors_.front();
    const Shape& shape = input.layout.shape;
    const View to{place, input.layout, input.factor, input.zero};
    const auto low = static_cast<double>(low_), high = static_cast<double>(high_);
    const auto single = static_cast<float>(scale_);
    const auto levels = [&](const auto* samples, auto level_of) -> GraphFault {
        for (int64_t y = 0; y < shape.height; ++y) {
            for (int64_t x = 0; x < shape.width; ++x) {
                std::byte* pixel = to.pixel(0, y, x);
                for (int64_t c = 0; c < shape.channels; ++c) {
                    const int64_t i = (c * shape.height + y) * shape.width + x;
                    int64_t level = 0;
                    const auto fault = level_of(samples[image * shape.elements() + i], level);
                    if (fault != GraphFault::Kind::none) return {fault, image, i};
                    store_levels(to, pixel, c, 1, &level);
                }
            }
        }
        return {};
    };
    const auto quantise = [&](float x, int64_t& level) {
        if (x != x) return GraphFault::Kind::nan;
        const double quotient = exact_ ? double{x} / scale_ : double{x / single};
        level = static_cast<int64_t>(std::nearbyint(std::clamp(quotient, low, high)));
        return GraphFault::Kind::none;
    };
    const auto take = [&](auto code, int64_t& level) {
        level = int64_t{code} - zero_point_;
        return level < low_ || level > high_ ? GraphFault::Kind::code : GraphFault::Kind::none;
    };
    switch (batch.type) {
        case GraphBatch::Type::float32:
            return levels(static_cast<const float*>(batch.samples), quantise);
        case GraphBatch::Type::int8:
            return levels(static_cast<const int8_t*>(batch.samples), take);
        case GraphBatch::Type::uint8:
            return levels(static_cast<const uint8_t*>(batch.samples), take);
        case GraphBatch::Type::int16:
            return levels(static_cast<const int16_t*>(batch.samples), take);
        case GraphBatch::Type::uint16:
            return levels(static_cast<const uint16_t*>(batch.samples), take);
        case GraphBatch::Type::int32:
            return levels(static_cast<const int32_t*>(batch.samples), take);
        case GraphBatch::Type::uint32:
            return levels(static_cast<const uint32_t*>(batch.samples), take);
    }
    return {};
}

// One image of the batch into place `slot` of the input tensor.
GraphFault Graph::load(const GraphBatch& batch, int64_t image, Workspace& workspace,
                       int64_t slot) const {
    const Tensor& input = tensors_.front();
    const Layout& layout = input.layout;
    const int64_t size = layout.shape.elements();
    std::byte* place = memory(workspace, 0) + slot * layout.image_bytes();
    if (wide_input()) return load_wide(batch, image, place);
    // Flat order is already pixel order if the pixels are dense and one of C and H * W is 1.
    const bool bits = layout.element == Element::bits;
    const bool direct =
        layout.dense() && (layout.shape.pixels() == 1 || (!bits && layout.shape.channels == 1));
    auto* flat = reinterpret_cast<uint8_t*>(direct ? place : workspace.scratch.data());

    if (batch.type == GraphBatch::Type::float32) {
        const float* samples = static_cast<const float*>(batch.samples) + image * size;
        const bool nan = bits
                             ? convert_.sign.run({samples, size, flat})
                             : convert_.quantize.run({samples, size, static_cast<float>(scale_),
                                                      static_cast<float>(low_),
                                                      static_cast<float>(high_), input.zero, flat});
        if (nan) return first_nan(samples, size, image);
    } else {
        const auto* signed_codes = static_cast<const int8_t*>(batch.samples) + image * size;
        const auto* codes = static_cast<const uint8_t*>(batch.samples) + image * size;
        const auto byte = [](int64_t value) { return static_cast<uint8_t>(value); };
        const int64_t valid =
            bits ? copy_signs(signed_codes, size, flat)
                 : copy_codes(codes, size, byte(input.zero - zero_point_), byte(low_ + input.zero),
                              byte(high_ + input.zero), flat);
        if (valid < size) return {GraphFault::Kind::code, image, valid};
    }
    if (!direct && bits) spread_bits(flat, layout, place);
    if (!direct && !bits) spread_bytes(flat, layout, place);
    return {};
}

// The levels of one pixel.
void Graph::levels(const Tensor& t, const std::byte* image, int64_t y, int64_t x,
                   int64_t* out) const {
    const View from{nullptr, t.layout, t.factor, t.zero};
    load_levels(from, image + t.layout.offset(y, x), 0, t.layout.shape.channels, out);
}

// |level M + B| < 2^53, so float64 sums are exact.
void Graph::write_output(const GraphBatch& batch, const Workspace& workspace, int64_t first,
                         int64_t images) const {
    const Tensor& last = tensor(output_);
    const Shape& shape = last.layout.shape;
    const int64_t pixels = shape.pixels();
    std::vector<int64_t>& row = workspace.row;
    for (int64_t image = 0; image < images; ++image) {
        const std::byte* from = memory(workspace, output_) + image * last.layout.image_bytes();
        const int64_t start = (first + image) * shape.elements();
        for (int64_t p = 0; p < pixels; ++p) {
            levels(last, from, p / shape.width, p % shape.width, row.data());
            if (writes_levels()) {
                int64_t* to = static_cast<int64_t*>(batch.output) + start + p;
                for (size_t c = 0; c < row.size(); ++c)
                    to[static_cast<int64_t>(c) * pixels] = row[c];
                continue;
            }
            float* to = static_cast<float*>(batch.output) + start + p;
            for (size_t c = 0; c < row.size(); ++c) {
                const double sum =
                    static_cast<double>(row[c]) * output_multipliers_[c] + output_offsets_[c];
                to[static_cast<int64_t>(c) * pixels] = static_cast<float>(sum * factor_);
            }
        }
    }
}

// Copies what stage `stage` completed (-1: the input) to the caller's arrays: [image][C][H][W].
void Graph::capture(const GraphBatch& batch, const Workspace& workspace, int stage, int64_t first,
                    int64_t images) const {
    for (const Capture& wanted : batch.captures) {
        const Tensor& t = tensor(wanted.tensor);
        const bool now = stage < 0
                             ? wanted.tensor == 0
                             : std::visit([](const auto& s) { return s.output; },
                                          stages_[static_cast<size_t>(stage)]) == wanted.tensor;
        if (!now) continue;
        const Shape& shape = t.layout.shape;
        std::vector<int64_t> row(static_cast<size_t>(shape.channels));
        for (int64_t image = 0; image < images; ++image) {
            const std::byte* from =
                memory(workspace, wanted.tensor) + image * t.layout.image_bytes();
            int64_t* to = wanted.levels + (first + image) * shape.elements();
            for (int64_t p = 0; p < shape.pixels(); ++p) {
                levels(t, from, p / shape.width, p % shape.width, row.data());
                for (size_t c = 0; c < row.size(); ++c) {
                    to[static_cast<int64_t>(c) * shape.pixels() + p] = row[c];
                }
            }
        }
    }
}

}  // namespace bitwright
