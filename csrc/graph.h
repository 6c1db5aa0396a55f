// A network as a graph of tensors and stages, and how it runs: one call for the whole batch.
//
// Built once by one thread: tensors, then the stages between them in order, then finish(), which
// packs weights and plans memory. run() is const and may be called by several threads at a time.
// The Python face (kernels/graph.py) checks all that a user can get wrong; the checks here keep
// memory safe.
#pragma once

#include <algorithm>
#include <atomic>
#include <compare>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <span>
#include <utility>
#include <variant>
#include <vector>

#include "dispatch.h"
#include "engine.h"
#include "pack.h"
#include "team.h"

namespace bitwright {

// level = factor * stored - zero: of bytes the byte, of bits the number that the planes spell, of
// sums, shorts and longs the level itself (factor 1, zero 0).
struct Tensor {
    Layout layout;
    int32_t factor = 1, zero = 0;
    // Planned by finish(): bytes per image from the start of the arena, times the images.
    int64_t offset = 0;
    int first_stage = -1, last_stage = -1;
    // No |level| is larger.
    int64_t largest() const {
        if (layout.element == Element::sums) return int64_t{1} << 31;
        const int64_t first = -int64_t{zero}, last = 255 - int64_t{zero};
        return std::max(std::abs(first), std::abs(last));
    }
};

// The taps [y0, y1) x [x0, x1) of a window.
struct Taps {
    int64_t y0 = 0, y1 = 0, x0 = 0, x1 = 0;
    int64_t count() const { return (y1 - y0) * (x1 - x0); }
    auto operator<=>(const Taps&) const = default;
};

// x M of a sum, per channel: M, and the largest |x|.
struct Summand {
    const std::vector<int64_t>*multiplier, *largest;
};

// An epilogue's arrays, one element per channel, until pad() lays them out in tiles.
struct EpilogueSpec {
    using Kind = Epilogue::Kind;
    Kind kind = Kind::sums;
    int64_t count = 1;                        // thresholds per channel
    std::vector<int32_t> thresholds;          // [count][channels]
    std::vector<uint8_t> flips;               // bits
    std::vector<int32_t> base, step;          // levels
    std::vector<int64_t> multiplier, offset;  // codes
    std::vector<double> scaled_multiplier, scaled_offset;
    std::vector<uint16_t> tile_flips;
    int shift = 0;
    Rounding rounding = Rounding::nearest_even;
    int32_t low = 0, high = 0;
    bool single = false;  // float32 serves: with so many bits of fraction, so much added
    int single_bits = 0;
    int32_t single_added = 0;
    std::vector<float> single_multiplier, single_offset;
    int64_t group_channels = 0, group_padded = 0, padded = 0;

