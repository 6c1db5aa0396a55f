// One instruction set's table: every grid and rounding, instantiated for its vector V.
#pragma once

#include "emulate-blocks.h"

namespace bitwright {
namespace {

template <typename V, Rounding R>
using Saturating = Uniform<V, R, false>;
template <typename V, Rounding R>
using Wrapping = Uniform<V, R, true>;

template <typename V, Rounding R>
using PlainFloating = Floating<V, R, true>;
template <typename V, Rounding R>
using AnyFloating = Floating<V, R, false>;

template <typename V, template <typename, Rounding> typename G, Rounding R>
void run_rows(const EmulateArgs& args, int64_t begin, int64_t end, Statistics& statistics) {
    if (args.row == 1 && args.channels > 1) {
        lanes<V, G<V, R>>(args, begin, end, statistics);
    } else {
        rows<V, G<V, R>>(args, begin, end, statistics);
    }
}

template <typename V, template <typename, Rounding> typename G, Rounding R>
void run_blocks(const BlockArgs& args, int64_t begin, int64_t end, Statistics& statistics) {
    if (args.inner == 1) {
        contiguous_blocks<V, G<V, R>>(args, begin, end, statistics);
    } else {
        strided_blocks<V, G<V, R>>(args, begin, end, statistics);
    }
}

template <typename V, template <typename, Rounding> typename G>
void rows_with(const EmulateArgs& args, int64_t begin, int64_t end, Statistics& statistics) {
    using enum Rounding;
    static constexpr EmulateKernel kKernels[] = {
        run_rows<V, G, nearest_even>, run_rows<V, G, nearest_away>, run_rows<V, G, floor>,
        run_rows<V, G, ceil>,         run_rows<V, G, toward_zero>,  run_rows<V, G, stochastic>};
    kKernels[static_cast<int>(args.rounding)](args, begin, end, statistics);
}

template <typename V, template <typename, Rounding> typename G>
void blocks_with(const BlockArgs& args, int64_t begin, int64_t end, Statistics& statistics) {
    using enum Rounding;
    static constexpr BlockKernel kKernels[] = {
        run_blocks<V, G, nearest_even>, run_blocks<V, G, nearest_away>,
        run_blocks<V, G, floor>,        run_blocks<V, G, ceil>,
        run_blocks<V, G, toward_zero>,  run_blocks<V, G, stochastic>};
    kKernels[static_cast<int>(args.rounding)](args, begin, end, statistics);
}

template <typename V>
void emulate_rows(const EmulateArgs& args, int64_t begin, int64_t end, Statistics& statistics) {
    switch (args.grid.kind) {
        case GridKind::uniform:
            if (args.grid.wrap != 0) return rows_with<V, Wrapping>(args, begin, end, statistics);
            return rows_with<V, Saturating>(args, begin, end, statistics);
        case GridKind::floating:
            if (is_plain(args.grid)) {
                return rows_with<V, PlainFloating>(args, begin, end, statistics);
            }
            return rows_with<V, AnyFloating>(args, begin, end, statistics);
        case GridKind::log2:
            return rows_with<V, Log2>(args, begin, end, statistics);
        case GridKind::logsqrt2:
            return rows_with<V, LogSqrt2>(args, begin, end, statistics);
        case GridKind::sign:
            return rows_with<V, Sign>(args, begin, end, statistics);
    }
}

template <typename V>
void emulate_blocks_of(const BlockArgs& args, int64_t begin, int64_t end, Statistics& statistics) {
    if (args.grid.kind == GridKind::uniform) {
        blocks_with<V, Saturating>(args, begin, end, statistics);
    } else if (is_plain(args.grid)) {
        blocks_with<V, PlainFloating>(args, begin, end, statistics);
    } else {
        blocks_with<V, AnyFloating>(args, begin, end, statistics);
    }
}

template <typename V>
constexpr EmulateTable make_table(const char* isa) {
    return {isa, emulate_rows<V>, emulate_blocks_of<V>, gate_rows<V>, sum_of_magnitudes};
}

}  // namespace
}  // namespace bitwright
