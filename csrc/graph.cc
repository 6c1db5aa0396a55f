// Building a graph: tensors, stages, margins, the plan of memory.
#include "graph.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace bitwright {
namespace {

// What one stage reads and writes should stay in the second-level cache.
constexpr int64_t kChunkBytes = 512 * 1024;
constexpr int64_t kLargeChunkBytes = 8 * kChunkBytes;  // where weights are larger than that
constexpr int64_t kChunkRows = 128;
constexpr int64_t kChunkImages = 256;
constexpr int64_t kAlign = 64;

void check_epilogue(const EpilogueSpec& e, int64_t channels, const Layout& output) {
    const auto size = [](const auto& array) { return static_cast<int64_t>(array.size()); };
    const bool codes = e.kind == Epilogue::Kind::codes, levels = e.kind == Epilogue::Kind::levels;
    const Element element = e.kind == Epilogue::Kind::sums   ? Element::sums
                            : e.kind == Epilogue::Kind::bits ? Element::bits
                                                             : Element::bytes;
    require(output.element == element, "the output holds what the epilogue makes");
    require(element != Element::bits || output.planes == 1, "an epilogue makes one plane of bits");
    if (e.kind == Epilogue::Kind::bits || levels) {
        require(e.count > 0 && size(e.thresholds) == e.count * channels, "thresholds per channel");
    }
    if (e.kind == Epilogue::Kind::bits) require(size(e.flips) == channels, "a flip per channel");
    if (levels) require(size(e.base) == channels && size(e.step) == channels, "levels per channel");
    if (codes) {
        require(size(e.multiplier) == channels && size(e.offset) == channels,
                "M and B per channel");
        require(e.shift >= 0 && e.shift <= 62 && e.low <= e.high,
                "a shift of 0 to 62, low <= high");
    }
}

// Row offsets are 32-bit; the row first, so that the product cannot overflow.
void check_size(const Layout& layout) {
    require(layout.row_bytes() < INT32_MAX && layout.image_bytes() < INT32_MAX,
            "an image of activations takes less than 2^31 bytes");
}

}  // namespace

void require(bool holds, const char* rule) {
    if (!holds) throw std::invalid_argument(rule);
}

void check_window(const Sliding& w, const Shape& input) {
    const int64_t reach_h = w.dilation_h * (w.kernel_h - 1) + 1;
    const int64_t reach_w = w.dilation_w * (w.kernel_w - 1) + 1;
    require(w.kernel_h > 0 && w.kernel_w > 0, "a kernel has at least one tap");
    require(w.stride_h > 0 && w.stride_w > 0, "strides are positive");
    require(w.dilation_h > 0 && w.dilation_w > 0, "dilations are positive");
    require(std::min({w.top, w.left, w.bottom, w.right}) >= 0, "padding is not negative");
    require(std::max({w.top, w.left, w.bottom, w.right, w.kernel_h, w.kernel_w, w.stride_h,
                      w.stride_w, w.dilation_h, w.dilation_w}) <= 1 << 16,
            "windows reach at most 2^16");
    require(reach_h <= input.height + w.top + w.bottom && reach_w <= input.width + w.left + w.right,
            "the kernel fits into the padded input");
}

bool same(const Shape& a, const Shape& b) {
    return a.channels == b.channels && a.height == b.height && a.width == b.width;
}

Shape Sliding::output(const Shape& input, int64_t channels) const {
    return {channels,
            (input.height + top + bottom - dilation_h * (kernel_h - 1) - 1) / stride_h + 1,
            (input.width + left + right - dilation_w * (kernel_w - 1) - 1) / stride_w + 1};
}

const Tensor& Graph::tensor(int id) const {
    require(id >= 0 && static_cast<size_t>(id) < tensors_.size(), "a tensor of this graph");
    return tensors_[static_cast<size_t>(id)];
}

Tensor& Graph::open(int id) {
    require(!finished_, "the graph is finished");
    return const_cast<Tensor&>(tensor(id));
}

int Graph::add_tensor(Element element, const Shape& shape, int64_t planes, int32_t factor,
                      int32_t zero) {
    require(!finished_, "the graph is finished");
    const int64_t most = INT32_MAX;
    require(std::max({shape.channels, shape.height, shape.width}) <= most, "a size below 2^31");
    require(shape.channels > 0 && shape.height > 0 && shape.width > 0, "a shape is positive");
    require(planes >= 1 && planes <= 8, "1 to 8 planes");
    tensors_.push_back({{element, shape, 0, 0, planes}, factor, zero});
    check_size(tensors_.back().layout);
    return static_cast<int>(tensors_.size()) - 1;
}

