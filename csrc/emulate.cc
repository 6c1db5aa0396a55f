// Whole tensors through the emulation quantisers: slices on threads, statistics put together.
#include "emulate.h"

#include <algorithm>
#include <exception>
#include <vector>

#if defined(__SSE2__)
#include <xmmintrin.h>
#else
#include <cfenv>
#endif

#include "threads.h"

namespace bitwright {
namespace {

// A thread is worth starting for this many elements: about 100 us of work.
constexpr int64_t kElementsPerThread = int64_t{1} << 18;
// Slices begin at whole blocks of draws and whole vectors.
constexpr int64_t kSliceUnit = 64;
// The kernels count in 32 bits per lane.
constexpr int64_t kElementsPerCall = int64_t{1} << 30;
// Larger outputs would not stay in the caches until they are read; stores that bypass them save
// the reading of each line before it is written, a third of the traffic. In place the line is
// there already.
constexpr int64_t kStreamElements = int64_t{1} << 20;
// Rows shorter than this are taken as scales that change from lane to lane.
constexpr int64_t kShortRow = 64;
constexpr int64_t kPeriod = 256;  // of such scales, at least

// Round to nearest, no flushing of subnormals: whatever the caller's thread has set.
class DefaultFloats {
  public:
    DefaultFloats(const DefaultFloats&) = delete;
    DefaultFloats& operator=(const DefaultFloats&) = delete;
#if defined(__SSE2__)
    DefaultFloats() : before_(_mm_getcsr()) {
        if ((before_ & ~kFlags) != kDefault) _mm_setcsr(kDefault);
    }
    ~DefaultFloats() {
        if ((before_ & ~kFlags) != kDefault) _mm_setcsr(before_);
    }

  private:
    static constexpr unsigned kFlags = 0x3F, kDefault = 0x1F80;
    unsigned before_;
#else
    DefaultFloats() {
        std::fegetenv(&before_);
        std::fesetenv(FE_DFL_ENV);
    }
    ~DefaultFloats() { std::fesetenv(&before_); }