    // Lays the arrays out: `groups` groups of channels, each in whole tiles.
    void pad(int64_t channels, int64_t groups);
    // Looks whether float32 gives the codes of a sum of these terms; before pad().
    void prove_single(const std::vector<Summand>& terms);
    // The epilogue of one group.
    Epilogue view(int64_t group, int32_t zero) const;
};

// The output pixels that have the same taps inside the image. Where runs are rows of the kernel,
// the taps outside are left out of the product; otherwise they meet the margin.
struct Segment {
    Taps inside, taken;
    int64_t pixels = 0, before = 0;   // of one image: how many, and how many in earlier segments
    int64_t runs = 0, units = 0;      // of the taken taps
    int64_t input = 0, weights = 0;   // bytes to the first of them
    int64_t constants = 0;            // elements to the segment's constants
    std::vector<int32_t> pixel = {};  // y * width + x, ascending
};

// Where the rows of a group of images read and write (Rows in engine.h): segment by segment, in
// each image by image.
struct Places {
    int64_t group_images = 0, height = 0, width = 0, input_image = 0, output_image = 0;
    int64_t pixels() const { return height * width; }
    std::vector<int32_t> input_offset, output_offset;
    std::vector<Segment> segments;
    int64_t weight_run = 0, weight_tile = 0;  // bytes
};

// Runs of taps: bytes from a row's first tap to each run, and the length of all.
struct Runs {
    int64_t count = 0, units = 0;
    std::vector<int32_t> offset;
    int64_t taps_per_run = 1;  // kernel taps that follow one another in memory
    int64_t tap_stride = 0;    // bytes between them
};

// Product with int8 weights over bytes, grouped, or with one weight per channel (depthwise).
struct DotStage {
    int input, output;
    Sliding window;
    int64_t channels, groups;
    bool depthwise;
    bool signs;                  // every weight is +1 or -1, in whole units of taps
    std::vector<int8_t> levels;  // [channels][C / groups][kernel_h][kernel_w]; released once packed
    EpilogueSpec epilogue;
    Bytes weights;
    int64_t tiles = 0;  // per group
    std::vector<int32_t> constants;
    Runs runs;
    Places places;
};

// Product over planes of bits. The weights are the planes of two's complement, or +-1 (exclusive).
struct PlaneStage {
    int input, output;
    Sliding window;
    int64_t channels, weight_planes;
    bool exclusive, is_signed;
    std::vector<int8_t> levels;
    EpilogueSpec epilogue;
    // Bits times +-1: the kernels of one pair compare the count itself (ProductArgs in kernels.h).
    bool single = false;
    Bytes weights;
    int64_t tiles = 0;
    std::vector<PlanePair> pairs;
    std::vector<int32_t> constants;
    Runs runs;
    Places places;
};

// Pixel by pixel: a sum of tensors through an epilogue, into a slice of the output's channels.
struct CombineStage {
    std::vector<int> inputs;
    int output;
    int64_t first_channel;
    std::vector<std::vector<int64_t>> multipliers;  // of several terms, padded
    std::vector<std::vector<double>> scaled_multipliers;
    std::vector<std::vector<float>> single_multipliers;
    EpilogueSpec epilogue;
};

// The maximum of each window (of bits: their OR, then xor flips), or the sum of its levels.
struct PoolStage {
    int input, output;
    Sliding window;
    bool sum;
    std::vector<uint64_t> flips;
};

struct SplitStage {
    int input, output;
    int first;  // bit of the lowest plane
};

// The stages that run whatever those above do not (engine-wide.h), over tensors of any element.
struct WideProductStage {
    int input, output;
    Sliding window;
    int64_t channels, groups;
    bool wide_weights = false;  // beyond int32: float64
    Bytes weights = {};
};

struct WideAffineStage {
    std::vector<int> inputs;
    int output;
    int64_t first_channel, channels;
    std::vector<int64_t> multiplier, offset;  // [inputs][channels], [channels]
    int shift;
    Rounding rounding;
    int64_t low, high;
};

struct WideStepsStage {
    int input, output;
    std::vector<int64_t> limits;  // [channels][levels - 1]
    std::vector<int8_t> direction;
    std::vector<int64_t> levels;
};

struct WideTableStage {
    int input, output;
    int64_t first, count, rows;
    std::vector<uint8_t> entries;  // [count][rows], as the output stores them
};

struct WidePoolStage {
    int input, output;
    Sliding window;
    bool sum;
};

struct GatherStage {
    int input, output;
    std::vector<int64_t> elements;  // of the output in C order: the input's element, or -1
    bool whole = false;
    std::vector<int32_t> source = {};
};

// Why a batch cannot run: the first offending element.
struct GraphFault {
    enum class Kind { none, nan, code } kind = Kind::none;
    int64_t image = 0, element = 0;
};

struct Capture {
    int tensor;
    int64_t* levels;  // [images][C][H][W]
};

struct GraphBatch {
    enum class Type { float32, int8, uint8, int16, uint16, int32, uint32 };
    const void* samples;  // [images][C * H * W]
    Type type;
    int64_t images;
    void* output;  // [images][N * H * W] float, or int64 levels
    std::span<const Capture> captures;
};

class Graph {
  public:
    Graph(const KernelTable& convert, const EngineTable& kernels)
        : convert_(convert), kernels_(kernels) {}

    // A tensor of the first axis' shape; its id. Tensor 0 is the input.
    int add_tensor(Element element, const Shape& shape, int64_t planes, int32_t factor,
                   int32_t zero);
    // Bytes hold clip(rint_half_even(x / scale), low, high) + zero; codes of samples are levels +
    // zero_point. Bits hold x >= 0. `exact` divides in float64, for codes beyond 24 bits.
    void set_input(double scale, bool exact, int64_t low, int64_t high, int64_t zero_point);
    void add_dot(int input, int output, const Sliding& window, int64_t channels, int64_t groups,
                 std::vector<int8_t> levels, EpilogueSpec epilogue);
    void add_planes(int input, int output, const Sliding& window, int64_t channels,
                    int64_t weight_planes, bool exclusive, bool is_signed,
                    std::vector<int8_t> levels, EpilogueSpec epilogue);
    void add_combine(std::vector<int> inputs, int output, int64_t first_channel, int64_t channels,
                     std::vector<std::vector<int64_t>> multipliers, EpilogueSpec epilogue);
    void add_pool(int input, int output, const Sliding& window, bool sum,
                  const std::vector<uint8_t>& flips);
    void add_split(int input, int output, int first);
    void add_wide_product(int input, int output, const Sliding& window, int64_t channels,
                          int64_t groups, const int64_t* levels, int64_t size);
    void add_wide_affine(WideAffineStage stage);
    void add_wide_steps(WideStepsStage stage);
    void add_wide_table(WideTableStage stage);
    void add_wide_pool(const WidePoolStage& stage);
    void add_gather(GatherStage stage);
    // The output: float((acc M + B) 2^-shift) of a tensor, or its levels where M is empty.
    void finish(int tensor, std::vector<int64_t> multipliers, std::vector<int64_t> offsets,
                int shift);

    GraphFault run(const GraphBatch& batch, int64_t threads) const;