void Graph::set_input(double scale, bool exact, int64_t low, int64_t high, int64_t zero_point) {
    const Tensor& input = open(0);
    const int64_t most = int64_t{1} << 33;
    require(input.layout.element != Element::bits, "an input of codes");
    require(scale > 0 && low <= high && low > -most && high < most && zero_point > -most &&
                zero_point < most,
            "codes of at most 32 bits");
    require(input.layout.element != Element::bytes ||
                (low + input.zero >= 0 && high + input.zero <= 255),
            "bytes hold the input's codes");
    scale_ = scale;
    exact_ = exact;
    low_ = low;
    high_ = high;
    zero_point_ = zero_point;
}

std::pair<int64_t, int64_t> Graph::input_codes() const {
    return {low_ + zero_point_, high_ + zero_point_};
}

// The stage about to be added reads `inputs` and writes `output`.
void Graph::connect(std::initializer_list<int> inputs, int output) {
    const int stage = static_cast<int>(stages_.size());
    for (const int id : inputs) {
        Tensor& tensor = open(id);
        require(id == 0 || tensor.first_stage >= 0, "a stage reads what an earlier one wrote");
        require(id != output, "a stage does not write what it reads");
        tensor.last_stage = stage;
    }
    Tensor& tensor = open(output);
    require(output != 0, "no stage writes the input");
    if (tensor.first_stage < 0) tensor.first_stage = stage;
    tensor.last_stage = stage;
}

// Margins are symmetric and as large as the largest padding among the readers.
void Graph::need_margin(int id, const Sliding& window) {
    Layout& layout = open(id).layout;
    layout.margin_h = std::max({layout.margin_h, window.top, window.bottom});
    layout.margin_w = std::max({layout.margin_w, window.left, window.right});
    check_size(layout);
}

void Graph::add_dot(int input, int output, const Sliding& window, int64_t channels, int64_t groups,
                    std::vector<int8_t> levels, EpilogueSpec epilogue) {
    connect({input}, output);
    const Layout &from = tensor(input).layout, &to = tensor(output).layout;
    require(from.element == Element::bytes, "a product with int8 weights reads bytes");
    check_window(window, from.shape);
    require(groups > 0 && channels % groups == 0 && from.shape.channels % groups == 0,
            "groups divide the channels");
    const int64_t in_channels = from.shape.channels / groups;
    require(static_cast<int64_t>(levels.size()) == channels * in_channels * window.taps(),
            "one weight per tap");
    require(same(to.shape, window.output(from.shape, channels)),
            "the output has the result's shape");
    check_epilogue(epilogue, channels, to);
    const bool depthwise = groups > 1 && in_channels == 1 && channels == groups;
    require(groups == 1 || depthwise || epilogue.kind != Epilogue::Kind::bits,
            "groups make no bits");
    const bool signs =
        kernels_.dot_signs != nullptr && groups == 1 &&
        std::all_of(levels.begin(), levels.end(), [](int w) { return w == 1 || w == -1; });
    need_margin(input, window);
    stages_.emplace_back(DotStage{input,
                                  output,
                                  window,
                                  channels,
                                  groups,
                                  depthwise,
                                  signs,
                                  std::move(levels),
                                  std::move(epilogue),
                                  {},
                                  0,
                                  {},
                                  {},
                                  {}});
}

void Graph::add_planes(int input, int output, const Sliding& window, int64_t channels,
                       int64_t weight_planes, bool exclusive, bool is_signed,
                       std::vector<int8_t> levels, EpilogueSpec epilogue) {
    connect({input}, output);
    const Layout &from = tensor(input).layout, &to = tensor(output).layout;
    require(from.element == Element::bits, "a product of planes reads bits");
    check_window(window, from.shape);
    require(weight_planes >= 1 && weight_planes <= 8, "1 to 8 planes");
    require(!exclusive || weight_planes == 1, "weights of +-1 have one plane");
    require(static_cast<int64_t>(levels.size()) == channels * from.shape.channels * window.taps(),
            "one weight per tap");
    require(same(to.shape, window.output(from.shape, channels)),
            "the output has the result's shape");
    check_epilogue(epilogue, channels, to);
    need_margin(input, window);
    stages_.emplace_back(PlaneStage{input,
                                    output,
                                    window,
                                    channels,
                                    weight_planes,
                                    exclusive,
                                    is_signed,
                                    std::move(levels),
                                    std::move(epilogue),
                                    false,
                                    {},
                                    0,
                                    {},
                                    {},
                                    {},
                                    {}});
}

