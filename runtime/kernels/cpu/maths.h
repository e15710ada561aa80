// Functions that several row kernels share, in terms of the vectors of `simd.h`.
#pragma once

#include <cmath>
#include <cstring>

#include "simd.h"

namespace zonda::ZONDA_VARIANT {

// tanh(x), relative error below 3e-7. Cephes' tanhf: a polynomial near 0, where 1 - 2 / (e**2x + 1)
// would cancel.
ZONDA_INLINE F32x16 tanh(F32x16 x) {
    constexpr float NEAR = 0.625f;
    F32x16 far = set1(1.0f) - set1(2.0f) / (exp(x + x) + set1(1.0f));
    F32x16 near = max(min(x, set1(NEAR)), set1(-NEAR));
    F32x16 square = near * near;
    F32x16 y = set1(-5.70498872745e-3f);
    y = fma(y, square, set1(2.06390887954e-2f));
    y = fma(y, square, set1(-5.37397155531e-2f));
    y = fma(y, square, set1(1.33314422036e-1f));
    y = fma(y, square, set1(-3.33332819422e-1f));
    y = fma(y * square, near, near);
    F32x16 size = abs(x);
    return zero_unless_above(far, size, NEAR) + (y - zero_unless_above(y, size, NEAR));
}

// cap * tanh(x / cap)
ZONDA_INLINE F32x16 soft_cap(F32x16 x, float cap) { return tanh(x / set1(cap)) * set1(cap); }

// 1 / (1 + e**-x)
ZONDA_INLINE F32x16 sigmoid(F32x16 x) { return set1(1.0f) / (set1(1.0f) + exp(zero() - x)); }

// One butterfly of lanes that stand DISTANCE apart: a + b in the lower, a - b in the upper.
template <int DISTANCE> ZONDA_INLINE F32x16 butterfly(F32x16 x) {
    constexpr uint32_t LOWER = DISTANCE == 1 ? 0x5555 : DISTANCE == 2 ? 0x3333 : DISTANCE == 4 ? 0x0F0F : 0x00FF;
    F32x16 other = swap_lanes<DISTANCE>(x);
    return pick_lanes(x + other, LOWER, other - x);
}

// Spreads what single numbers of a head hold over its whole: the Walsh-Hadamard transform, which
// leaves products of two heads as they are, of each block of D's largest power of two. Keys with
// few large numbers would lose the rest as int8. D that is no multiple of 16 stays as it is.
// Source: QuaRot, Ashkboos et al., arXiv 2404.00456.
ZONDA_INLINE void spread(const float* x, int64_t D, float* out) {
    if (D % LANES) {
        memcpy(out, x, size_t(D) * sizeof(float));
        return;
    }
    const int64_t block = D & -D;
    const F32x16 factor = set1(1.0f / sqrtf(float(block)));
    for (int64_t d = 0; d < D; d += LANES)
        store(out + d, factor * butterfly<8>(butterfly<4>(butterfly<2>(butterfly<1>(load(x + d))))));
    for (int64_t distance = LANES; distance < block; distance *= 2)
        for (int64_t d = 0; d < D; d += LANES) {
            if (d & distance) continue;
            F32x16 a = load(out + d), b = load(out + d + distance);
            store(out + d, a + b);
            store(out + d + distance, a - b);
        }
}

// Writes x divided by max(abs(x)) / 127 as whole vectors of bytes, and returns that divisor.
ZONDA_INLINE float quantize(const float* x, int64_t size, int8_t* out) {
    F32x16 largest = zero();
    for (int64_t i = 0; i < size; i += LANES)
        largest = max(abs(load_first(x + i, lanes_left(size, i))), largest);
    const float bound = max_lanes(largest);
    // Below 1e-36 the inverse would not be finite.
    const F32x16 inverse = set1(bound > 1e-36f ? 127.0f / bound : 0.0f);
    for (int64_t i = 0; i < size; i += LANES)
        store_i8(out + i, round(load_first(x + i, lanes_left(size, i)) * inverse));
    return bound / 127.0f;
}

}  // namespace zonda::ZONDA_VARIANT