    const Tensor& tensor(int id) const;
    int output_tensor() const { return output_; }
    bool finished() const { return finished_; }
    bool writes_levels() const { return output_multipliers_.empty(); }
    bool binary_input() const { return tensors_.front().layout.element == Element::bits; }
    std::pair<int64_t, int64_t> input_codes() const;
    bool wide_input() const;  // loaded number by number, not by the quantising kernels
    int64_t arena_bytes() const { return arena_bytes_; }  // per image

  private:
    using Stage =
        std::variant<DotStage, PlaneStage, CombineStage, PoolStage, SplitStage, WideProductStage,
                     WideAffineStage, WideStepsStage, WideTableStage, WidePoolStage, GatherStage>;
    struct Workspace {
        int64_t images = 0;
        Bytes arena, scratch;
        mutable std::vector<int64_t> row;  // levels of one pixel of the output
    };
    // A share of a stage: part `index` of `count`.
    struct Part {
        int64_t index = 0, count = 1;
        std::pair<int64_t, int64_t> of(int64_t size, int64_t unit) const;
    };
    // What a part does of a product: all tiles of some pixels, or some tiles of all pixels.
    struct Share {
        std::pair<int64_t, int64_t> pixels, tiles;
    };
    static Share share(const Places& places, int64_t tiles, Part part);

    Tensor& open(int id);
    void connect(std::initializer_list<int> inputs, int output);
    void need_margin(int id, const Sliding& window);
    void plan_memory();
    std::unique_ptr<Workspace> borrow(int64_t images) const;
    void give_back(std::unique_ptr<Workspace> workspace) const;
    std::unique_ptr<Team> borrow_team(int64_t size) const;
    void give_back(std::unique_ptr<Team> team) const;
    std::byte* memory(const Workspace& workspace, int tensor) const;
    void fill_margin(const Workspace& workspace, int tensor, int64_t images, Part part) const;
    GraphFault load(const GraphBatch& batch, int64_t image, Workspace& workspace,
                    int64_t slot) const;
    int64_t chunk_for(int64_t images, int64_t threads) const;
    GraphFault run_chunks(const GraphBatch& batch, int64_t step, std::atomic<int64_t>& next) const;
    GraphFault run_together(const GraphBatch& batch, int64_t threads) const;
    void run_stage(size_t index, const Workspace& workspace, int64_t images, Part part) const;
    void run(const DotStage&, const Workspace&, int64_t images, Part) const;
    void run(const PlaneStage&, const Workspace&, int64_t images, Part) const;
    void run_single(const PlaneStage& stage, const Rows& rows, const Segment& segment,
                    std::pair<int64_t, int64_t> tiles) const;
    void run(const CombineStage&, const Workspace&, int64_t images, Part) const;
    void run(const PoolStage&, const Workspace&, int64_t images, Part) const;
    void run(const SplitStage&, const Workspace&, int64_t images, Part) const;
    void run(const WideProductStage&, const Workspace&, int64_t images, Part) const;
    void run(const WideAffineStage&, const Workspace&, int64_t images, Part) const;
    void run(const WideStepsStage&, const Workspace&, int64_t images, Part) const;
    void run(const WideTableStage&, const Workspace&, int64_t images, Part) const;
    void run(const WidePoolStage&, const Workspace&, int64_t images, Part) const;
    void run(const GatherStage&, const Workspace&, int64_t images, Part) const;
    View view(const Workspace& workspace, int tensor) const;
    PixelRange pixels(int output, int64_t images, Part part) const;
    void pool_bits(const PoolStage&, const std::byte* source, std::byte* target, int64_t begin,
                   int64_t end) const;
    void write_output(const GraphBatch& batch, const Workspace& workspace, int64_t first,
                      int64_t images) const;
    void capture(const GraphBatch& batch, const Workspace& workspace, int stage, int64_t first,
                 int64_t images) const;
    void levels(const Tensor& tensor, const std::byte* image, int64_t y, int64_t x,
                int64_t* out) const;
    GraphFault load_wide(const GraphBatch& batch, int64_t image, std::byte* place) const;

    KernelTable convert_;
    EngineTable kernels_;
    std::vector<Tensor> tensors_;
    std::vector<Stage> stages_;
    double scale_ = 1.0;
    bool exact_ = false;
    int64_t low_ = -1, high_ = 1, zero_point_ = 0;
    int output_ = 0;
    std::vector<double> output_multipliers_, output_offsets_;
    double factor_ = 1.0;
    bool finished_ = false;
    int64_t arena_bytes_ = 0, chunk_ = 1;
    mutable std::mutex mutex_;
    mutable std::vector<std::unique_ptr<Workspace>> idle_;
    mutable std::vector<std::unique_ptr<Team>> idle_teams_;
};

// Packs the weights of a stage and lists its places (graph-pack.cc).
void pack(DotStage& stage, const Tensor& input, const Tensor& output);
void pack(PlaneStage& stage, const Tensor& input, const Tensor& output);
void pack(GatherStage& stage, const Tensor& input, const Tensor& output);  // graph-wide.cc

// Shared by the files that build a graph (graph.cc).
void require(bool holds, const char* rule);
void check_window(const Sliding& window, const Shape& input);
bool same(const Shape& a, const Shape& b);

}  // namespace bitwright