void Graph::add_combine(std::vector<int> inputs, int output, int64_t first_channel,
                        int64_t channels, std::vector<std::vector<int64_t>> multipliers,
                        EpilogueSpec epilogue) {
    require(!inputs.empty() && inputs.size() <= 64, "1 to 64 terms");
    for (const int id : inputs) connect({id}, output);
    const Layout& to = tensor(output).layout;
    const Shape expected{channels, to.shape.height, to.shape.width};
    for (const int id : inputs) {
        require(tensor(id).layout.element != Element::bits, "a sum reads bytes or sums");
        require(same(tensor(id).layout.shape, expected), "the terms of a sum have one shape");
    }
    require(first_channel >= 0 && first_channel + channels <= to.shape.channels,
            "a slice of the output's channels");
    Layout slice = to;
    slice.shape = expected;
    check_epilogue(epilogue, channels, slice);
    require(epilogue.kind != Epilogue::Kind::sums, "a sum makes codes");
    require(epilogue.kind != Epilogue::Kind::bits || first_channel == 0, "bits fill all channels");
    CombineStage stage{std::move(inputs), output, first_channel, {}, {}, {}, std::move(epilogue)};
    if (stage.inputs.size() > 1) {
        require(stage.epilogue.kind == Epilogue::Kind::codes, "a sum of several makes codes");
        require(multipliers.size() == stage.inputs.size(), "an M of every term");
        std::vector<std::vector<int64_t>> largest;
        for (const int id : stage.inputs) {
            largest.emplace_back(channels, tensor(id).largest());
        }
        std::vector<Summand> terms;
        for (size_t t = 0; t < multipliers.size(); ++t) {
            require(static_cast<int64_t>(multipliers[t].size()) == channels, "one M per channel");
            terms.push_back({&multipliers[t], &largest[t]});
        }
        stage.epilogue.prove_single(terms);
        for (std::vector<int64_t>& m : multipliers) {
            m.resize(static_cast<size_t>(round_up(channels, kLanes)));
            std::vector<double> scaled;
            for (const int64_t value : m) {
                scaled.push_back(std::ldexp(static_cast<double>(value), -stage.epilogue.shift));
            }
            std::vector<float> single;
            for (const double value : scaled) {
                single.push_back(static_cast<float>(std::ldexp(value, stage.epilogue.single_bits)));
            }
            stage.single_multipliers.push_back(std::move(single));
            stage.scaled_multipliers.push_back(std::move(scaled));
        }
        stage.multipliers = std::move(multipliers);
    }
    stage.epilogue.pad(channels, 1);
    stages_.emplace_back(std::move(stage));
}

void Graph::add_pool(int input, int output, const Sliding& window, bool sum,
                     const std::vector<uint8_t>& flips) {
    connect({input}, output);
    const Layout &from = tensor(input).layout, &to = tensor(output).layout;
    check_window(window, from.shape);
    require(window.dilation_h == 1 && window.dilation_w == 1, "a pool is not dilated");
    require(2 * std::max(window.top, window.bottom) <= window.kernel_h &&
                2 * std::max(window.left, window.right) <= window.kernel_w,
            "a pool's padding is at most half its kernel");
    require(from.planes == 1, "a pool reads one plane of bits, bytes or sums");
    require(same(to.shape, window.output(from.shape, from.shape.channels)),
            "the output has the result's shape");
    require(sum ? from.element == Element::bytes && to.element == Element::sums
                : from.element == to.element && tensor(input).zero == tensor(output).zero,
            "a sum of bytes, or a maximum of the same kind");
    PoolStage stage{input, output, window, sum, {}};
    if (from.element == Element::bits) {
        require(static_cast<int64_t>(flips.size()) == from.shape.channels, "a flip per channel");
        stage.flips = pack_flags(flips.data(), from.shape.channels);
    }
    stages_.emplace_back(std::move(stage));
}

void Graph::add_split(int input, int output, int first) {
    connect({input}, output);
    const Layout &from = tensor(input).layout, &to = tensor(output).layout;
    require(from.element == Element::bytes && to.element == Element::bits, "bytes to planes");
    require(same(from.shape, to.shape), "a split keeps the shape");
    require(first >= 0 && first + to.planes <= 8, "planes of a byte");
    stages_.emplace_back(SplitStage{input, output, first});
}

