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
    explicit Draws(const Random& random) : tail_(random.tail), shift_(16 - random.bits) {
        const uint64_t product = uint64_t{kM1} * random.step;
        first_high_ = product >> 32;
        first_low_ = product & 0xFFFFFFFFU;
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
    static constexpr int64_t kChains = 4;  // independent, so that one hides the other's latency
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

    // Words 2 and 3 of the counter are the same in every block, and word 1 (the block's upper half)
    // is the same in a whole vector but where it carries: so half of the first round is a constant.
    [[gnu::always_inline]] void philox(uint64_t block, uint16_t* window) const {
        const U m0 = V::all_wide(kM0), m1 = V::all_wide(kM1);
        const U low = V::blocks_from(block), p0 = V::multiply(m0, low);
        U c0 = V::exclusive_or(V::high(low), V::all_wide(first_high_), V::all_wide(keys_[0]));
        U c1 = V::all_wide(first_low_);
        U c2 = V::exclusive_or(V::high(p0), V::all_wide(tail_), V::all_wide(keys_[1]));
        U c3 = p0;
        for (uint32_t round = 1; round < kRounds; ++round) {
            // the upper halves of the lanes hold leftovers, which multiply() does not read
            const U first = V::multiply(m0, c0), second = V::multiply(m1, c2);
            c0 = V::exclusive_or(V::high(second), c1, V::all_wide(keys_[2 * round]));
            c2 = V::exclusive_or(V::high(first), c3, V::all_wide(keys_[2 * round + 1]));
            c1 = second;
            c3 = first;
        }
        V::store_blocks(window, c0, c1, c2, c3, shift_);
    }

    static constexpr uint32_t kM0 = 0xD2511F53U, kM1 = 0xCD9E8D57U;

    const uint32_t tail_;
    uint64_t first_high_, first_low_;  // of kM1 * step
    const int shift_;
    uint64_t keys_[2 * kRounds];
    int64_t first_ = -(int64_t{1} << 62);  // no element is in the window yet
    alignas(64) uint16_t window_[kWindow];
};

}  // namespace
}  // namespace bitwright
