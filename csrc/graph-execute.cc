// Running a graph: slices of the batch on threads, chunks of a slice through all stages; a single
// image goes through its stages on all threads together.
#include <algorithm>
#include <cstring>
#include <exception>
#include <stdexcept>

#include "graph.h"
#include "team.h"

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

// The rows of a segment among the pixels [begin, end) of one image, or in all of several.
Rows rows_of(const Places& places, const Segment& segment, const std::byte* input,
             std::byte* output, int64_t images, std::pair<int64_t, int64_t> range) {
    const auto place = [&](int64_t pixel) {
        const auto& all = segment.pixel;
        return std::lower_bound(all.begin(), all.end(), pixel) - all.begin();
    };
    const int64_t begin = images == 1 ? place(range.first) : 0;
    const int64_t count = images == 1 ? place(range.second) - begin : segment.pixels;
    const int64_t first = segment.before * places.group_images + begin;
    return {input + segment.input,
            places.group_images * places.input_image,
            places.input_offset.data() + first,
            output,
            places.group_images * places.output_image,
            places.output_offset.data() + first,
            images == 1 ? count : places.group_images * count,
            images * count};
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

// Lines of pixels where there are enough of them, as every stage shares them: a thread then reads
// what it wrote itself.
Graph::Share Graph::share(const Places& places, int64_t tiles, Part part) {
    const int64_t pixels = places.pixels();
    if (pixels < kBlockRows * part.count) return {{0, pixels}, part.of(tiles, 1)};
    const int64_t unit = places.height < part.count ? kBlockRows : places.width;
    return {part.of(pixels, unit), {0, tiles}};
}

// Margins of bytes hold level 0. Their memory is shared, so they are written each time. A part
// fills beside the lines that it writes.
void Graph::fill_margin(const Workspace& workspace, int id, int64_t images, Part part) const {
    const Tensor& tensor = tensors_[static_cast<size_t>(id)];
    const Layout& layout = tensor.layout;
    if (layout.element != Element::bytes || layout.dense()) return;
    const int64_t side = layout.margin_w * layout.pixel_bytes();
    const int64_t ends = layout.margin_h * layout.row_bytes();
    const auto [begin, end] = part.of(layout.shape.height, 1);
    const auto fill = [&](std::byte* from, int64_t size) {
        std::memset(from, tensor.zero, static_cast<size_t>(size));
    };
    for (int64_t image = 0; image < images; ++image) {
        std::byte* from = memory(workspace, id) + image * layout.image_bytes();
        if (part.index == 0) fill(from, ends);
        if (part.index == part.count - 1) fill(from + layout.image_bytes() - ends, ends);
        for (int64_t y = begin; y < end; ++y) {
            std::byte* row = from + ends + y * layout.row_bytes();
            fill(row, side);
            fill(row + layout.row_bytes() - side, side);
        }
    }
}

void Graph::run(const DotStage& stage, const Workspace& workspace, int64_t images,
                Part part) const {
    const Tensor &input = tensor(stage.input), &output = tensor(stage.output);
    const Share share = Graph::share(stage.places, stage.tiles, part);
    const int64_t groups = stage.depthwise ? 1 : stage.groups;
    const int64_t group_bytes = stage.weights.size() / groups;
    const int64_t in_channels = input.layout.shape.channels / groups;
    const int64_t out_bytes = output.layout.element == Element::sums ? 4 : 1;
    DotArgs args{};
    args.run_offset = stage.runs.offset.data();
    args.weight_run = stage.places.weight_run;
    args.weight_tile = stage.places.weight_tile;
    args.first_tile = share.tiles.first;
    args.tiles = share.tiles.second;
    for (int64_t group = 0; group < groups; ++group) {
        args.epilogue = stage.epilogue.view(group, output.zero);
        for (const Segment& segment : stage.places.segments) {
            args.rows = rows_of(
                stage.places, segment, memory(workspace, stage.input) + group * in_channels,
                memory(workspace, stage.output) + group * stage.epilogue.group_channels * out_bytes,
                images, share.pixels);
            if (args.rows.rows == 0) continue;
            args.runs = segment.runs;
            args.run_units = segment.units;
            args.weights = stage.weights.data() + group * group_bytes + segment.weights;
            args.constants =
                stage.constants.data() + segment.constants + group * stage.epilogue.group_padded;
            const auto kernel = stage.depthwise ? kernels_.depthwise
                                : stage.signs   ? kernels_.dot_signs
                                                : kernels_.dot;
            kernel(args);
        }
    }
}

void Graph::run(const PlaneStage& stage, const Workspace& workspace, int64_t images,
                Part part) const {
    const Share share = Graph::share(stage.places, stage.tiles, part);
    PlaneArgs args{};
    args.run_offset = stage.runs.offset.data();
    args.weight_run = stage.places.weight_run;
    args.weight_tile = stage.places.weight_tile;
    args.first_tile = share.tiles.first;
    args.tiles = share.tiles.second;
    args.pairs = static_cast<int64_t>(stage.pairs.size());
    args.pair = stage.pairs.data();
    args.exclusive = stage.exclusive;
    args.epilogue = stage.epilogue.view(0, tensor(stage.output).zero);
    for (const Segment& segment : stage.places.segments) {
        args.rows = rows_of(stage.places, segment, memory(workspace, stage.input),
                            memory(workspace, stage.output), images, share.pixels);
        if (args.rows.rows == 0) continue;
        if (stage.single) {
            run_single(stage, args.rows, segment, share.tiles);
            continue;
        }
        args.runs = segment.runs;
        args.run_units = segment.units;
        args.weights = stage.weights.data() + segment.weights;
        args.constants = stage.constants.data() + segment.constants;
        kernels_.planes(args);
    }
}

void Graph::run_single(const PlaneStage& stage, const Rows& rows, const Segment& segment,
                       std::pair<int64_t, int64_t> tiles) const {
    const bool sums = stage.epilogue.kind == Epilogue::Kind::sums;
    const int64_t first = tiles.first * kLanes;
    ProductArgs args{};
    args.input = rows.input;
    args.input_group = rows.input_group;
    args.input_offset = rows.input_offset;
    args.runs = segment.runs;
    args.run_units = segment.units;
    args.run_stride = stage.runs.count > 1 ? stage.runs.offset[1] : 0;
    args.weights = stage.weights.data() + segment.weights + tiles.first * stage.places.weight_tile;
    args.weight_run = stage.places.weight_run;
    args.weight_tile = stage.places.weight_tile;
    args.tiles = tiles.second - tiles.first;
    args.constants = stage.constants.data() + segment.constants + first;
    args.output = rows.output + (sums ? 4 * first : first / 8);
    args.output_group = rows.output_group;
    args.output_offset = rows.output_offset;
    args.group_rows = rows.group_rows;
    args.rows = rows.rows;
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
                            several ? stage.scaled_multipliers[t].data() : nullptr,
                            several ? stage.single_multipliers[t].data() : nullptr};
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
    if (first) fill_margin(workspace, output, images, part);
    std::visit([&](const auto& s) { run(s, workspace, images, part); }, stage);
}

