// Running a graph: slices of the batch on threads, chunks of a slice through all stages; a single
// image goes through its stages on all threads together.
#include <algorithm>
#include <barrier>
#include <cstring>
#include <exception>
#include <stdexcept>

#include "graph.h"
#include "threads.h"

namespace bitwright {
namespace {

constexpr int64_t kBlockRows = 8;  // rows that the kernels take at a time

uint64_t load_word(const std::byte* from) {
    uint64_t word;
    std::memcpy(&word, from, sizeof word);
    return word;
}

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

// The rows [begin, end) of one image, or all rows of several.
Rows rows_of(const Places& places, const std::byte* input, std::byte* output, int64_t images,
             int64_t begin, int64_t end) {
    return {input,
            places.group_images * places.input_image,
            places.input_offset.data() + begin,
            output,
            places.group_images * places.output_image,
            places.output_offset.data() + begin,
            places.group_images * places.pixels,
            images == 1 ? end - begin : images * places.pixels};
}

}  // namespace

// The share [first, second) of `size`, in whole units.
std::pair<int64_t, int64_t> Graph::Part::of(int64_t size, int64_t unit) const {
    const int64_t units = ceil_div(size, unit);
    return {std::min(size, units * index / count * unit),
            std::min(size, units * (index + 1) / count * unit)};
}

std::byte* Graph::memory(const Workspace& workspace, int id) const {
    const Tensor& tensor = tensors_[static_cast<size_t>(id)];
    return const_cast<std::byte*>(workspace.arena.data()) + tensor.offset * workspace.images;
}

// Margins of bytes hold level 0. Their memory is shared, so they are written each time.
void Graph::fill_margin(const Workspace& workspace, int id, int64_t images) const {
    const Tensor& tensor = tensors_[static_cast<size_t>(id)];
    const Layout& layout = tensor.layout;
    if (layout.element != Element::bytes || layout.dense()) return;
    const int64_t side = layout.margin_w * layout.pixel_bytes();
    const int64_t ends = layout.margin_h * layout.row_bytes();
    const auto fill = [&](std::byte* from, int64_t size) {
        std::memset(from, tensor.zero, static_cast<size_t>(size));
    };
    for (int64_t image = 0; image < images; ++image) {
        std::byte* from = memory(workspace, id) + image * layout.image_bytes();
        fill(from, ends);
        fill(from + layout.image_bytes() - ends, ends);
        for (int64_t y = 0; y < layout.shape.height; ++y) {
            std::byte* row = from + ends + y * layout.row_bytes();
            fill(row, side);
            fill(row + layout.row_bytes() - side, side);
        }
    }
}

// One image of the batch into place `slot` of the input tensor.
GraphFault Graph::load(const GraphBatch& batch, int64_t image, Workspace& workspace,
                       int64_t slot) const {
    const Tensor& input = tensors_.front();
    const Layout& layout = input.layout;
    const int64_t size = layout.shape.elements();
    std::byte* place = memory(workspace, 0) + slot * layout.image_bytes();
    // Flat order is already pixel order if the pixels are dense and one of C and H * W is 1.
    const bool bits = layout.element == Element::bits;
    const bool direct =
        layout.dense() && (layout.shape.pixels() == 1 || (!bits && layout.shape.channels == 1));
    auto* flat = reinterpret_cast<uint8_t*>(direct ? place : workspace.scratch.data());

    if (batch.type == GraphBatch::Type::float32) {
        const float* samples = static_cast<const float*>(batch.samples) + image * size;
        const bool nan =
            bits ? convert_.sign.run({samples, size, flat})
                 : convert_.quantize.run({samples, size, scale_, static_cast<float>(low_),
                                          static_cast<float>(high_), input.zero, flat});
        if (nan) return first_nan(samples, size, image);
    } else {
        const auto* signed_codes = static_cast<const int8_t*>(batch.samples) + image * size;
        const auto* codes = static_cast<const uint8_t*>(batch.samples) + image * size;
        const auto byte = [](int32_t value) { return static_cast<uint8_t>(value); };
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

void Graph::run(const DotStage& stage, const Workspace& workspace, int64_t images,
                Part part) const {
    const Tensor &input = tensor(stage.input), &output = tensor(stage.output);
    // One image is shared by rows, or by tiles of channels where rows are few.
    const int64_t pixels = stage.places.pixels;
    const bool by_rows = pixels >= kBlockRows * part.count;
    const auto [row, row_end] =
        by_rows ? part.of(pixels, kBlockRows) : std::pair{int64_t{0}, pixels};
    const auto [tile, tile_end] =
        by_rows ? std::pair{int64_t{0}, stage.tiles} : part.of(stage.tiles, 1);
    const int64_t groups = stage.depthwise ? 1 : stage.groups;
    const int64_t group_bytes = stage.weights.size() / groups;
    const int64_t in_channels = input.layout.shape.channels / groups;
    const int64_t out_bytes = output.layout.element == Element::sums ? 4 : 1;
    for (int64_t group = 0; group < groups; ++group) {
        DotArgs args{};
        args.rows = rows_of(
            stage.places, memory(workspace, stage.input) + group * in_channels,
            memory(workspace, stage.output) + group * stage.epilogue.group_channels * out_bytes,
            images, row, row_end);
        args.runs = stage.runs.count;
        args.run_units = stage.runs.units;
        args.run_offset = stage.runs.offset.data();
        args.weights = stage.weights.data() + group * group_bytes;
        args.first_tile = tile;
        args.tiles = tile_end;
        args.constants = stage.constants.data() + group * stage.epilogue.group_padded;
        args.epilogue = stage.epilogue.view(group, output.zero);
        (stage.depthwise ? kernels_.depthwise : kernels_.dot)(args);
    }
}

void Graph::run(const PlaneStage& stage, const Workspace& workspace, int64_t images,
                Part part) const {
    const int64_t pixels = stage.places.pixels;
    const bool by_rows = pixels >= kBlockRows * part.count;
    const auto [row, row_end] =
        by_rows ? part.of(pixels, kBlockRows) : std::pair{int64_t{0}, pixels};
    const auto [tile, tile_end] =
        by_rows ? std::pair{int64_t{0}, stage.tiles} : part.of(stage.tiles, 1);
    if (stage.single) {
        run_single(stage, workspace, images, {row, row_end}, {tile, tile_end});
        return;
    }
    PlaneArgs args{};
    args.rows = rows_of(stage.places, memory(workspace, stage.input),
                        memory(workspace, stage.output), images, row, row_end);
    args.runs = stage.runs.count;
    args.run_units = stage.runs.units;
    args.run_offset = stage.runs.offset.data();
    args.weights = stage.weights.data();
    args.first_tile = tile;
    args.tiles = tile_end;
    args.pairs = static_cast<int64_t>(stage.pairs.size());
    args.pair = stage.pairs.data();
    args.exclusive = stage.exclusive;
    args.constants = stage.constants.data();
    args.constant_offset = stage.constant_offset.data() + row;
    args.epilogue = stage.epilogue.view(0, tensor(stage.output).zero);
    kernels_.planes(args);
}

void Graph::run_single(const PlaneStage& stage, const Workspace& workspace, int64_t images,
                       std::pair<int64_t, int64_t> rows, std::pair<int64_t, int64_t> tiles) const {
    const bool sums = stage.epilogue.kind == Epilogue::Kind::sums;
    const int64_t first = tiles.first * kLanes;
    const Rows places = rows_of(stage.places, memory(workspace, stage.input),
                                memory(workspace, stage.output), images, rows.first, rows.second);
    ProductArgs args{};
    args.input = places.input;
    args.input_group = places.input_group;
    args.input_offset = places.input_offset;
    args.runs = stage.runs.count;
    args.run_units = stage.runs.units;
    args.run_stride = stage.runs.count > 1 ? stage.runs.offset[1] : 0;
    args.weights = stage.weights.data() + first * args.runs * args.run_units * kWordBytes;
    args.tiles = tiles.second - tiles.first;
    args.constants = stage.constants.data() + first;
    args.constant_offset = stage.constant_offset.data() + rows.first;
    args.output = places.output + (sums ? 4 * first : first / 8);
    args.output_group = places.output_group;
    args.output_offset = places.output_offset;
    args.group_rows = places.group_rows;
    args.rows = places.rows;
    (sums ? convert_.bgemm_sums : convert_.bgemm_bits).run(args);
}

void Graph::run(const CombineStage& stage, const Workspace& workspace, int64_t images,
                Part part) const {
    const Tensor& output = tensor(stage.output);
    std::vector<const Tensor*> inputs;
    bool dense = output.layout.dense();
    for (const int id : stage.inputs) {
        inputs.push_back(&tensor(id));
        dense = dense && inputs.back()->layout.dense();
    }
    const int64_t height = output.layout.shape.height, width = output.layout.shape.width;
    const auto [begin, end] = part.of(height, 1);
    // Where nothing has a margin, all rows of all images follow one another.
    const bool whole = dense && part.count == 1;
    std::vector<Term> terms(inputs.size());
    CombineArgs args{};
    args.pixels = whole ? images * height * width : width;
    args.count = static_cast<int64_t>(terms.size());
    args.terms = terms.data();
    args.output_stride = output.layout.pixel_bytes();
    args.epilogue = stage.epilogue.view(0, output.zero);
    for (int64_t image = 0; image < (whole ? 1 : images); ++image) {
        for (int64_t y = whole ? 0 : begin; y < (whole ? 1 : end); ++y) {
            for (size_t t = 0; t < terms.size(); ++t) {
                const Layout& layout = inputs[t]->layout;
                const bool several = terms.size() > 1;
                terms[t] = {memory(workspace, stage.inputs[t]) + image * layout.image_bytes() +
                                layout.offset(y, 0),
                            layout.pixel_bytes(),
                            layout.element == Element::sums,
                            inputs[t]->zero,
                            several ? stage.multipliers[t].data() : nullptr,
                            several ? stage.scaled_multipliers[t].data() : nullptr};
            }
            args.output = memory(workspace, stage.output) + image * output.layout.image_bytes() +
                          output.layout.offset(y, 0) + stage.first_channel;
            kernels_.combine(args);
        }
    }
}

// Taps outside the image do not count.
void Graph::run(const PoolStage& stage, const Workspace& workspace, int64_t images,
                Part part) const {
    const Tensor &input = tensor(stage.input), &output = tensor(stage.output);
    const Layout &from = input.layout, &to = output.layout;
    const Sliding& w = stage.window;
    const auto kernel = stage.sum                       ? kernels_.add_bytes
                        : from.element == Element::sums ? kernels_.max_sums
                                                        : kernels_.max_bytes;
    const auto [begin, end] = part.of(to.shape.height, 1);
    for (int64_t image = 0; image < images; ++image) {
        const std::byte* source = memory(workspace, stage.input) + image * from.image_bytes();
        std::byte* target = memory(workspace, stage.output) + image * to.image_bytes();
        if (from.element == Element::bits) {
            pool_bits(stage, source, target, begin, end);
            continue;
        }
        for (int64_t y = begin; y < end; ++y) {
            const int64_t top = y * w.stride_h - w.top;
            const int64_t y0 = std::max(top, int64_t{0});
            const int64_t y1 = std::min(top + w.kernel_h, from.shape.height);
            for (int64_t x = 0; x < to.shape.width; ++x) {
                const int64_t left = x * w.stride_w - w.left;
                const int64_t x0 = std::max(left, int64_t{0});
                const int64_t x1 = std::min(left + w.kernel_w, from.shape.width);
                kernel({source + from.offset(y0, x0), y1 - y0, x1 - x0, from.row_bytes(),
                        from.pixel_bytes(), from.shape.channels, input.zero,
                        target + to.offset(y, x)});
            }
        }
    }
}

void Graph::pool_bits(const PoolStage& stage, const std::byte* source, std::byte* target,
                      int64_t begin, int64_t end) const {
    const Layout &from = tensor(stage.input).layout, &to = tensor(stage.output).layout;
    const Sliding& w = stage.window;
    const int64_t pixel_bytes = from.pixel_bytes();
    for (int64_t y = begin; y < end; ++y) {
        const int64_t top = y * w.stride_h - w.top;
        const int64_t y0 = std::max(top, int64_t{0});
        const int64_t y1 = std::min(top + w.kernel_h, from.shape.height);
        for (int64_t x = 0; x < to.shape.width; ++x) {
            const int64_t left = x * w.stride_w - w.left;
            const int64_t x0 = std::max(left, int64_t{0});
            const int64_t columns = std::min(left + w.kernel_w, from.shape.width) - x0;
            const std::byte* first = source + from.offset(y0, x0);
            std::byte* pixel = target + to.offset(y, x);
            for (int64_t at = 0; at < pixel_bytes; at += kWordBytes) {
                uint64_t word = 0;
                for (int64_t ky = 0; ky < y1 - y0; ++ky) {
                    const std::byte* tap = first + ky * from.row_bytes() + at;
                    for (int64_t kx = 0; kx < columns; ++kx, tap += pixel_bytes) {
                        word |= load_word(tap);
                    }
                }
                store_word(pixel + at, word ^ stage.flips[static_cast<size_t>(at / kWordBytes)]);
            }
        }
    }
}

void Graph::run(const SplitStage& stage, const Workspace& workspace, int64_t images,
                Part part) const {
    const Layout &from = tensor(stage.input).layout, &to = tensor(stage.output).layout;
    const auto [begin, end] = part.of(to.shape.height, 1);
    for (int64_t image = 0; image < images; ++image) {
        const std::byte* source = memory(workspace, stage.input) + image * from.image_bytes();
        std::byte* target = memory(workspace, stage.output) + image * to.image_bytes();
        for (int64_t y = begin; y < end; ++y) {
            for (int64_t x = 0; x < to.shape.width; ++x) {
                kernels_.split({source + from.offset(y, x), from.shape.channels, stage.first,
                                static_cast<int>(to.planes), target + to.offset(y, x),
                                to.plane_bytes()});
            }
        }
    }
}

void Graph::run_stage(size_t index, const Workspace& workspace, int64_t images, Part part) const {
    const Stage& stage = stages_[index];
    const int output = std::visit([](const auto& s) { return s.output; }, stage);
    const bool first = tensor(output).first_stage == static_cast<int>(index);
    if (part.index == 0 && first) fill_margin(workspace, output, images);
    std::visit([&](const auto& s) { run(s, workspace, images, part); }, stage);
}

// The levels of one pixel.
void Graph::levels(const Tensor& t, const std::byte* image, int64_t y, int64_t x,
                   int32_t* out) const {
    const Layout& layout = t.layout;
    const std::byte* pixel = image + layout.offset(y, x);
    const int64_t channels = layout.shape.channels;
    if (layout.element == Element::sums) {
        std::memcpy(out, pixel, static_cast<size_t>(4 * channels));
        return;
    }
    if (layout.element == Element::bytes) {
        for (int64_t c = 0; c < channels; ++c) {
            out[c] = std::to_integer<int32_t>(pixel[c]) - t.zero;
        }
        return;
    }
    for (int64_t c = 0; c < channels; ++c) {
        int32_t value = 0;
        for (int64_t p = 0; p < layout.planes; ++p) {
            const auto bits = std::to_integer<unsigned>(pixel[p * layout.plane_bytes() + c / 8]);
            value |= static_cast<int32_t>((bits >> (c % 8)) & 1U) << p;
        }
        out[c] = t.factor * value - t.zero;
    }
}

// |level M + B| < 2^53, so float64 sums are exact.
void Graph::write_output(const GraphBatch& batch, const Workspace& workspace, int64_t first,
                         int64_t images) const {
    const Tensor& last = tensor(output_);
    const Shape& shape = last.layout.shape;
    const int64_t pixels = shape.pixels();
    std::vector<int32_t>& row = workspace.row;
    for (int64_t image = 0; image < images; ++image) {
        const std::byte* from = memory(workspace, output_) + image * last.layout.image_bytes();
        const int64_t start = (first + image) * shape.elements();
        for (int64_t p = 0; p < pixels; ++p) {
            levels(last, from, p / shape.width, p % shape.width, row.data());
            if (writes_levels()) {
                int32_t* to = static_cast<int32_t*>(batch.output) + start + p;
                for (size_t c = 0; c < row.size(); ++c)
                    to[static_cast<int64_t>(c) * pixels] = row[c];
                continue;
            }
            float* to = static_cast<float*>(batch.output) + start + p;
            for (size_t c = 0; c < row.size(); ++c) {
                const double sum = row[c] * output_multipliers_[c] + output_offsets_[c];
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
        std::vector<int32_t> row(static_cast<size_t>(shape.channels));
        for (int64_t image = 0; image < images; ++image) {
            const std::byte* from =
                memory(workspace, wanted.tensor) + image * t.layout.image_bytes();
            int32_t* to = wanted.levels + (first + image) * shape.elements();
            for (int64_t p = 0; p < shape.pixels(); ++p) {
                levels(t, from, p / shape.width, p % shape.width, row.data());
                for (size_t c = 0; c < row.size(); ++c) {
                    to[static_cast<int64_t>(c) * shape.pixels() + p] = row[c];
                }
            }
        }
    }
}

// Images [begin, end), in chunks of nearly equal size, whole tiles of 8 rows where they are many.
GraphFault Graph::run_slice(const GraphBatch& batch, int64_t begin, int64_t end) const {
    if (begin == end) return {};
    const int64_t chunks = ceil_div(end - begin, chunk_);
    const int64_t step =
        std::min({round_up(ceil_div(end - begin, chunks), kBlockRows), chunk_, end - begin});
    auto workspace = borrow(step);
    GraphFault fault;
    for (int64_t first = begin; first < end && fault.kind == GraphFault::Kind::none;
         first += step) {
        const int64_t images = std::min(step, end - first);
        fill_margin(*workspace, 0, images);
        for (int64_t i = 0; i < images && fault.kind == GraphFault::Kind::none; ++i) {
            fault = load(batch, first + i, *workspace, i);
        }
        if (fault.kind != GraphFault::Kind::none) break;
        if (!batch.captures.empty()) capture(batch, *workspace, -1, first, images);
        for (size_t i = 0; i < stages_.size(); ++i) {
            run_stage(i, *workspace, images, {});
            if (!batch.captures.empty()) {
                capture(batch, *workspace, static_cast<int>(i), first, images);
            }
        }
        write_output(batch, *workspace, first, images);
    }
    give_back(std::move(workspace));
    return fault;
}

// One image, each of its stages shared by all threads.
GraphFault Graph::run_together(const GraphBatch& batch, int64_t threads) const {
    auto workspace = borrow(1);
    fill_margin(*workspace, 0, 1);
    const GraphFault fault = load(batch, 0, *workspace, 0);
    if (fault.kind == GraphFault::Kind::none) {
        std::barrier<> together(threads);
        const auto work = [&](int64_t index) {
            for (size_t i = 0; i < stages_.size(); ++i) {
                run_stage(i, *workspace, 1, {index, threads});
                together.arrive_and_wait();
            }
        };
        {
            Threads others;
            for (int64_t index = 1; index < threads; ++index) others.start(work, index);
            work(0);
        }
        write_output(batch, *workspace, 0, 1);
    }
    give_back(std::move(workspace));
    return fault;
}

GraphFault Graph::run(const GraphBatch& batch, int64_t threads) const {
    if (!finished_) throw std::invalid_argument("the graph has no output yet");
    if (batch.images == 1 && threads > 1 && batch.captures.empty()) {
        return run_together(batch, threads);
    }
    const int64_t slices = std::clamp(threads, int64_t{1}, std::max(int64_t{1}, batch.images));
    if (slices == 1) return run_slice(batch, 0, batch.images);

    std::vector<GraphFault> faults(static_cast<size_t>(slices));
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
    for (const GraphFault& fault : faults) {
        if (fault.kind != GraphFault::Kind::none) return fault;
    }
    return {};
}

}  // namespace bitwright
