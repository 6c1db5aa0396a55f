// The int8 product with SDOT (ARMv8.2): four taps of four channels in one instruction.
#include "engine-neon.h"

namespace bitwright {
namespace {

struct Dots {
    using Sum = int32x4_t;
    static Sum add(Sum acc, int8x16_t w, int8x16_t a) { return vdotq_s32(acc, w, a); }
    static int32x4_t total(Sum acc) { return acc; }
};

}  // namespace

void dot_4x16_neondot(const DotArgs& args) {
    dot_neon<Dots, 4>(args);
}

}  // namespace bitwright