// Chunks of `step` images, for as long as there are any; the other threads take theirs meanwhile.
GraphFault Graph::run_chunks(const GraphBatch& batch, int64_t step,
                             std::atomic<int64_t>& next) const {
    auto workspace = borrow(step);
    GraphFault fault;
    while (fault.kind == GraphFault::Kind::none) {
        const int64_t first = next.fetch_add(step, std::memory_order_relaxed);
        if (first >= batch.images) break;
        const int64_t images = std::min(step, batch.images - first);
        fill_margin(*workspace, 0, images, {});
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
    fill_margin(*workspace, 0, 1, {});
    const GraphFault fault = load(batch, 0, *workspace, 0);
    if (fault.kind == GraphFault::Kind::none) {
        Barrier together(threads);
        auto team = borrow_team(threads);
        team->run([&](int64_t index) {
            for (size_t i = 0; i < stages_.size(); ++i) {
                if (i > 0) together.arrive_and_wait();
                run_stage(i, *workspace, 1, {index, threads});
            }
        });
        give_back(std::move(team));
        write_output(batch, *workspace, 0, 1);
    }
    give_back(std::move(workspace));
    return fault;
}

// Images of a chunk: as many chunks for each thread, of equal size and whole tiles of rows where
// the batch allows, else of nearly equal size.
int64_t Graph::chunk_for(int64_t images, int64_t threads) const {
    const int64_t chunks = round_up(ceil_div(images, chunk_), threads);
    const int64_t even = ceil_div(images, chunks);
    for (int64_t step = round_up(even, kBlockRows); 2 * step > even; step -= kBlockRows) {
        if (step <= chunk_ && images % (step * threads) == 0) return step;
    }
    return even;
}

GraphFault Graph::run(const GraphBatch& batch, int64_t threads) const {
    if (!finished_) throw std::invalid_argument("the graph has no output yet");
    if (batch.images == 0) return {};
    if (batch.images == 1 && threads > 1 && batch.captures.empty()) {
        return run_together(batch, threads);
    }
    const int64_t count = std::min(threads, batch.images);
    const int64_t step = chunk_for(batch.images, count);
    std::atomic<int64_t> next{0};
    if (count == 1) return run_chunks(batch, step, next);

    std::vector<GraphFault> faults(static_cast<size_t>(count));
    std::vector<std::exception_ptr> errors(static_cast<size_t>(count));
    auto team = borrow_team(count);
    team->run([&](int64_t index) {
        const auto i = static_cast<size_t>(index);
        try {
            faults[i] = run_chunks(batch, step, next);
        } catch (...) {
            errors[i] = std::current_exception();
        }
    });
    give_back(std::move(team));
    for (const std::exception_ptr& error : errors) {
        if (error) std::rethrow_exception(error);
    }
    GraphFault first;  // the fault of the earliest image, whichever thread met it
    for (const GraphFault& fault : faults) {
        const bool earlier = first.kind == GraphFault::Kind::none || fault.image < first.image;
        if (fault.kind != GraphFault::Kind::none && earlier) first = fault;
    }
    return first;
}

}  // namespace bitwright
