// Packs weights, folds padding and zero points into the constants, lists row offsets.
#include "pack.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <stdexcept>
#include <utility>

namespace bitwright {
namespace {

constexpr std::align_val_t kAlignment{64};
constexpr int64_t kGroupRows = 64;  // a group has at least this many rows, if there are as many

// The bit of tap (c, y, x) of output channel n, negated where the channel is flipped.
class WeightBits {
  public:
    WeightBits(const ProductSpec& spec, int64_t channels)
        : spec_(spec),
          kernel_h_(spec.window.kernel_h),
          kernel_w_(spec.window.kernel_w),
          taps_(channels * spec.window.taps()),
          row_bytes_(ceil_div(taps_, 8)) {}

    unsigned operator()(int64_t n, int64_t c, int64_t y, int64_t x) const {
        const int64_t i = (c * kernel_h_ + y) * kernel_w_ + x;
        return ((row(n)[i / 8] >> (i % 8)) & 1U) ^ (spec_.flipped(n) ? 1U : 0U);
    }
    // Sum of the weights of channel n, +1 or -1 each.
    int64_t sum(int64_t n) const {
        int64_t ones = 0;
        for (int64_t i = 0; i < row_bytes_; ++i) ones += std::popcount(unsigned{row(n)[i]});
        return spec_.flipped(n) ? taps_ - 2 * ones : 2 * ones - taps_;
    }

  private:
    const uint8_t* row(int64_t n) const { return spec_.weights + n * row_bytes_; }

