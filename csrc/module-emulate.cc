// The binding of the emulation quantisers: addresses come as integers, which costs a tenth of what
// arrays cost. bitwright.kernels.quantize checks what it passes on.
#include "module-emulate.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "dispatch.h"
#include "emulate.h"

namespace nb = nanobind;

namespace bitwright {
namespace {

template <typename T>
T* pointer(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

void require(bool holds, const char* rule) {
    if (!holds) throw std::invalid_argument(rule);
}

const EmulateTable& table_of(const char* isa) {
    const EmulateTable* table = find_emulate_table(isa);
    require(table != nullptr, "an instruction set that this machine can execute");
    return *table;
}

Rounding rounding_of(int code) {
    require(code >= 0 && code <= static_cast<int>(Rounding::stochastic), "a rounding");
    return static_cast<Rounding>(code);
}

Layout3 layout_of(int64_t outer, int64_t channels, int64_t inner) {
    require(outer >= 0 && channels > 0 && inner >= 0, "sizes are not negative, channels positive");
    return {outer, channels, inner};
}

void write(uintptr_t address, const Counts& counts) {
    if (address == 0) return;
    pointer<int64_t>(address)[0] = counts.over;
    pointer<int64_t>(address)[1] = counts.over_half;
}

Random random_of(uint32_t seed, uint32_t tensor, uint32_t step, uint32_t tail, int bits) {
    require(bits >= 1 && bits <= 16, "1 to 16 random bits");
    return {seed, tensor, step, tail, bits};
}

// Packed by bitwright.kernels.quantize.Grid, which also checks more.
Grid grid_of(const nb::bytes& packed) {
    Grid grid;
    require(packed.size() == sizeof grid, "a packed grid");
    std::memcpy(&grid, packed.data(), sizeof grid);
    require(grid.kind >= GridKind::uniform && grid.kind <= GridKind::sign, "a kind of grid");
    require(grid.mantissa_bits >= 0 && grid.mantissa_bits <= 23 && grid.emin >= -127 &&
                grid.emin <= 127 && grid.emin - grid.mantissa_bits >= -149,
            "a floating grid within float32");
    require(grid.fields >= 1 && grid.fields <= (grid.kind == GridKind::log2 ? 128 : 256),
            "a logarithmic grid within float32");
    return grid;
}

void quantize(const char* isa, uintptr_t input, uintptr_t output, int64_t outer, int64_t channels,
              int64_t inner, uintptr_t scales, uintptr_t zero_points, const nb::bytes& grid,
              int rounding, uint32_t seed, uint32_t tensor, uint32_t step, uint32_t tail,
              int random_bits, bool scaled, uintptr_t max_abs, uintptr_t counts, int64_t threads) {
    const EmulateTable& table = table_of(isa);
    const Layout3 layout = layout_of(outer, channels, inner);
    EmulateArgs args{};
    args.input = pointer<const float>(input);
    args.output = pointer<float>(output);
    args.scales = pointer<const float>(scales);
    args.zero_points = pointer<const int32_t>(zero_points);
    args.grid = grid_of(grid);
    args.rounding = rounding_of(rounding);
    args.random = random_of(seed, tensor, step, tail, random_bits);
    args.scaled = scaled;
    const nb::gil_scoped_release released;
    std::vector<float> unwanted(max_abs == 0 ? static_cast<size_t>(channels) : 0);
    float* maxima = max_abs == 0 ? unwanted.data() : pointer<float>(max_abs);
    write(counts, emulate(table, args, layout, maxima, threads));
}

void quantize_blocks(const char* isa, uintptr_t input, uintptr_t output, int64_t outer,
                     int64_t length, int64_t inner, int64_t block, float global, float unit,
                     int rule, float elem_max, int elem_bits, int smin, int smax,
                     const nb::bytes& scale_grid, uintptr_t block_scales, const nb::bytes& grid, int rounding,
                     uint32_t seed, uint32_t tensor, uint32_t step, uint32_t tail, int random_bits,
                     bool scaled, uintptr_t max_abs, uintptr_t counts, int64_t threads) {
    const EmulateTable& table = table_of(isa);
    require(outer >= 0 && length >= 0 && inner >= 0, "sizes are not negative");
    require(block > 0, "a block has at least one element");
    require(rule >= 0 && rule <= static_cast<int>(ScaleRule::divide), "a rule for block scales");
    require(elem_bits >= 0 && elem_bits <= 22, "0 to 22 mantissa bits");
    require(smin >= -149 && smin <= smax && smax <= 127, "exponents of float32");
    BlockArgs args{};
    args.input = pointer<const float>(input);
    args.output = pointer<float>(output);
    args.outer = outer;
    args.length = length;
    args.inner = inner;
    args.block = block;
    args.global = global;
    args.unit = unit;
    args.rule = static_cast<ScaleRule>(rule);
    args.elem_max = elem_max;
    args.elem_bits = elem_bits;
    args.smin = smin;
    args.smax = smax;
    args.scale_grid = grid_of(scale_grid);
    args.block_scales = pointer<float>(block_scales);
    args.grid = grid_of(grid);
    require((args.grid.kind == GridKind::uniform && args.grid.wrap == 0) ||
                args.grid.kind == GridKind::floating,
            "a saturating uniform or a floating grid");
    args.rounding = rounding_of(rounding);
    args.random = random_of(seed, tensor, step, tail, random_bits);
    args.scaled = scaled;
    const nb::gil_scoped_release released;
    float unwanted = 0.0F;
    float* maximum = max_abs == 0 ? &unwanted : pointer<float>(max_abs);
    write(counts, emulate_blocks(table, args, maximum, threads));
}

void gate_of(const char* isa, uintptr_t input, uintptr_t gradient, uintptr_t output, int64_t outer,
             int64_t channels, int64_t inner, uintptr_t scales, uintptr_t zero_points, float low,
             float high, int64_t threads) {
    const EmulateTable& table = table_of(isa);
    const Layout3 layout = layout_of(outer, channels, inner);
    GateArgs args{};
    args.input = pointer<const float>(input);
    args.gradient = pointer<const float>(gradient);
    args.output = pointer<float>(output);
    args.scales = pointer<const float>(scales);
    args.zero_points = pointer<const int32_t>(zero_points);
    args.low = low;
    args.high = high;
    const nb::gil_scoped_release released;
    gate(table, args, layout, threads);
}

void row_abs_sum(const char* isa, uintptr_t input, int64_t rows, int64_t columns, uintptr_t sums,
                 int64_t threads) {
    const EmulateTable& table = table_of(isa);
    require(rows >= 0 && columns >= 0, "sizes are not negative");
    const nb::gil_scoped_release released;
    abs_sums(table, pointer<const float>(input), rows, columns, pointer<double>(sums), threads);
}

std::vector<std::string> quantize_isas() {
    std::vector<std::string> names;
    for (const EmulateTable& table : available_emulate_tables()) names.emplace_back(table.isa);
    return names;
}

}  // namespace

void bind_emulate(nb::module_& m) {
    m.def("quantize_isas", quantize_isas);
    m.def("quantize", quantize);
    m.def("quantize_blocks", quantize_blocks);
    m.def("gate", gate_of);
    m.def("row_abs_sum", row_abs_sum);
}

}  // namespace bitwright
