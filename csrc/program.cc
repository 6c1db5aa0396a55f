// Building a program: layouts, packing, the size of a chunk. The Python face checks all that a
// user can get wrong; the checks here keep memory safe.
#include "program.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace bitwright {
namespace {

// What one stage reads and writes should stay in the second-level cache.
constexpr int64_t kChunkBytes = 512 * 1024;
constexpr int64_t kChunkImages = 128;

void require(bool holds, const char* rule) {
    if (!holds) throw std::invalid_argument(rule);
}

void check_window(const Window& window, const Shape& input) {
    require(window.kernel_h > 0 && window.kernel_w > 0, "a kernel has at least one tap");
    require(window.stride_h > 0 && window.stride_w > 0, "strides are positive");
    require(window.padding_h >= 0 && window.padding_w >= 0, "padding is not negative");
    require(window.kernel_h <= input.height + 2 * window.padding_h &&
                window.kernel_w <= input.width + 2 * window.padding_w,
            "the kernel fits into the padded input");
}

// Row offsets are 32-bit byte counts within a group of images.
void check_size(const Layout& layout) {
    require(layout.image_bytes() < INT32_MAX, "an image of activations is too large");
}

}  // namespace

void Program::require_open() const {
    require(!layouts_.empty(), "a program begins with its input");
    require(!finished_, "the program has its output already");
}

void Program::set_input(const Input& input) {
    require(layouts_.empty(), "a program has one input");
    require(input.shape.channels > 0 && input.shape.height > 0 && input.shape.width > 0,
            "a shape is positive");
    input_ = input;
    const Element element = input.kind == InputKind::binary ? Element::bits : Element::bytes;
    layouts_.push_back({element, input.shape});
}

void Program::add_product(const ProductSpec& spec) {
    require_open();
    Layout& input = layouts_.back();
    require(input.element != Element::sums, "a product reads codes");
    require(spec.channels > 0, "a product has at least one channel");
    check_window(spec.window, input.shape);
    input.margin_h = spec.window.padding_h;
    input.margin_w = spec.window.padding_w;
    check_size(input);
    require(input.shape.channels * spec.window.taps() < INT32_MAX / 256, "K is too large");
    stages_.emplace_back(pack_product(spec, input, input_.zero()));
    const Product& product = std::get<Product>(stages_.back());
    layouts_.push_back({product.sums ? Element::sums : Element::bits, product.output});
}

void Program::add_pool(const Window& window, const uint8_t* flips) {
    require_open();
    Layout& input = layouts_.back();
    require(!stages_.empty() && input.element == Element::bits, "a pool reads bits of a threshold");
    check_window(window, input.shape);
    require(2 * window.padding_h <= window.kernel_h && 2 * window.padding_w <= window.kernel_w,
            "a pool's padding is at most half its kernel");
    input.margin_h = window.padding_h;
    input.margin_w = window.padding_w;
    check_size(input);
    const Layout output{Element::bits, window.output(input.shape, input.shape.channels)};
    stages_.emplace_back(Pool{window, input, output, pack_flags(flips, input.shape.channels)});
    layouts_.push_back(output);
}

void Program::finish(const int64_t* multipliers, const int64_t* offsets, int shift) {
    require_open();
    require(layouts_.back().element == Element::sums, "an output follows a product");
    check_size(layouts_.back());
    const int64_t channels = layouts_.back().shape.channels;
    affine_.multipliers.assign(multipliers, multipliers + channels);
    affine_.offsets.assign(offsets, offsets + channels);
    affine_.factor = std::ldexp(1.0, -shift);
    for (size_t i = 0; i < stages_.size(); ++i) {
        const Layout& output = layouts_[i + 1];
        if (auto* product = std::get_if<Product>(&stages_[i])) {
            place(*product, output);
        } else {
            std::get<Pool>(stages_[i]).output = output;
        }
    }
    chunk_ = chunk_images();
    finished_ = true;
}

int64_t Program::chunk_images() const {
    int64_t largest = 1;
    for (size_t i = 0; i < stages_.size(); ++i) {
        largest = std::max(largest, layouts_[i].image_bytes() + layouts_[i + 1].image_bytes());
    }
    return std::clamp(kChunkBytes / largest, int64_t{1}, kChunkImages);
}

std::unique_ptr<Workspace> Program::borrow(int64_t images) const {
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
    for (const Layout& layout : layouts_) {
        const bool bytes = layout.element == Element::bytes;
        const auto fill = static_cast<uint8_t>(bytes ? input_.zero() : 0);
        workspace->buffers.emplace_back(images * layout.image_bytes(), fill);
    }
    workspace->scratch = Bytes(input_.shape.elements());
    return workspace;
}

void Program::give_back(std::unique_ptr<Workspace> workspace) const {
    const std::lock_guard lock(mutex_);
    idle_.push_back(std::move(workspace));
}

}  // namespace bitwright
