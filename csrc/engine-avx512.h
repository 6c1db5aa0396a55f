// The engine's AVX-512 kernels that fill files of their own.
#pragma once

#include "engine.h"

namespace bitwright {

void dot_8x32_avx512vnni(const DotArgs&);
void dot_signs_8x32_avx512vnni(const DotArgs&);
void depthwise_4x16_avx512vnni(const DotArgs&);
void planes_8x16_avx512vpopcntdq(const PlaneArgs&);

}  // namespace bitwright