void Graph::finish(int tensor_id, std::vector<int64_t> multipliers, std::vector<int64_t> offsets,
                   int shift) {
    Tensor& last = open(tensor_id);
    const auto channels = static_cast<size_t>(last.layout.shape.channels);
    require(tensor_id == 0 || last.first_stage >= 0, "the output was written by a stage");
    require(multipliers.size() == offsets.size() &&
                (multipliers.empty() || multipliers.size() == channels),
            "M and B per channel");
    last.last_stage = static_cast<int>(stages_.size());
    output_ = tensor_id;
    output_multipliers_.assign(multipliers.begin(), multipliers.end());
    output_offsets_.assign(offsets.begin(), offsets.end());
    factor_ = std::ldexp(1.0, -shift);
    for (Stage& stage : stages_) {
        if (auto* dot = std::get_if<DotStage>(&stage)) {
            pack(*dot, tensors_[static_cast<size_t>(dot->input)],
                 tensors_[static_cast<size_t>(dot->output)]);
        } else if (auto* planes = std::get_if<PlaneStage>(&stage)) {
            pack(*planes, tensors_[static_cast<size_t>(planes->input)],
                 tensors_[static_cast<size_t>(planes->output)]);
        } else if (auto* gather = std::get_if<GatherStage>(&stage)) {
            pack(*gather, tensors_[static_cast<size_t>(gather->input)],
                 tensors_[static_cast<size_t>(gather->output)]);
        }
    }
    plan_memory();
    finished_ = true;
}

// First fit: a tensor takes the lowest place that none of the tensors alive with it holds. Bits
// keep a place of their own, because what lies between and around their channels is zeroed once.
void Graph::plan_memory() {
    struct Held {
        int64_t begin, end;
        int first, last;
    };
    std::vector<Held> held;
    int64_t largest = 1;
    for (Tensor& tensor : tensors_) {
        const int64_t size = round_up(tensor.layout.image_bytes(), kAlign);
        const bool own = tensor.layout.element == Element::bits;
        const int first = own ? -1 : tensor.first_stage;
        const int last = own ? INT32_MAX : tensor.last_stage;
        std::sort(held.begin(), held.end(),
                  [](const Held& a, const Held& b) { return a.begin < b.begin; });
        int64_t at = 0;
        for (const Held& other : held) {
            if (other.last < first || last < other.first) continue;
            if (at + size <= other.begin) break;
            at = std::max(at, other.end);
        }
        tensor.offset = at;
        held.push_back({at, at + size, first, last});
        arena_bytes_ = std::max(arena_bytes_, at + size);
        largest = std::max(largest, 2 * size);
    }
    // Weights that fill a cache by themselves should serve many rows each time they are read.
    int64_t wanted = 1;
    for (const Stage& stage : stages_) {
        const auto rows = [&](const auto& product) {
            if (product.weights.size() > kChunkBytes / 2) {
                wanted = std::max(wanted, ceil_div(kChunkRows, product.places.pixels()));
            }
        };
        if (const auto* dot = std::get_if<DotStage>(&stage)) rows(*dot);
        if (const auto* planes = std::get_if<PlaneStage>(&stage)) rows(*planes);
    }
    chunk_ = std::max(kChunkBytes / largest, std::min(wanted, kLargeChunkBytes / largest));
    chunk_ = std::clamp(chunk_, int64_t{1}, kChunkImages);
}

std::unique_ptr<Graph::Workspace> Graph::borrow(int64_t images) const {
    {
        const std::lock_guard lock(mutex_);
        for (auto& idle : idle_) {
            if (idle->images < images) continue;
            std::swap(idle, idle_.back());
            auto workspace = std::move(idle_.back());
            idle_.pop_back();
            return workspace;
        }
        if (!idle_.empty()) idle_.pop_back();  // too small: the new one takes its place
    }
    auto workspace = std::make_unique<Workspace>();
    workspace->images = images;
    workspace->arena = Bytes(images * arena_bytes_);
    workspace->scratch = Bytes(tensors_.front().layout.shape.elements());
    workspace->row.resize(static_cast<size_t>(tensor(output_).layout.shape.channels));
    return workspace;
}

void Graph::give_back(std::unique_ptr<Workspace> workspace) const {
    const std::lock_guard lock(mutex_);
    idle_.push_back(std::move(workspace));
}

// Concurrent callers have teams of their own; one of another size, or of a parent process, goes.
std::unique_ptr<Team> Graph::borrow_team(int64_t size) const {
    std::unique_ptr<Team> team;
    {
        const std::lock_guard lock(mutex_);
        if (!idle_teams_.empty()) {
            team = std::move(idle_teams_.back());
            idle_teams_.pop_back();
        }
    }
    if (team && team->size() == size && team->alive()) return team;
    return std::make_unique<Team>(size);
}

void Graph::give_back(std::unique_ptr<Team> team) const {
    const std::lock_guard lock(mutex_);
    idle_teams_.push_back(std::move(team));
}

}  // namespace bitwright