    const ProductSpec& spec_;
    int64_t kernel_h_, kernel_w_, taps_, row_bytes_;
};

// The taps [y0, y1) x [x0, x1) of one output pixel that lie inside the image.
using Inside = std::array<int64_t, 4>;

Inside inside(const Window& window, const Shape& input, int64_t out_y, int64_t out_x) {
    const auto range = [](int64_t start, int64_t kernel, int64_t size) {
        const int64_t first = std::clamp(-start, int64_t{0}, kernel);
        return std::pair{first, std::clamp(size - start, first, kernel)};
    };
    const auto [y0, y1] =
        range(out_y * window.stride_h - window.padding_h, window.kernel_h, input.height);
    const auto [x0, x1] =
        range(out_x * window.stride_w - window.padding_w, window.kernel_w, input.width);
    return {y0, y1, x0, x1};
}

int64_t floor_half(int64_t a) {
    return a >> 1;
}

// The kernel sees a padded tap as C channels of -1, so it counts too much:
//   acc = (K - 2 pc) - sum over padded taps of (C - 2 popcount(w)) = base - 2 pc
//   acc >= T  <=>  pc <= floor((base - T) / 2)
void fold_bit_constants(Product& product, const ProductSpec& spec, const WeightBits& weight) {
    const Window& window = spec.window;
    const int64_t channels = product.input.shape.channels;
    const int64_t padded = product.tiles * kLanes, taps_k = channels * window.taps();

    std::map<Inside, int32_t> kinds;
    for (int64_t y = 0; y < product.output.height; ++y) {
        for (int64_t x = 0; x < product.output.width; ++x) {
            const auto next = static_cast<int32_t>(static_cast<int64_t>(kinds.size()) * padded);
            const auto found =
                kinds.try_emplace(inside(window, product.input.shape, y, x), next).first;
            product.pixel_constants.push_back(found->second);
        }
    }
    if (static_cast<int64_t>(kinds.size()) * padded > INT32_MAX) {
        throw std::invalid_argument("too many kinds of padded pixels");
    }
    const int32_t unused = product.sums ? 0 : -1;  // pc <= -1 never holds: bits stay 0
    product.constants.assign(kinds.size() * static_cast<size_t>(padded), unused);

    // prefix[y][x] = sum over taps above and left of (y, x) of (C - 2 popcount(w)).
    const int64_t width = window.kernel_w + 1;
    std::vector<int64_t> prefix(static_cast<size_t>((window.kernel_h + 1) * width));
    const auto at = [&](int64_t y, int64_t x) -> int64_t& {
        return prefix[static_cast<size_t>(y * width + x)];
    };
    for (int64_t n = 0; n < spec.channels; ++n) {
        for (int64_t y = 0; y < window.kernel_h; ++y) {
            for (int64_t x = 0; x < window.kernel_w; ++x) {
                int64_t ones = 0;
                for (int64_t c = 0; c < channels; ++c) ones += weight(n, c, y, x);
                at(y + 1, x + 1) = at(y, x + 1) + at(y + 1, x) - at(y, x) + channels - 2 * ones;
            }
        }
        const int64_t all = at(window.kernel_h, window.kernel_w);
        for (const auto& [taps, offset] : kinds) {
            const auto [y0, y1, x0, x1] = taps;
            const int64_t kept = at(y1, x1) - at(y0, x1) - at(y1, x0) + at(y0, x0);
            const int64_t base = taps_k - (all - kept);
            int64_t constant = base;
            if (!product.sums) {
                constant = std::clamp(floor_half(base - spec.threshold(n)), int64_t{-1}, taps_k);
            }
            product.constants[static_cast<size_t>(offset + n)] = static_cast<int32_t>(constant);
        }
    }
}

// Padding holds the byte of code 0, so one set of constants serves every pixel:
//   acc = acc_bytes - zero * sum(w);  acc >= T  <=>  acc_bytes >= T + zero * sum(w)
void fold_byte_constants(Product& product, const ProductSpec& spec, const WeightBits& weight,
                         int32_t zero) {
    const int64_t taps_k = product.input.shape.channels * spec.window.taps();
    const int64_t bound = 255 * taps_k + 1;
    const int32_t unused = product.sums ? 0 : INT32_MAX;
    product.constants.assign(static_cast<size_t>(product.tiles * kLanes), unused);
    product.pixel_constants.assign(static_cast<size_t>(product.output.pixels()), 0);
    for (int64_t n = 0; n < spec.channels; ++n) {
        const int64_t shift = zero * weight.sum(n);
        const int64_t constant =
            product.sums ? -shift : std::clamp(spec.threshold(n) + shift, -bound, bound);
        product.constants[static_cast<size_t>(n)] = static_cast<int32_t>(constant);
    }
}

void pack_bit_weights(Product& product, const ProductSpec& spec, const WeightBits& weight) {
    const Window& window = spec.window;
    const int64_t channels = product.input.shape.channels;
    const int64_t tap_words = ceil_div(channels, kWordBits);
    const BitWeights layout{product.runs * product.run_units};
    for (int64_t n = 0; n < spec.channels; ++n) {
        for (int64_t y = 0; y < window.kernel_h; ++y) {
            for (int64_t x = 0; x < window.kernel_w; ++x) {
                const int64_t tap = y * window.kernel_w + x;
                for (int64_t start = 0; start < channels; start += kWordBits) {
                    uint64_t word = 0;
                    const int64_t size = std::min(kWordBits, channels - start);
                    for (int64_t c = 0; c < size; ++c) {
                        word |= static_cast<uint64_t>(weight(n, start + c, y, x)) << c;
                    }
                    const int64_t index = layout.index(n, tap * tap_words + start / kWordBits);
                    std::memcpy(product.weights.data() + index * kWordBytes, &word, sizeof word);
                }
            }
        }
    }
}

void pack_byte_weights(Product& product, const ProductSpec& spec, const WeightBits& weight) {
    const Window& window = spec.window;
    const int64_t channels = product.input.shape.channels;
    const ByteWeights layout{product.runs * product.run_units};
    const int64_t rows_per_run = window.kernel_h / product.runs;
    for (int64_t n = 0; n < spec.channels; ++n) {
        for (int64_t y = 0; y < window.kernel_h; ++y) {
            const int64_t first_group = y / rows_per_run * product.run_units;
            for (int64_t x = 0; x < window.kernel_w; ++x) {
                for (int64_t c = 0; c < channels; ++c) {
                    const int64_t i =
                        (y % rows_per_run * window.kernel_w + x) * channels + c;  // in the run
                    const int64_t index = layout.index(n, first_group + i / kDot, i % kDot);
                    product.weights.data()[index] =
                        static_cast<std::byte>(weight(n, c, y, x) != 0 ? 1 : -1);
                }
            }
        }
    }
}

}  // namespace

Bytes::Bytes(int64_t size, uint8_t fill)
    : memory_(
          static_cast<std::byte*>(::operator new(static_cast<size_t>(size + kSlack), kAlignment))),
      size_(size) {
    std::memset(memory_.get(), fill, static_cast<size_t>(size + kSlack));
}

void Bytes::Free::operator()(std::byte* memory) const {
    ::operator delete(memory, kAlignment);
}

Shape Window::output(const Shape& input, int64_t channels) const {
    return {channels, (input.height + 2 * padding_h - kernel_h) / stride_h + 1,
            (input.width + 2 * padding_w - kernel_w) / stride_w + 1};
}

Product pack_product(const ProductSpec& spec, const Layout& input, int32_t zero) {
    const Window& window = spec.window;
    const bool bits = input.element == Element::bits;
    Product product{};
    product.window = window;
    product.input = input;
    product.output = window.output(input.shape, spec.channels);
    product.sums = spec.thresholds == nullptr;

    // A row of taps is one run of memory; rows that follow one another are one run together.
    const int64_t row_taps = window.kernel_w * input.pixel_bytes();
    const bool merge = row_taps == input.row_bytes();
    const int64_t run_bytes = merge ? window.kernel_h * row_taps : row_taps;
    product.runs = merge ? 1 : window.kernel_h;
    product.run_units = ceil_div(run_bytes, bits ? kWordBytes : kDot);
    product.run_stride = input.row_bytes();

    product.tiles = ceil_div(spec.channels, kLanes);
    const int64_t unit_bytes = kLanes * (bits ? kWordBytes : kDot);
    product.weights = Bytes(product.tiles * product.runs * product.run_units * unit_bytes);
    const WeightBits weight(spec, input.shape.channels);
    if (bits) {
        pack_bit_weights(product, spec, weight);
        fold_bit_constants(product, spec, weight);
    } else {
        pack_byte_weights(product, spec, weight);
        fold_byte_constants(product, spec, weight, zero);
    }
    return product;
}

void place(Product& product, const Layout& output) {
    const Layout& input = product.input;
    const Window& window = product.window;
    const int64_t pixels = product.output.pixels();
    // Offsets within a group are 32-bit.
    const int64_t most = INT32_MAX / std::max(input.image_bytes(), output.image_bytes());
    product.group_images = std::clamp(ceil_div(kGroupRows, pixels), int64_t{1}, most);
    product.output_image_bytes = output.image_bytes();
    for (int64_t image = 0; image < product.group_images; ++image) {
        for (int64_t pixel = 0; pixel < pixels; ++pixel) {
            const int64_t y = pixel / product.output.width, x = pixel % product.output.width;
            const int64_t from =
                image * input.image_bytes() + input.offset(y * window.stride_h - window.padding_h,
                                                           x * window.stride_w - window.padding_w);
            const int64_t to = image * output.image_bytes() + output.offset(y, x);
            product.input_offset.push_back(static_cast<int32_t>(from));
            product.output_offset.push_back(static_cast<int32_t>(to));
            product.constant_offset.push_back(product.pixel_constants[static_cast<size_t>(pixel)]);
        }
    }
}

std::vector<uint64_t> pack_flags(const uint8_t* flags, int64_t channels) {
    std::vector<uint64_t> words(static_cast<size_t>(ceil_div(channels, kWordBits)));
    for (int64_t c = 0; c < channels; ++c) {
        words[static_cast<size_t>(c / kWordBits)] |= uint64_t{flags[c] != 0} << (c % kWordBits);
    }
    return words;
}

}  // namespace bitwright
