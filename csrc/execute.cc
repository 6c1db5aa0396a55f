// Running a program: slices of the batch on threads, chunks of a slice through all stages.
#include <algorithm>
#include <cstring>
#include <exception>
#include <stdexcept>

#include "program.h"
#include "threads.h"

namespace bitwright {
namespace {

uint64_t load_word(const std::byte* from) {
    uint64_t word;
    std::memcpy(&word, from, sizeof word);
    return word;
}

void store_word(std::byte* to, uint64_t word) {
    std::memcpy(to, &word, sizeof word);
}

Fault first_nan(const float* samples, int64_t size, int64_t image) {
    const float* found = std::find_if(samples, samples + size, [](float x) { return x != x; });
    return {Fault::Kind::nan, image, found - samples};
}

// Codes of the input format to bytes (code + zero); the index of the first out of range, or size.
template <typename Code>
int64_t copy_codes(const Code* codes, int64_t size, const Input& input, uint8_t* out) {
    const auto outside = [&input](Code code) { return code < input.low || code > input.high; };
    bool valid = true;
    for (int64_t i = 0; i < size; ++i) {  // no early exit: the compiler makes vectors of it
        valid &= !outside(codes[i]);
        out[i] = static_cast<uint8_t>(codes[i] + input.zero());
    }
    return valid ? size : std::find_if(codes, codes + size, outside) - codes;
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
    const Shape& shape = layout.shape;
    for (int64_t y = 0; y < shape.height; ++y) {
        std::byte* row = image + layout.offset(y, 0);
        for (int64_t c = 0; c < shape.channels; ++c) {
            const uint8_t* plane = planes + (c * shape.height + y) * shape.width;
            for (int64_t x = 0; x < shape.width; ++x) {
                row[x * shape.channels + c] = static_cast<std::byte>(plane[x]);
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

// One image of the batch into place `slot` of the input buffer.
Fault Program::load(const Batch& batch, int64_t image, Workspace& workspace, int64_t slot) const {
    const Layout& layout = layouts_.front();
    const int64_t size = layout.shape.elements();
    std::byte* place = workspace.buffers.front().data() + slot * layout.image_bytes();
    // Flat order is already pixel order if the pixels are dense and one of C and H * W is 1.
    const bool bits = layout.element == Element::bits;
    const bool direct =
        layout.dense() && (layout.shape.pixels() == 1 || (!bits && layout.shape.channels == 1));
    auto* flat = reinterpret_cast<uint8_t*>(direct ? place : workspace.scratch.data());

    if (batch.type == SampleType::float32) {
        const float* samples = static_cast<const float*>(batch.samples) + image * size;
        const bool nan = bits ? kernels_.sign.run({samples, size, flat})
                              : kernels_.quantize.run(
                                    {samples, size, input_.scale, static_cast<float>(input_.low),
                                     static_cast<float>(input_.high), input_.zero(), flat});
        if (nan) return first_nan(samples, size, image);
    } else {
        const auto* signed_codes = static_cast<const int8_t*>(batch.samples) + image * size;
        const auto* unsigned_codes = static_cast<const uint8_t*>(batch.samples) + image * size;
        const int64_t valid = bits ? copy_signs(signed_codes, size, flat)
                              : batch.type == SampleType::int8
                                  ? copy_codes(signed_codes, size, input_, flat)
                                  : copy_codes(unsigned_codes, size, input_, flat);
        if (valid < size) return {Fault::Kind::code, image, valid};
    }
    if (!direct && bits) spread_bits(flat, layout, place);
    if (!direct && !bits) spread_bytes(flat, layout, place);
    return {};
}

void Program::run_product(const Product& product, const Bytes& input, Bytes& output,
                          int64_t images) const {
    const Layout& from = product.input;
    const int64_t pixels = product.output.pixels();
    const bool bits = from.element == Element::bits;
    ProductArgs args{};
    args.input = input.data();
    args.input_group = product.group_images * from.image_bytes();
    args.input_offset = product.input_offset.data();
    args.runs = product.runs;
    args.run_units = product.run_units;
    args.run_stride = product.run_stride;
    args.weights = product.weights.data();
    args.tiles = product.tiles;
    args.constants = product.constants.data();
    args.constant_offset = product.constant_offset.data();
    args.output = output.data();
    args.output_group = product.group_images * product.output_image_bytes;
    args.output_offset = product.output_offset.data();
    args.group_rows = product.group_images * pixels;
    args.rows = images * pixels;
    const auto& kernel = bits ? (product.sums ? kernels_.bgemm_sums : kernels_.bgemm_bits)
                              : (product.sums ? kernels_.u8s8_sums : kernels_.u8s8_bits);
    kernel.run(args);
}

// The margin holds zeros, which an OR does not see.
void Program::run_pool(const Pool& pool, const Bytes& input, Bytes& output, int64_t images) const {
    const Layout &from = pool.input, &to = pool.output;
    const Window& window = pool.window;
    const int64_t pixel_bytes = from.pixel_bytes();
    for (int64_t image = 0; image < images; ++image) {
        const std::byte* source = input.data() + image * from.image_bytes();
        std::byte* target = output.data() + image * to.image_bytes();
        for (int64_t y = 0; y < to.shape.height; ++y) {
            for (int64_t x = 0; x < to.shape.width; ++x) {
                const std::byte* first =
                    source + from.offset(y * window.stride_h - window.padding_h,
                                         x * window.stride_w - window.padding_w);
                std::byte* pixel = target + to.offset(y, x);
                for (int64_t at = 0; at < pixel_bytes; at += kWordBytes) {
                    uint64_t word = 0;
                    for (int64_t ky = 0; ky < window.kernel_h; ++ky) {
                        const std::byte* tap = first + ky * from.row_bytes() + at;
                        for (int64_t kx = 0; kx < window.kernel_w; ++kx, tap += pixel_bytes) {
                            word |= load_word(tap);
                        }
                    }
                    store_word(pixel + at, word ^ pool.flips[static_cast<size_t>(at / kWordBytes)]);
                }
            }
        }
    }
}

void Program::write_output(const Bytes& sums, float* output, int64_t images) const {
    const Layout& layout = layouts_.back();
    const Shape& shape = layout.shape;
    for (int64_t image = 0; image < images; ++image) {
        for (int64_t pixel = 0; pixel < shape.pixels(); ++pixel) {
            const std::byte* from =
                sums.data() + image * layout.image_bytes() + pixel * layout.pixel_bytes();
            for (int64_t n = 0; n < shape.channels; ++n) {
                int32_t acc;
                std::memcpy(&acc, from + 4 * n, sizeof acc);
                const auto i = static_cast<size_t>(n);
                const int64_t level = acc * affine_.multipliers[i] + affine_.offsets[i];
                output[(image * shape.channels + n) * shape.pixels() + pixel] =
                    static_cast<float>(static_cast<double>(level) * affine_.factor);
            }
        }
    }
}

// Copies every buffer of a chunk, unpacked, to the caller's arrays: [image][C][H][W].
void Program::capture(const Batch& batch, const Workspace& workspace, int64_t first,
                      int64_t images) const {
    for (size_t i = 0; i < batch.captures.size(); ++i) {
        const Layout& layout = layouts_[i];
        const Shape& shape = layout.shape;
        const bool sums = layout.element == Element::sums;
        std::byte* to = batch.captures[i] + first * shape.elements() * (sums ? 4 : 1);
        for (int64_t image = 0; image < images; ++image) {
            const std::byte* from = workspace.buffers[i].data() + image * layout.image_bytes();
            for (int64_t c = 0; c < shape.channels; ++c) {
                for (int64_t p = 0; p < shape.pixels(); ++p) {
                    const std::byte* pixel = from + layout.offset(p / shape.width, p % shape.width);
                    if (sums) {
                        std::memcpy(to, pixel + 4 * c, 4);
                        to += 4;
                    } else if (layout.element == Element::bytes) {
                        *to++ =
                            static_cast<std::byte>(std::to_integer<int>(pixel[c]) - input_.zero());
                    } else {
                        const bool bit = (std::to_integer<unsigned>(pixel[c / 8]) >> (c % 8)) & 1U;
                        *to++ = static_cast<std::byte>(bit ? 1 : -1);
                    }
                }
            }
        }
    }
}

// Images [begin, end), in chunks of nearly equal size, whole tiles of 8 rows where they are many.
Fault Program::run_slice(const Batch& batch, int64_t begin, int64_t end) const {
    if (begin == end) return {};
    const int64_t chunks = ceil_div(end - begin, chunk_);
    const int64_t step =
        std::min({round_up(ceil_div(end - begin, chunks), 8), chunk_, end - begin});
    auto workspace = borrow(step);
    Fault fault;
    for (int64_t first = begin; first < end && fault.kind == Fault::Kind::none; first += step) {
        const int64_t images = std::min(step, end - first);
        for (int64_t i = 0; i < images && fault.kind == Fault::Kind::none; ++i) {
            fault = load(batch, first + i, *workspace, i);
        }
        if (fault.kind != Fault::Kind::none) break;
        for (size_t i = 0; i < stages_.size(); ++i) {
            const Bytes& input = workspace->buffers[i];
            Bytes& output = workspace->buffers[i + 1];
            if (const auto* product = std::get_if<Product>(&stages_[i])) {
                run_product(*product, input, output, images);
            } else {
                run_pool(std::get<Pool>(stages_[i]), input, output, images);
            }
        }
        write_output(workspace->buffers.back(),
                     batch.output + first * layouts_.back().shape.elements(), images);
        capture(batch, *workspace, first, images);
    }
    give_back(std::move(workspace));
    return fault;
}

Fault Program::run(const Batch& batch, int64_t threads) const {
    if (!finished_) throw std::invalid_argument("the program has no output yet");
    const int64_t slices = std::clamp(threads, int64_t{1}, std::max(int64_t{1}, batch.images));
    if (slices == 1) return run_slice(batch, 0, batch.images);

    std::vector<Fault> faults(static_cast<size_t>(slices));
    std::vector<std::exception_ptr> errors(static_cast<size_t>(slices));
    const auto work = [&](int64_t slice) {
        const auto i = static_cast<size_t>(slice);
        try {
            faults[i] = run_slice(batch, batch.images * slice / slices,
                                  batch.images * (slice + 1) / slices);
        } catch (...) {
            errors[i] = std::current_exception();
        }
    };
    {
        Threads others;
        for (int64_t slice = 1; slice < slices; ++slice) others.start(work, slice);
        work(0);
    }
    for (const std::exception_ptr& error : errors) {
        if (error) std::rethrow_exception(error);
    }
    for (const Fault& fault : faults) {
        if (fault.kind != Fault::Kind::none) return fault;
    }
    return {};
}

}  // namespace bitwright
