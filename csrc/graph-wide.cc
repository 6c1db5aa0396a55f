// The stages over tensors of any element: how they are checked, packed and run (engine-wide.h).
#include <algorithm>
#include <cstring>

#include "graph.h"

namespace bitwright {
namespace {

constexpr size_t kTerms = 64;

// [channels][inputs][taps] levels to tiles of 16 outputs, [tile][tap][input][16].
template <typename Stored>
Bytes pack_wide(const int64_t* levels, int64_t channels, int64_t groups, int64_t inputs,
                int64_t taps) {
    const int64_t outputs = channels / groups, tiles = ceil_div(outputs, kLanes);
    const auto size = static_cast<int64_t>(sizeof(Stored));
    Bytes packed(groups * tiles * taps * inputs * kLanes * size);
    for (int64_t n = 0; n < channels; ++n) {
        const int64_t tile = n / outputs * tiles + n % outputs / kLanes;
        for (int64_t c = 0; c < inputs; ++c) {
            for (int64_t tap = 0; tap < taps; ++tap, ++levels) {
                const int64_t row = (tile * taps + tap) * inputs + c;
                const auto level = static_cast<Stored>(*levels);
                std::memcpy(packed.data() + (row * kLanes + n % outputs % kLanes) * size, &level,
                            sizeof level);
            }
        }
    }
    return packed;
}

}  // namespace

void Graph::add_wide_product(int input, int output, const Sliding& window, int64_t channels,
                             int64_t groups, const int64_t* levels, int64_t size) {
    connect({input}, output);
    const Layout &from = tensor(input).layout, &to = tensor(output).layout;
    check_window(window, from.shape);
    require(groups > 0 && channels % groups == 0 && from.shape.channels % groups == 0,
            "groups divide the channels");
    const int64_t inputs = from.shape.channels / groups;
    require(size == channels * inputs * window.taps(), "one weight per tap");
    require(same(to.shape, window.output(from.shape, channels)),
            "the output has the result's shape");
    require(to.element == Element::sums || to.element == Element::longs, "a product makes sums");
    const auto [low, high] = std::minmax_element(levels, levels + size);
    WideProductStage stage{input, output, window, channels, groups};
    stage.wide_weights = *low < INT32_MIN || *high > INT32_MAX;
    require(!stage.wide_weights || to.element == Element::longs, "wide weights make wide sums");
    stage.weights = stage.wide_weights
                        ? pack_wide<double>(levels, channels, groups, inputs, window.taps())
                        : pack_wide<int32_t>(levels, channels, groups, inputs, window.taps());
    stages_.emplace_back(std::move(stage));
}

void Graph::add_wide_affine(WideAffineStage stage) {
    require(!stage.inputs.empty() && stage.inputs.size() <= kTerms, "1 to 64 terms");
    for (const int id : stage.inputs) connect({id}, stage.output);
    const Layout& to = tensor(stage.output).layout;
    const Shape slice{stage.channels, to.shape.height, to.shape.width};
    for (const int id : stage.inputs) {
        require(same(tensor(id).layout.shape, slice), "the terms of a sum have one shape");
    }
    require(to.element != Element::bits, "a wide stage makes no bits");
    require(stage.first_channel >= 0 && stage.first_channel + stage.channels <= to.shape.channels,
            "a slice of the output's channels");
    require(stage.multiplier.size() == stage.inputs.size() * stage.offset.size(),
            "an M of every term and channel");
    require(stage.shift >= 0 && stage.shift <= 62 && stage.low <= stage.high,
            "a shift of 0 to 62, low <= high");
    stages_.emplace_back(std::move(stage));
}

void Graph::add_wide_steps(WideStepsStage stage) {
    connect({stage.input}, stage.output);
    const Layout &from = tensor(stage.input).layout, &to = tensor(stage.output).layout;
    require(same(from.shape, to.shape), "steps keep the shape");
    require(to.element != Element::bits, "a wide stage makes no bits");
    const auto channels = static_cast<size_t>(to.shape.channels);
    require(!stage.levels.empty() && stage.direction.size() == channels &&
                stage.limits.size() == channels * (stage.levels.size() - 1),
            "a limit between any two levels, for each channel");
    stages_.emplace_back(std::move(stage));
}

void Graph::add_wide_table(WideTableStage stage) {
    connect({stage.input}, stage.output);
    const Layout &from = tensor(stage.input).layout, &to = tensor(stage.output).layout;
    require(to.element != Element::bits, "a wide stage makes no bits");
    require(from.shape.height == to.shape.height && from.shape.width == to.shape.width &&
                (from.shape.channels == 1 || from.shape.channels == to.shape.channels),
            "a table keeps the shape, or makes channels of one");
    require(stage.rows == 1 || stage.rows == to.shape.channels, "one row, or one for each channel");
    const auto row_bytes = static_cast<size_t>(stage.rows * to.element_bytes());
    require(!stage.entries.empty() && stage.entries.size() % row_bytes == 0, "whole entries");
    stage.count = static_cast<int64_t>(stage.entries.size() / row_bytes);
    stages_.emplace_back(std::move(stage));
}

void Graph::add_wide_pool(const WidePoolStage& stage) {
    connect({stage.input}, stage.output);
    const Layout &from = tensor(stage.input).layout, &to = tensor(stage.output).layout;
    check_window(stage.window, from.shape);
    require(stage.window.dilation_h == 1 && stage.window.dilation_w == 1, "a pool is not dilated");
    require(to.element != Element::bits, "a wide stage makes no bits");
    require(same(to.shape, stage.window.output(from.shape, from.shape.channels)),
            "the output has the result's shape");
    stages_.emplace_back(stage);
}

void Graph::add_gather(GatherStage stage) {
    connect({stage.input}, stage.output);
    const Tensor &from = tensor(stage.input), &to = tensor(stage.output);
    require(from.layout.element != Element::bits && from.layout.element == to.layout.element &&
                from.zero == to.zero,
            "a copy keeps the element, which is not bits");
    const int64_t size = from.layout.shape.elements();
    require(static_cast<int64_t>(stage.elements.size()) == to.layout.shape.elements(),
            "a source for every element");
    require(std::all_of(stage.elements.begin(), stage.elements.end(),
                        [&](int64_t i) { return i >= -1 && i < size; }),
            "sources are elements of the input, or -1");
    stages_.emplace_back(std::move(stage));
}

// Elements in C order to places in memory, in the output's order: pixel by pixel.
void pack(GatherStage& stage, const Tensor& input, const Tensor& output) {
    const Shape &from = input.layout.shape, &to = output.layout.shape;
    const int64_t size = input.layout.element_bytes();
    const auto element = [&](int64_t pixel, int64_t c) {
        return stage.elements[static_cast<size_t>(c * to.pixels() + pixel)];
    };
    const auto place = [&](int64_t i) {
        if (i < 0) return int32_t{-1};
        const int64_t pixel = i % from.pixels();
        return static_cast<int32_t>(input.layout.offset(pixel / from.width, pixel % from.width) +
                                    i / from.pixels() * size);
    };
    stage.whole = true;  // all channels of a pixel come from one place, or from none
    for (int64_t pixel = 0; pixel < to.pixels() && stage.whole; ++pixel) {
        const int64_t first = element(pixel, 0);
        for (int64_t c = 1; c < to.channels && stage.whole; ++c) {
            const int64_t next = element(pixel, c);
            stage.whole = first < 0 ? next < 0 : next == first + c * from.pixels();
        }
    }
    for (int64_t pixel = 0; pixel < to.pixels(); ++pixel) {
        for (int64_t c = 0; c < (stage.whole ? 1 : to.channels); ++c) {
            stage.source.push_back(place(element(pixel, c)));
        }
    }
    std::vector<int64_t>().swap(stage.elements);
}

View Graph::view(const Workspace& workspace, int id) const {
    const Tensor& t = tensor(id);
    return {memory(workspace, id), t.layout, t.factor, t.zero};
}

PixelRange Graph::pixels(int output, int64_t images, Part part) const {
    const auto [begin, end] = part.of(tensor(output).layout.shape.pixels(), 1);
    return {images, begin, end};
}

// One image is shared by pixels, or by tiles of channels where pixels are few.
void Graph::run(const WideProductStage& stage, const Workspace& workspace, int64_t images,
                Part part) const {
    const int64_t group_outputs = stage.channels / stage.groups;
    const int64_t tiles = stage.groups * ceil_div(group_outputs, kLanes);
    const int64_t count = tensor(stage.output).layout.shape.pixels();
    const bool by_pixels = count >= part.count;
    const auto [tile, end_tile] = by_pixels ? std::pair{int64_t{0}, tiles} : part.of(tiles, 1);
    kernels_.wide.product(
        {view(workspace, stage.input), view(workspace, stage.output), stage.window,
         by_pixels ? pixels(stage.output, images, part) : PixelRange{images, 0, count}, tile,
         end_tile, tensor(stage.input).layout.shape.channels / stage.groups, group_outputs,
         stage.wide_weights, tensor(stage.output).layout.element == Element::longs,
         stage.weights.data()});
}

void Graph::run(const WideAffineStage& stage, const Workspace& workspace, int64_t images,
                Part part) const {
    View inputs[kTerms];
    for (size_t i = 0; i < stage.inputs.size(); ++i) inputs[i] = view(workspace, stage.inputs[i]);
    kernels_.wide.affine({inputs, static_cast<int64_t>(stage.inputs.size()),
                          view(workspace, stage.output), stage.first_channel, stage.channels,
                          pixels(stage.output, images, part), stage.multiplier.data(),
                          stage.offset.data(), stage.shift, stage.rounding, stage.low, stage.high});
}

void Graph::run(const WideStepsStage& stage, const Workspace& workspace, int64_t images,
                Part part) const {
    kernels_.wide.steps({view(workspace, stage.input), view(workspace, stage.output),
                         pixels(stage.output, images, part), stage.limits.data(),
                         static_cast<int64_t>(stage.levels.size()) - 1, stage.direction.data(),
                         stage.levels.data()});
}

void Graph::run(const WideTableStage& stage, const Workspace& workspace, int64_t images,
                Part part) const {
    kernels_.wide.table({view(workspace, stage.input), view(workspace, stage.output),
                         pixels(stage.output, images, part), stage.first, stage.count, stage.rows,
                         reinterpret_cast<const std::byte*>(stage.entries.data())});
}

void Graph::run(const WidePoolStage& stage, const Workspace& workspace, int64_t images,
                Part part) const {
    kernels_.wide.pool({view(workspace, stage.input), view(workspace, stage.output), stage.window,
                        pixels(stage.output, images, part), stage.sum});
}

void Graph::run(const GatherStage& stage, const Workspace& workspace, int64_t images,
                Part part) const {
    kernels_.wide.gather({view(workspace, stage.input), view(workspace, stage.output),
                          pixels(stage.output, images, part), stage.source.data(), stage.whole});
}

}  // namespace bitwright
