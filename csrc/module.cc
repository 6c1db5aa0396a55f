// The Python binding. Private: bitwright.kernels checks what users pass and words the errors.
#include <nanobind/nanobind.h>
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

#include "module-emulate.h"
#include "module-graph.h"
#include "program.h"

namespace nb = nanobind;

namespace bitwright {
namespace {

template <typename T>
using Vector = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Matrix = nb::ndarray<const uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Array = nb::ndarray<nb::c_contig, nb::device::cpu>;
using Samples = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;
using Triple = std::array<int64_t, 3>;
using Geometry = std::array<int64_t, 6>;  // kernel, stride, padding; height before width

void require(bool holds, const char* rule) {
    if (!holds) throw std::invalid_argument(rule);
}

template <typename T>
const T* exactly(const Vector<T>& vector, int64_t size) {
    require(static_cast<int64_t>(vector.size()) == size, "one element per channel");
    return vector.data();
}

Window window_of(const Geometry& g) {
    return {g[0], g[1], g[2], g[3], g[4], g[5]};
}

std::tuple<int64_t, int64_t, int64_t> tuple_of(const Shape& shape) {
    return {shape.channels, shape.height, shape.width};
}

std::unique_ptr<Program> make(const std::string& isa) {
    const KernelTable* table = find_table(isa);
    require(table != nullptr, "an instruction set that this machine can execute");
    return std::make_unique<Program>(*table);
}

void set_input(Program& program, const Triple& shape, float scale, int low, int high) {
    require(scale > 0 && low <= high, "a positive scale and low <= high");
    require(low < 0 ? low >= -128 && high <= 127 : high <= 255, "8-bit codes");
    program.set_input({InputKind::bytes, {shape[0], shape[1], shape[2]}, scale, low, high});
}

void set_input_binary(Program& program, const Triple& shape) {
    program.set_input({InputKind::binary, {shape[0], shape[1], shape[2]}});
}

std::tuple<int64_t, int64_t, int64_t> add_product(Program& program, const Matrix& weights,
                                                  const Geometry& geometry,
                                                  const std::optional<Vector<int32_t>>& thresholds,
                                                  const std::optional<Vector<uint8_t>>& flips) {
    require(!program.layouts().empty(), "a program begins with its input");
    const auto channels = static_cast<int64_t>(weights.shape(0));
    const Window window = window_of(geometry);
    const int64_t k = program.last().shape.channels * window.taps();
    require(static_cast<int64_t>(weights.shape(1)) == ceil_div(k, 8), "ceil(K / 8) bytes per row");
    require(thresholds.has_value() == flips.has_value(), "thresholds come with flips");
    program.add_product({weights.data(), channels, window,
                         thresholds ? exactly(*thresholds, channels) : nullptr,
                         flips ? exactly(*flips, channels) : nullptr});
    return tuple_of(program.last().shape);
}

std::tuple<int64_t, int64_t, int64_t> add_pool(Program& program, const Geometry& geometry,
                                               const Vector<uint8_t>& flips) {
    require(!program.layouts().empty(), "a program begins with its input");
    program.add_pool(window_of(geometry), exactly(flips, program.last().shape.channels));
    return tuple_of(program.last().shape);
}

void finish(Program& program, const Vector<int64_t>& multipliers, const Vector<int64_t>& offsets,
            int shift) {
    require(!program.layouts().empty(), "a program begins with its input");
    const int64_t channels = program.last().shape.channels;
    program.finish(exactly(multipliers, channels), exactly(offsets, channels), shift);
}

SampleType sample_type(const Samples& samples, const Input& input) {
    if (samples.dtype() == nb::dtype<float>()) return SampleType::float32;
    const bool is_signed = input.kind == InputKind::binary || input.low < 0;
    if (is_signed && samples.dtype() == nb::dtype<int8_t>()) return SampleType::int8;
    if (!is_signed && samples.dtype() == nb::dtype<uint8_t>()) return SampleType::uint8;
    throw std::invalid_argument("float32 samples, or codes of the input format");
}

// (fault, image, element): 0 none, 1 a NaN, 2 a code outside the input format.
std::tuple<int, int64_t, int64_t> run(const Program& program, const Samples& samples,
                                      const Array& output, int64_t threads,
                                      const std::vector<Array>& captures) {
    require(program.finished(), "the program has no output yet");
    const Input& input = program.input();
    require(samples.ndim() >= 1 && output.ndim() >= 1, "a batch has a first axis");
    const auto images = static_cast<int64_t>(samples.shape(0));
    require(static_cast<int64_t>(samples.size()) == images * input.shape.elements(),
            "samples of the input's shape");
    require(output.dtype() == nb::dtype<float>() &&
                static_cast<int64_t>(output.size()) == images * program.last().shape.elements(),
            "a float32 output of the right size");
    std::vector<std::byte*> targets;
    require(captures.empty() || captures.size() == program.layouts().size(), "all captures");
    for (size_t i = 0; i < captures.size(); ++i) {
        const Layout& layout = program.layouts()[i];
        const int64_t item = layout.element == Element::sums ? 4 : 1;
        require(
            static_cast<int64_t>(captures[i].nbytes()) == images * layout.shape.elements() * item,
            "a capture of the right size");
        targets.push_back(static_cast<std::byte*>(captures[i].data()));
    }
    const Batch batch{samples.data(), sample_type(samples, input), images,
                      static_cast<float*>(output.data()), targets};
    Fault fault;
    {
        const nb::gil_scoped_release released;
        fault = program.run(batch, threads);
    }
    return {static_cast<int>(fault.kind), fault.image, fault.element};
}

std::vector<std::string> isas() {
    std::vector<std::string> names;
    for (const KernelTable& table : available_tables()) names.emplace_back(table.isa);
    return names;
}

nb::dict kernels(const std::string& isa) {
    const KernelTable* table = find_table(isa);
    require(table != nullptr, "an instruction set that this machine can execute");
    nb::dict names;
    names["bgemm_bits"] = table->bgemm_bits.name;
    names["bgemm_sums"] = table->bgemm_sums.name;
    names["gemm_u8s8_bits"] = table->u8s8_bits.name;
    names["gemm_u8s8_sums"] = table->u8s8_sums.name;
    names["quantize"] = table->quantize.name;
    names["sign"] = table->sign.name;
    return names;
}

nb::dict features() {
    nb::dict seen;
    for (const auto& [name, present] : cpu_features()) seen[name.c_str()] = present;
    return seen;
}

}  // namespace
}  // namespace bitwright

