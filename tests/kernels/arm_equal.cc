// Graphs of every stage on each instruction set of this machine, against the scalar kernels: the
// same levels, element by element. Linked without Python, to run under an emulator of AArch64.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>

#include "dispatch.h"
#include "graph.h"

namespace bitwright {

// The quantisers of emulation are not part of this program.
const EmulateTable kEmulateScalar = {.isa = "scalar"};
const EmulateTable kEmulateNeon = {.isa = "neon"};

namespace {

constexpr int64_t kSizes[] = {1, 2, 3, 5, 7, 13, 15, 16, 17, 31, 32, 33, 63, 64, 65, 67, 129};
constexpr int64_t kSizeCount = sizeof kSizes / sizeof *kSizes;

struct Draw {
    uint64_t state;
    bool
        extreme;  // counts as large as they can be: all inputs high, all weights low, many channels
    int64_t operator()(int64_t low, int64_t high) {
        state = state * 6364136223846793005U + 1442695040888963407U;
        return low + static_cast<int64_t>((state >> 33) % static_cast<uint64_t>(high - low + 1));
    }
    int64_t size() { return kSizes[(*this)(0, kSizeCount - 1)]; }
    template <typename T>
    std::vector<T> draw(int64_t count, int64_t low, int64_t high) {
        std::vector<T> values(static_cast<size_t>(count));
        for (T& value : values) value = static_cast<T>((*this)(low, high));
        return values;
    }
};

using Kind = Epilogue::Kind;

EpilogueSpec epilogue(Draw& random, Kind kind, int64_t channels) {
    EpilogueSpec e;
    e.kind = kind;
    const int64_t reach = random(1, 20000);
    if (kind == Kind::bits || kind == Kind::levels) {
        e.count = kind == Kind::bits ? 1 : random(1, 15);
        e.thresholds = random.draw<int32_t>(e.count * channels, -reach, reach);
        for (int32_t& t : e.thresholds) {
            if (random(0, 20) == 0) t = random(0, 1) == 0 ? INT32_MIN + 2 : INT32_MAX;
        }
    }
    if (kind == Kind::bits) e.flips = random.draw<uint8_t>(channels, 0, 1);
    if (kind == Kind::levels) {
        e.step = random.draw<int32_t>(channels, -1, 1);
        e.base = random.draw<int32_t>(channels, 100, 150);
    }
    if (kind == Kind::codes) {
        e.shift = static_cast<int>(random(0, 1) == 0 ? random(0, 3) : random(1, 30));  // few: ties
        const int64_t most =
            random(0, 1) == 0 ? 3 : std::max(int64_t{1} << e.shift >> 6, int64_t{1});
        e.multiplier = random.draw<int64_t>(channels, -most, most);
        e.offset =
            random.draw<int64_t>(channels, -(int64_t{200} << e.shift), int64_t{200} << e.shift);
        e.rounding = static_cast<Rounding>(random(0, 4));
        e.low = static_cast<int32_t>(random(-128, 0));
        e.high = static_cast<int32_t>(random(1, 127));
    }
    return e;
}

int result(Graph& graph, Kind kind, const Shape& shape) {
    switch (kind) {
        case Kind::sums:
            return graph.add_tensor(Element::sums, shape, 1, 1, 0);
        case Kind::bits:
            return graph.add_tensor(Element::bits, shape, 1, 2, 1);
        default:
            return graph.add_tensor(Element::bytes, shape, 1, 1, 128);
    }
}

Sliding window(Draw& random, const Shape& shape) {
    Sliding w{};
    w.kernel_h = std::min(random(1, 3), shape.height);
    w.kernel_w = std::min(random(1, 3), shape.width);
    w.stride_h = random(1, 2);
    w.stride_w = random(1, 3);
    w.dilation_h = w.dilation_w = 1;
    w.top = random(0, w.kernel_h / 2);
    w.left = random(0, w.kernel_w / 2);
    w.bottom = random(0, w.kernel_h / 2);
    w.right = random(0, w.kernel_w / 2);
    return w;
}

Shape shape(Draw& random) {
    return {random.size(), random(1, 4), random(1, 4)};
}

int bytes_input(Graph& graph, const Shape& shape, int64_t low, int64_t high) {
    const int x = graph.add_tensor(Element::bytes, shape, 1, 1, static_cast<int32_t>(-low));
    graph.set_input(0.75, false, low, high, 0);
    return x;
}

// Each builds the same graph for the same seed, and ends it in a tensor of levels.
int dot(Graph& graph, Draw& random) {
    const Shape from = shape(random);
    const int x = bytes_input(graph, from, -128, 127);
    const Sliding w = window(random, from);
    const bool depthwise = random(0, 2) == 0;
    const int64_t groups = depthwise ? from.channels : 1;
    const int64_t channels = depthwise ? from.channels : random.size();
    const auto kind = static_cast<Kind>(random(0, 3));
    const int y = result(graph, kind, w.output(from, channels));
    graph.add_dot(x, y, w, channels, groups,
                  random.draw<int8_t>(channels * from.channels / groups * w.taps(), -128, 127),
                  epilogue(random, kind, channels));
    return y;
}

// 0 and 1 as -1 and +1.
void signs(const Draw& random, std::vector<int8_t>& levels) {
    for (int8_t& level : levels) {
        level = static_cast<int8_t>(random.extreme ? -1 : 2 * level - 1);
    }
}

int planes(Graph& graph, Draw& random) {
    const Shape from = random.extreme ? Shape{2600, 1, 2} : shape(random);
    const int64_t width = random(1, 3), zero = random(0, 1);
    const int x = bytes_input(graph, from, -zero, (int64_t{1} << width) - 1 - zero);
    const int split = graph.add_tensor(Element::bits, from, width, 1, static_cast<int32_t>(zero));
    graph.add_split(x, split, 0);
    const Sliding w = window(random, from);
    const int64_t channels = random.size(), count = channels * from.channels * w.taps();
    const bool exclusive = random(0, 1) == 0;
    std::vector<int8_t> levels = random.draw<int8_t>(count, exclusive ? 0 : -4, exclusive ? 1 : 3);
    if (exclusive) signs(random, levels);
    const auto kind = static_cast<Kind>(random(0, 3));
    const int y = result(graph, kind, w.output(from, channels));
    graph.add_planes(split, y, w, channels, exclusive ? 1 : 3, exclusive, !exclusive, levels,
                     epilogue(random, kind, channels));
    return y;
}

// Signs times +-1, through a pool of bits.
int binary(Graph& graph, Draw& random) {
    const Shape from = random.extreme ? Shape{2600, 1, 2} : shape(random);
    const int x = graph.add_tensor(Element::bits, from, 1, 2, 1);
    const Sliding w = window(random, from);
    const int64_t channels = random.size();
    std::vector<int8_t> levels = random.draw<int8_t>(channels * from.channels * w.taps(), 0, 1);
    signs(random, levels);
    const auto kind = random(0, 1) == 0 ? Kind::bits : Kind::sums;
    const Shape to = w.output(from, channels);
    const int y = result(graph, kind, to);
    graph.add_planes(x, y, w, channels, 1, true, false, levels, epilogue(random, kind, channels));
    const Sliding pool = window(random, to);
    const int pooled = result(graph, kind, pool.output(to, channels));
    graph.add_pool(y, pooled, pool, false, random.draw<uint8_t>(channels, 0, 1));
    return pooled;
}

// Sums of sums and bytes, and what follows one term alone.
int combine(Graph& graph, Draw& random) {
    const Shape from = shape(random);
    const int x = bytes_input(graph, from, -128, 127);
    const Sliding one{1, 1, 1, 1, 0, 0, 0, 0, 1, 1};
    const int y = result(graph, Kind::sums, from);
    graph.add_dot(x, y, one, from.channels, 1,
                  random.draw<int8_t>(from.channels * from.channels, -128, 127),
                  epilogue(random, Kind::sums, from.channels));
    const bool several = random(0, 1) == 0;
    const auto kind = several ? Kind::codes : static_cast<Kind>(random(1, 3));
    const int z = result(graph, kind, from);
    std::vector<std::vector<int64_t>> m;
    if (several) {
        m.push_back(random.draw<int64_t>(from.channels, -900, 900));
        m.push_back(random.draw<int64_t>(from.channels, -9, 9));
    }
    graph.add_combine(several ? std::vector{x, y} : std::vector{random(0, 1) == 0 ? x : y}, z, 0,
                      from.channels, m, epilogue(random, kind, from.channels));
    return z;
}

int pool(Graph& graph, Draw& random) {
    const Shape from = shape(random);
    const int x = bytes_input(graph, from, -3, 200);
    const Sliding w = window(random, from);
    const bool sum = random(0, 1) == 0;
    const Shape to = w.output(from, from.channels);
    const int y =
        sum ? result(graph, Kind::sums, to) : graph.add_tensor(Element::bytes, to, 1, 1, 3);
    graph.add_pool(x, y, w, sum, {});
    return y;
}

// The wide stages, one after another.
int wide(Graph& graph, Draw& random) {
    const Shape from = shape(random);
    const int x = graph.add_tensor(Element::shorts, from, 1, 1, 0);
    graph.set_input(0.03, false, -2048, 2047, 0);
    const Sliding w = window(random, from);
    const int64_t channels = random.size();
    const Shape to = w.output(from, channels);
    const std::vector<int64_t> levels =
        random.draw<int64_t>(channels * from.channels * w.taps(), -2048, 2047);
    const bool longs = random(0, 1) == 0;
    const int y = graph.add_tensor(longs ? Element::longs : Element::sums, to, 1, 1, 0);
    graph.add_wide_product(x, y, w, channels, 1, levels.data(),
                           static_cast<int64_t>(levels.size()));
    const int z = graph.add_tensor(Element::shorts, to, 1, 1, 0);
    graph.add_wide_affine({{y, y},
                           z,
                           0,
                           channels,
                           random.draw<int64_t>(2 * channels, -99, 99),
                           random.draw<int64_t>(channels, -9999, 9999),
                           static_cast<int>(random(0, 12)),
                           static_cast<Rounding>(random(0, 4)),
                           -32768,
                           32767});
    const int turned = graph.add_tensor(Element::shorts, to, 1, 1, 0);
    std::vector<int64_t> order(static_cast<size_t>(to.elements()));
    std::iota(order.rbegin(), order.rend(), -1);  // backwards, one place empty
    graph.add_gather({z, turned, order});
    const Sliding windowed = window(random, to);
    const int last = graph.add_tensor(Element::longs, windowed.output(to, channels), 1, 1, 0);
    graph.add_wide_pool({turned, last, windowed, random(0, 1) == 0});
    return last;
}

const KernelTable& convert(const char* isa) {
    const KernelTable* table = find_table(isa);
    return table != nullptr ? *table : *find_table("scalar");
}

// The levels of three images, floats.
std::vector<int64_t> run(const EngineTable& table, int (*build)(Graph&, Draw&), uint64_t seed) {
    Draw random{seed, seed % 4 == 0};
    Graph graph(convert(table.isa), table);
    const int last = build(graph, random);
    graph.finish(last, {}, {}, 0);
    const int64_t images = 3;
    std::vector<float> samples(
        static_cast<size_t>(images * graph.tensor(0).layout.shape.elements()));
    for (float& x : samples) {
        x = static_cast<float>(random(random.extreme ? 499 : -500, 500)) / 4.0F;
    }
    std::vector<int64_t> levels(
        static_cast<size_t>(images * graph.tensor(last).layout.shape.elements()));
    const GraphBatch batch{samples.data(), GraphBatch::Type::float32, images, levels.data(), {}};
    if (graph.run(batch, 1).kind != GraphFault::Kind::none) std::abort();
    samples.back() = std::strtof("nan", nullptr);
    if (graph.run(batch, 1).kind != GraphFault::Kind::nan) std::abort();
    return levels;
}

}  // namespace
}  // namespace bitwright

int main(int argc, char** argv) {
    using namespace bitwright;
    const uint64_t seeds = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 100;
    const std::pair<const char*, int (*)(Graph&, Draw&)> cases[] = {
        {"dot", dot},         {"planes", planes}, {"binary", binary},
        {"combine", combine}, {"pool", pool},     {"wide", wide}};
    for (const EngineTable& table : available_engine_tables()) {
        if (std::strcmp(table.isa, "scalar") == 0) continue;
        int64_t compared = 0, nonzero = 0;
        for (const auto& [name, build] : cases) {
            for (uint64_t seed = 0; seed < seeds; ++seed) {
                const auto expected = run(kEngineScalar, build, seed);
                const auto got = run(table, build, seed);
                if (got != expected) {
                    std::printf("%s differs from scalar: %s, seed %llu\n", table.isa, name,
                                static_cast<unsigned long long>(seed));
                    return 1;
                }
                compared += static_cast<int64_t>(got.size());
                for (const int64_t level : got) nonzero += level != 0 ? 1 : 0;
            }
        }
        std::printf("%s %lld levels, %lld not zero\n", table.isa, static_cast<long long>(compared),
                    static_cast<long long>(nonzero));
    }
    return 0;
}
