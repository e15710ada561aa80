// The inside of a KV page: 16 tokens of one layer, the 16 slots as lanes of the keys.
//
// A page is G heads, one after the other; a head is
//   bf16: keys [D][16], values [16][W]
//   int8: keys, spread (`maths.h`), [ceil(D / 4)][16][4] bytes with 128 added, float scales [16] of the keys,
//         values [16][W] int8, float scales [16] of the values; a scale per token and head
// where W is D rounded up to whole vectors. Fresh pages are all zeros.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels.h"

namespace zonda {

constexpr int64_t KEY_OFFSET = 128;  // added to int8 keys, as products take one unsigned factor

static inline int64_t round_up(int64_t value, int64_t unit) {
    return (value + unit - 1) / unit * unit;
}

struct KvLayout {
    int64_t width;         // W
    int64_t key_scales;    // byte offsets in a head; the keys stand at 0
    int64_t values;
    int64_t value_scales;
    int64_t head_bytes;
    int64_t page_bytes;
};

static inline KvLayout kv_layout(int64_t kv_type, int64_t num_kv_heads, int64_t head_dim) {
    int64_t width = round_up(head_dim, PAGE_SIZE), scales = PAGE_SIZE * int64_t(sizeof(float));
    if (kv_type == KV_BF16) {
        int64_t keys = round_up(head_dim * PAGE_SIZE * 2, 64), head = keys + PAGE_SIZE * width * 2;
        return {width, keys, keys, head, head, head * num_kv_heads};
    }
    int64_t keys = round_up(head_dim, 4) * PAGE_SIZE, values = keys + scales;
    int64_t value_scales = values + PAGE_SIZE * width, head = value_scales + scales;
    return {width, keys, values, value_scales, head, head * num_kv_heads};
}

}  // namespace zonda
