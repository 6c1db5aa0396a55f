// A network as a list of stages, and how it runs: one call for the whole batch.
//
//   input -> product -> [pool ...] -> product -> ... -> product -> output
//
// Built once by one thread; run() is const and may be called by several threads at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <variant>
#include <vector>

#include "dispatch.h"
#include "pack.h"

namespace bitwright {

enum class InputKind { binary, bytes };

// float x -> code: binary +1 if x >= 0 else -1; bytes clip(rint_half_even(x / scale), low, high).
struct Input {
    InputKind kind = InputKind::binary;
    Shape shape;
    float scale = 1.0F;
    int32_t low = -1, high = 1;
    int32_t zero() const { return low < 0 ? 128 : 0; }  // byte of code 0
};

// bit = (OR over the taps inside the image) xor flip.
struct Pool {
    Window window;
    Layout input;
    Layout output;
    std::vector<uint64_t> flips;
};

// y = float(double(acc * multiplier + offset) * 2^-shift), |acc * multiplier + offset| < 2^53.
struct Affine {
    std::vector<int64_t> multipliers, offsets;
    double factor = 1.0;  // 2^-shift
};

// Why a batch cannot run: the first offending element.
struct Fault {
    enum class Kind { none, nan, code } kind = Kind::none;
    int64_t image = 0, element = 0;
};

enum class SampleType { float32, int8, uint8 };

// What one call reads and writes.
struct Batch {
    const void* samples;  // [images][C * H * W]
    SampleType type;
    int64_t images;
    float* output;                   // [images][N * H * W]
    std::span<std::byte*> captures;  // one array per buffer, or none: what trace() returns
};

// The activations of one chunk of images. Margins and unused bits are set once, never written.
struct Workspace {
    int64_t images = 0;
    std::vector<Bytes> buffers;
    Bytes scratch;
};

class Program {
  public:
    explicit Program(const KernelTable& kernels) : kernels_(kernels) {}

    void set_input(const Input& input);
    void add_product(const ProductSpec& spec);
    void add_pool(const Window& window, const uint8_t* flips);
    void finish(const int64_t* multipliers, const int64_t* offsets, int shift);

    Fault run(const Batch& batch, int64_t threads) const;

    const Layout& last() const { return layouts_.back(); }
    const std::vector<Layout>& layouts() const { return layouts_; }
    const Input& input() const { return input_; }
    bool finished() const { return finished_; }

  private:
    using Stage = std::variant<Product, Pool>;

    void require_open() const;
    int64_t chunk_images() const;
    std::unique_ptr<Workspace> borrow(int64_t images) const;
    void give_back(std::unique_ptr<Workspace> workspace) const;
    Fault run_slice(const Batch& batch, int64_t begin, int64_t end) const;
    Fault load(const Batch& batch, int64_t image, Workspace& workspace, int64_t slot) const;
    void run_product(const Product& product, const Bytes& input, Bytes& output,
                     int64_t images) const;
    void run_pool(const Pool& pool, const Bytes& input, Bytes& output, int64_t images) const;
    void write_output(const Bytes& sums, float* output, int64_t images) const;
    void capture(const Batch& batch, const Workspace& workspace, int64_t first,
                 int64_t images) const;

    KernelTable kernels_;
    Input input_;
    std::vector<Stage> stages_;
    std::vector<Layout> layouts_;  // [0] the input, [i + 1] the output of stage i
    Affine affine_;
    bool finished_ = false;
    int64_t chunk_ = 1;
    mutable std::mutex mutex_;
    mutable std::vector<std::unique_ptr<Workspace>> idle_;
};

}  // namespace bitwright
