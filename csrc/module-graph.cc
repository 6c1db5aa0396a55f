// The Python binding of the graph. Private: kernels/graph.py checks what users pass.
#include "module-graph.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>

#include "graph.h"

namespace nb = nanobind;

namespace bitwright {
namespace {

template <typename T>
using Flat = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Array = nb::ndarray<nb::c_contig, nb::device::cpu>;
using Samples = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;
using Geometry = std::array<int64_t, 10>;  // the fields of Sliding

void require(bool holds, const char* rule) {
    if (!holds) throw std::invalid_argument(rule);
}

template <typename T>
std::vector<T> copy(const Flat<T>& array) {
    return {array.data(), array.data() + array.size()};
}

Sliding sliding(const Geometry& g) {
    return {g[0], g[1], g[2], g[3], g[4], g[5], g[6], g[7], g[8], g[9]};
}

// AVX2 has no kernels of its own for one plane of bits, nor for the input.
const KernelTable& binary_table(const std::string& isa) {
    const KernelTable* table = find_table(isa);
    return table != nullptr ? *table : *find_table("scalar");
}

std::unique_ptr<Graph> make(const std::string& isa) {
    const EngineTable* kernels = find_engine_table(isa);
    require(kernels != nullptr, "an instruction set that this machine can execute");
    return std::make_unique<Graph>(binary_table(isa), *kernels);
}

EpilogueSpec bits(const Flat<int32_t>& thresholds, const Flat<uint8_t>& flips) {
    EpilogueSpec e;
    e.kind = Epilogue::Kind::bits;
    e.thresholds = copy(thresholds);
    e.flips = copy(flips);
    return e;
}

EpilogueSpec levels(const Flat<int32_t>& thresholds, const Flat<int32_t>& base,
                    const Flat<int32_t>& step) {
    EpilogueSpec e;
    e.kind = Epilogue::Kind::levels;
    e.thresholds = copy(thresholds);
    e.base = copy(base);
    e.step = copy(step);
    e.count = base.size() == 0 ? 0 : static_cast<int64_t>(thresholds.size() / base.size());
    return e;
}

EpilogueSpec codes(const Flat<int64_t>& multiplier, const Flat<int64_t>& offset, int shift,
                   int rounding, int low, int high) {
    require(rounding >= 0 && rounding <= static_cast<int>(Rounding::toward_zero), "a rounding");
    EpilogueSpec e;
    e.kind = Epilogue::Kind::codes;
    e.multiplier = copy(multiplier);
    e.offset = copy(offset);
    e.shift = shift;
    e.rounding = static_cast<Rounding>(rounding);
    e.low = low;
    e.high = high;
    return e;
}

int add_tensor(Graph& graph, int element, const std::array<int64_t, 3>& shape, int64_t planes,
               int factor, int zero) {
    require(element >= 0 && element <= static_cast<int>(Element::longs), "an element");
    return graph.add_tensor(static_cast<Element>(element), {shape[0], shape[1], shape[2]}, planes,
                            factor, zero);
}

void add_dot(Graph& graph, int input, int output, const Flat<int8_t>& weights, int64_t channels,
             const Geometry& geometry, int64_t groups, const EpilogueSpec& epilogue) {
    graph.add_dot(input, output, sliding(geometry), channels, groups, copy(weights), epilogue);
}

void add_planes(Graph& graph, int input, int output, const Flat<int8_t>& weights, int64_t channels,
                const Geometry& geometry, int64_t planes, bool exclusive, bool is_signed,
                const EpilogueSpec& epilogue) {
    graph.add_planes(input, output, sliding(geometry), channels, planes, exclusive, is_signed,
                     copy(weights), epilogue);
}

void add_combine(Graph& graph, const std::vector<int>& inputs, int output, int64_t first_channel,
                 int64_t channels, const std::vector<std::vector<int64_t>>& multipliers,
                 const EpilogueSpec& epilogue) {
    graph.add_combine(inputs, output, first_channel, channels, multipliers, epilogue);
}

void add_pool(Graph& graph, int input, int output, const Geometry& geometry, bool sum,
              const Flat<uint8_t>& flips) {
    graph.add_pool(input, output, sliding(geometry), sum, copy(flips));
}

void finish(Graph& graph, int tensor, const Flat<int64_t>& multipliers,
            const Flat<int64_t>& offsets, int shift) {
    graph.finish(tensor, copy(multipliers), copy(offsets), shift);
}

void add_wide_product(Graph& graph, int input, int output, const Flat<int64_t>& weights,
                      int64_t channels, const Geometry& geometry, int64_t groups) {
    graph.add_wide_product(input, output, sliding(geometry), channels, groups, weights.data(),
                           static_cast<int64_t>(weights.size()));
}

void add_wide_affine(Graph& graph, const std::vector<int>& inputs, int output,
                     int64_t first_channel, const Flat<int64_t>& multiplier,
                     const Flat<int64_t>& offset, int shift, int rounding, int64_t low,
                     int64_t high) {
    require(rounding >= 0 && rounding <= static_cast<int>(Rounding::toward_zero), "a rounding");
    graph.add_wide_affine({inputs, output, first_channel, static_cast<int64_t>(offset.size()),
                           copy(multiplier), copy(offset), shift, static_cast<Rounding>(rounding),
                           low, high});
}

void add_wide_steps(Graph& graph, int input, int output, const Flat<int64_t>& limits,
                    const Flat<int8_t>& direction, const Flat<int64_t>& levels) {
    graph.add_wide_steps({input, output, copy(limits), copy(direction), copy(levels)});
}

void add_wide_table(Graph& graph, int input, int output, int64_t first, int64_t rows,
                    const Flat<uint8_t>& entries) {
    graph.add_wide_table({input, output, first, 0, rows, copy(entries)});
}

void add_wide_pool(Graph& graph, int input, int output, const Geometry& geometry, bool sum) {
    graph.add_wide_pool({input, output, sliding(geometry), sum});
}

void add_gather(Graph& graph, int input, int output, const Flat<int64_t>& elements) {
    graph.add_gather({input, output, copy(elements)});
}

GraphBatch::Type sample_type(const Graph& graph, const Samples& samples) {
    using Type = GraphBatch::Type;
    const auto is = [&](auto dtype) { return samples.dtype() == dtype; };
    if (is(nb::dtype<float>())) return Type::float32;
    const bool is_signed = graph.binary_input() || graph.input_codes().first < 0;
    if (graph.wide_input()) {
        if (is(nb::dtype<int16_t>())) return Type::int16;
        if (is(nb::dtype<uint16_t>())) return Type::uint16;
        if (is(nb::dtype<int32_t>())) return Type::int32;
        if (is(nb::dtype<uint32_t>())) return Type::uint32;
    }
    if (is_signed && is(nb::dtype<int8_t>())) return Type::int8;
    if (!is_signed && is(nb::dtype<uint8_t>())) return Type::uint8;
    throw std::invalid_argument("float32 samples, or codes of the input format");
}

// (fault, image, element): 0 none, 1 a NaN, 2 a code outside the input format.
std::tuple<int, int64_t, int64_t> run(const Graph& graph, const Samples& samples,
                                      const Array& output, int64_t threads,
                                      const std::vector<std::pair<int, Array>>& captures) {
    require(graph.finished(), "the graph has no output yet");
    require(samples.ndim() >= 1 && output.ndim() >= 1, "a batch has a first axis");
    const auto images = static_cast<int64_t>(samples.shape(0));
    const auto holds = [images](const Array& array, const Tensor& tensor) {
        return static_cast<int64_t>(array.size()) == images * tensor.layout.shape.elements();
    };
    require(
        static_cast<int64_t>(samples.size()) == images * graph.tensor(0).layout.shape.elements(),
        "samples of the input's shape");
    const nb::dlpack::dtype type =
        graph.writes_levels() ? nb::dtype<int64_t>() : nb::dtype<float>();
    require(output.dtype() == type && holds(output, graph.tensor(graph.output_tensor())),
            "an output of the right type and size");
    std::vector<Capture> targets;
    for (const auto& [tensor, array] : captures) {
        require(array.dtype() == nb::dtype<int64_t>() && holds(array, graph.tensor(tensor)),
                "a capture of the right type and size");
        targets.push_back({tensor, static_cast<int64_t*>(array.data())});
    }
    const GraphBatch batch{samples.data(), sample_type(graph, samples), images, output.data(),
                           targets};
    GraphFault fault;
    {
        const nb::gil_scoped_release released;
        fault = graph.run(batch, threads);
    }
    return {static_cast<int>(fault.kind), fault.image, fault.element};
}

std::vector<std::string> isas() {
    std::vector<std::string> names;
    for (const EngineTable& table : available_engine_tables()) names.emplace_back(table.isa);
    return names;
}

// The kernels that an instruction set uses, by operation.
nb::dict kernels(const std::string& isa) {
    const EngineTable* engine = find_engine_table(isa);
    require(engine != nullptr, "an instruction set that this machine can execute");
    const KernelTable& table = binary_table(isa);
    nb::dict names;
    names["dot"] = engine->dot_name;
    names["depthwise"] = engine->depthwise_name;
    names["planes"] = engine->planes_name;
    names["bgemm_bits"] = table.bgemm_bits.name;
    names["bgemm_sums"] = table.bgemm_sums.name;
    names["quantize"] = table.quantize.name;
    names["sign"] = table.sign.name;
    return names;
}

}  // namespace

void bind_graph(nb::module_& m) {
    m.def("isas", &isas);
    m.def("kernels", &kernels, nb::arg("isa"));
    nb::class_<EpilogueSpec>(m, "Epilogue")
        .def_static("sums", [] { return EpilogueSpec{}; })
        .def_static("bits", &bits)
        .def_static("levels", &levels)
        .def_static("codes", &codes);
    nb::class_<Graph>(m, "Graph")
        .def(nb::new_(&make), nb::arg("isa"))
        .def("tensor", &add_tensor)
        .def("input", &Graph::set_input)
        .def("dot", &add_dot)
        .def("planes", &add_planes)
        .def("combine", &add_combine)
        .def("pool", &add_pool)
        .def("split", &Graph::add_split)
        .def("wide_product", &add_wide_product)
        .def("wide_affine", &add_wide_affine)
        .def("wide_steps", &add_wide_steps)
        .def("wide_table", &add_wide_table)
        .def("wide_pool", &add_wide_pool)
        .def("gather", &add_gather)
        .def("finish", &finish)
        .def("arena_bytes", &Graph::arena_bytes)
        .def("run", &run, nb::arg("samples").noconvert(), nb::arg("output").noconvert(),
             nb::arg("threads"), nb::arg("captures"));
}

}  // namespace bitwright