NB_MODULE(_native, m) {
    using bitwright::Program;
    m.doc() = "Kernels and the network program; use bitwright.kernels.";
    m.def("isas", &bitwright::isas);
    m.def("kernels", &bitwright::kernels, nb::arg("isa"));
    m.def("cpu_features", &bitwright::features);
    bitwright::bind_emulate(m);
    bitwright::bind_graph(m);
    nb::class_<Program>(m, "Program")
        .def(nb::new_(&bitwright::make), nb::arg("isa"))
        .def("input", &bitwright::set_input, nb::arg("shape"), nb::arg("scale"), nb::arg("low"),
             nb::arg("high"))
        .def("input_binary", &bitwright::set_input_binary, nb::arg("shape"))
        .def("product", &bitwright::add_product, nb::arg("weights").noconvert(),
             nb::arg("geometry"), nb::arg("thresholds").none(), nb::arg("flips").none())
        .def("pool", &bitwright::add_pool, nb::arg("geometry"), nb::arg("flips").noconvert())
        .def("finish", &bitwright::finish, nb::arg("multipliers").noconvert(),
             nb::arg("offsets").noconvert(), nb::arg("shift"))
        .def("run", &bitwright::run, nb::arg("samples").noconvert(), nb::arg("output").noconvert(),
             nb::arg("threads"), nb::arg("captures"));
}
