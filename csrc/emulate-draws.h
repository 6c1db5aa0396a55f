// Random draws for stochastic rounding: Philox4x32-7 (Salmon et al., SC 2011), several blocks at a
// time, written to a window of 16-bit draws that the loops read from.
#pragma once

#include <cstdint>

#include "emulate.h"

namespace bitwright {
namespace {

template <typename V>
class Draws {
  public:
    explicit Draws(const Random& random)
        : step_(random.step), tail_(random.tail), shift_(16 - random.bits) {
        for (uint32_t round = 0; round < kRounds; ++round) {
            keys_[2 * round] = random.seed + round * 0x9E3779B9U;
            keys_[2 * round + 1] = random.tensor + round * 0xBB67AE85U;
        }
    }

    // R of the elements from `element` on, as floats.
    [[gnu::always_inline]] typename V::F at(int64_t element) {
        if (static_cast<uint64_t>(element - first_) > kWindow - V::kLanes) fill(element);
        return V::to_float(V::load_draws(window_ + (element - first_)));
    }

  private:
    using U = typename V::U;
    static constexpr int64_t kChains = 2;  // independent, so that one hides the other's latency
    static constexpr int64_t kWindow = kChains * 8 * V::kBlocks;
    static constexpr uint32_t kRounds = 7;

    [[gnu::always_inline]] void fill(int64_t element) {
        const uint64_t block = static_cast<uint64_t>(element) / 8;
        first_ = static_cast<int64_t>(block * 8);
        for (int64_t chain = 0; chain < kChains; ++chain) {
            const int64_t skip = chain * V::kBlocks;
            philox(block + static_cast<uint64_t>(skip), window_ + 8 * skip);
        }
    }

    [[gnu::always_inline]] void philox(uint64_t block, uint16_t* window) const {
        const U m0 = V::all_wide(0xD2511F53U), m1 = V::all_wide(0xCD9E8D57U);
        U c0 = V::blocks_from(block), c1 = V::high(c0);
        U c2 = V::all_wide(step_), c3 = V::all_wide(tail_);
        for (uint32_t round = 0; round < kRounds; ++round) {
            // the upper halves of the lanes hold leftovers, which multiply() does not read
            const U p0 = V::multiply(m0, c0), p1 = V::multiply(m1, c2);
            c0 = V::exclusive_or(V::high(p1), c1, V::all_wide(keys_[2 * round]));
            c2 = V::exclusive_or(V::high(p0), c3, V::all_wide(keys_[2 * round + 1]));
            c1 = p1;
            c3 = p0;
        }
        V::store_blocks(window, c0, c1, c2, c3, shift_);
    }

    const uint32_t step_, tail_;
    const int shift_;
    uint64_t keys_[2 * kRounds];
    int64_t first_ = -(int64_t{1} << 62);  // no element is in the window yet
    alignas(64) uint16_t window_[kWindow];
};

}  // namespace
}  // namespace bitwright