  private:
    std::fenv_t before_;
#endif
};

// work(begin, end, slice) for slices of [0, size), cut at multiples of `unit`. The first error of
// a slice is thrown after all have ended.
template <typename Work>
void in_slices(int64_t size, int64_t unit, int64_t slices, const Work& work) {
    const auto cut = [&](int64_t slice) {
        return slice == slices ? size : size / slices * slice / unit * unit;
    };
    const auto run = [&](int64_t slice) {
        const DefaultFloats floats;
        work(cut(slice), cut(slice + 1), slice);
    };
    if (slices == 1) return run(0);
    std::vector<std::exception_ptr> errors(static_cast<size_t>(slices));
    const auto guarded = [&](int64_t slice) {
        try {
            run(slice);
        } catch (...) {
            errors[static_cast<size_t>(slice)] = std::current_exception();
        }
    };
    {
        Threads others;
        for (int64_t slice = 1; slice < slices; ++slice) others.start(guarded, slice);
        guarded(0);
    }
    for (const std::exception_ptr& error : errors) {
        if (error) std::rethrow_exception(error);
    }
}

int64_t slices_for(int64_t elements, int64_t threads) {
    return std::clamp(threads, int64_t{1}, std::max(int64_t{1}, elements / kElementsPerThread));
}

// A kernel over [0, size) in slices; `max_abs` has one entry per channel.
template <typename Kernel, typename Args>
Counts run_kernel(Kernel kernel, const Args& args, int64_t size, int64_t unit, int64_t per_call,
                  int64_t slices, float* max_abs, int64_t channels) {
    std::fill_n(max_abs, channels, 0.0F);
    const auto others = static_cast<size_t>((slices - 1) * channels);
    std::vector<float> maxima(others);  // of all slices but the first
    std::vector<Counts> counts(static_cast<size_t>(slices));
    in_slices(size, unit, slices, [&](int64_t begin, int64_t end, int64_t slice) {
        Statistics seen{slice == 0 ? max_abs : maxima.data() + (slice - 1) * channels};
        for (int64_t i = begin; i < end; i += per_call) {
            kernel(args, i, std::min(end, i + per_call), seen);
        }
        counts[static_cast<size_t>(slice)] = {seen.over, seen.over_half};
    });
    for (size_t i = 0; i < others; ++i) {
        float& all = max_abs[i % static_cast<size_t>(channels)];
        all = std::max(all, maxima[i]);
    }
    Counts total;
    for (const Counts& slice : counts) {
        total.over += slice.over;
        total.over_half += slice.over_half;
    }
    return total;
}

template <typename T>
std::vector<T> repeated(const T* values, const Layout3& layout, int64_t period) {
    std::vector<T> lanes(static_cast<size_t>(period));
    for (size_t i = 0; i < lanes.size(); ++i) {
        lanes[i] = values[static_cast<int64_t>(i) / layout.inner % layout.channels];
    }
    return lanes;
}

}  // namespace

Counts emulate(const EmulateTable& table, EmulateArgs args, const Layout3& layout, float* max_abs,
               int64_t threads) {
    const DefaultFloats floats;  // also for putting maxima together
    args.size = layout.outer * layout.channels * layout.inner;
    args.channels = layout.channels;
    args.row = layout.channels == 1 ? std::max(args.size, int64_t{1}) : layout.inner;
    args.stream = args.output != args.input && args.size > kStreamElements;
    const int64_t slices = slices_for(args.size, threads);
    const auto run = [&](float* maxima) {
        return run_kernel(table.rows, args, args.size, kSliceUnit, kElementsPerCall, slices, maxima,
                          args.channels);
    };
    const bool is_long = args.size == 0 || layout.channels == 1 || layout.inner >= kShortRow;
    if (is_long || (layout.inner == 1 && layout.channels >= kPeriod)) return run(max_abs);

    // short rows: scales repeated for each element of a period that is a vector or more
    const int64_t turn = layout.channels * layout.inner;
    const int64_t period = turn * ((kPeriod + turn - 1) / turn);
    const std::vector<float> scales = repeated(args.scales, layout, period);
    std::vector<int32_t> zero_points;
    if (args.zero_points) zero_points = repeated(args.zero_points, layout, period);
    args.scales = scales.data();
    args.zero_points = args.zero_points ? zero_points.data() : nullptr;
    args.row = 1;
    args.channels = period;
    std::vector<float> maxima(static_cast<size_t>(period));
    const Counts counts = run(maxima.data());
    std::fill_n(max_abs, layout.channels, 0.0F);
    for (int64_t i = 0; i < period; ++i) {
        float& all = max_abs[i / layout.inner % layout.channels];
        all = std::max(all, maxima[static_cast<size_t>(i)]);
    }
    return counts;
}

Counts emulate_blocks(const EmulateTable& table, BlockArgs args, float* max_abs, int64_t threads) {
    const DefaultFloats floats;
    const int64_t elements = args.outer * args.length * args.inner;
    const int64_t stretches = args.inner == 1 ? 1 : (args.inner + kStretch - 1) / kStretch;
    const int64_t units = args.outer * ((args.length + args.block - 1) / args.block) * stretches;
    const int64_t unit_elements = args.inner == 1 ? args.block : args.block * kStretch;
    args.stream = args.output != args.input && elements > kStreamElements;
    return run_kernel(
        table.blocks, args, units, 1, std::max(int64_t{1}, kElementsPerCall / unit_elements),
        std::min(slices_for(elements, threads), std::max(int64_t{1}, units)), max_abs, 1);
}

void gate(const EmulateTable& table, GateArgs args, const Layout3& layout, int64_t threads) {
    args.size = layout.outer * layout.channels * layout.inner;
    args.channels = layout.channels;
    args.row = layout.channels == 1 ? std::max(args.size, int64_t{1}) : layout.inner;
    in_slices(args.size, kSliceUnit, slices_for(args.size, threads),
              [&](int64_t begin, int64_t end, int64_t) { table.gate(args, begin, end); });
}

void abs_sums(const EmulateTable& table, const float* input, int64_t rows, int64_t columns,
              double* sums, int64_t threads) {
    const int64_t slices =
        std::min(slices_for(rows * columns, threads), std::max(int64_t{1}, rows));
    in_slices(rows, 1, slices, [&](int64_t begin, int64_t end, int64_t) {
        for (int64_t row = begin; row < end; ++row) {
            sums[row] = table.abs_sum(input + row * columns, columns);
        }
    });
}

}  // namespace bitwright
