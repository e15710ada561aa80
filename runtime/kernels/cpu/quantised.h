// Rows of activations as matrix products read them: int8 codes with a scale for each 32.
//
// x = scale * code, scale = max |x| / 127. A row of K (a multiple of 32) has six sections, each
// aligned to 64 bytes:
//   int8   code[K]
//   float  scale[K / 32]           0 for a group of zeros; NaN if the row has a NaN or an infinity
//   int32  minus_sum[K / 32]       - sum of the codes
//   float  sum[K / 32]             scale * sum of the codes
//   int32  half_minus_sum[K / 16]  the same for halves of a group
//   float  half_sum[K / 16]
#pragma once

#include <cstddef>
#include <cstdint>

namespace zonda {

constexpr int64_t align64(int64_t bytes) { return (bytes + 63) / 64 * 64; }

struct QuantisedLayout {
    int64_t scale, minus_sum, sum, half_minus_sum, half_sum, row_bytes;

    explicit constexpr QuantisedLayout(int64_t K)
        : scale(align64(K)),
          minus_sum(scale + align64(K / 8)),
          sum(minus_sum + align64(K / 8)),
          half_minus_sum(sum + align64(K / 8)),
          half_sum(half_minus_sum + align64(K / 4)),
          row_bytes(half_sum + align64(K / 4)) {}
};

}  // namespace zonda
