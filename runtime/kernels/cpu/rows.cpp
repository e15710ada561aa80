// Operators that work on each row for itself: norms, activations, rotary embedding, KV write.
#include "kernels.h"
#include "kv_pages.h"
#include "maths.h"

namespace zonda::ZONDA_VARIANT {

namespace {

ZONDA_INLINE float* row_of(const Op& op, int operand, int64_t row, int64_t width) {
    return static_cast<float*>(op.p[operand]) + row * width;
}

// out[i] = f(i, count) for `count` lanes from i on, LANES of them except at the end.
template <class F>
ZONDA_INLINE void map(float* out, int64_t size, F f) {
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) store(out + i, f(i, LANES));
    if (i < size) store_first(out + i, f(i, int(size - i)), int(size - i));
}

void gather(const Op& op, const Batch& batch, int64_t begin, int64_t end, uint8_t*) {
    const int64_t* indices[] = {
        batch.token_ids, batch.positions, batch.logits_rows + batch.first_row};
    const int64_t width = op.n[0], *rows = indices[op.n[1]];
    for (int64_t i = begin; i < end; i++)
        memcpy(row_of(op, 1, i, width), row_of(op, 0, rows[i], width), size_t(width) * 4);
}

// 1 / sqrt(mean(x**2) + eps). Four accumulators, whatever the size.
ZONDA_INLINE float inverse_root_mean_square(const float* x, int64_t size, float eps) {
    F32x16 sums[4] = {zero(), zero(), zero(), zero()};
    for (int64_t start = 0; start < size; start += 4 * LANES)
        for (int j = 0; j < 4; j++) {
            const int64_t i = start + j * LANES;
            if (i >= size) break;
            F32x16 value = load_first(x + i, lanes_left(size, i));
            sums[j] = fma(value, value, sums[j]);
        }
    const float sum = sum_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]));
    return 1.0f / sqrtf(sum / float(size) + eps);
}

ZONDA_INLINE void norm_row(const float* x, const float* weight, float* out, int64_t size,
                           float eps) {
    const F32x16 factor = set1(inverse_root_mean_square(x, size, eps));
    map(out, size, [=](int64_t i, int n) __attribute__((always_inline)) {
        return load_first(x + i, n) * factor * load_first(weight + i, n);
    });
}

void rms_norm(const Op& op, const Batch&, int64_t begin, int64_t end, uint8_t*) {
    const int64_t size = op.n[0];
    const float* weight = row_of(op, 1, 0, 0);
    for (int64_t i = begin; i < end; i++)
        norm_row(row_of(op, 0, i, size), weight, row_of(op, 2, i, size), size, op.f[0]);
}

void norm_heads(const Op& op, const Batch&, int64_t begin, int64_t end, uint8_t*) {
    const int64_t head_dim = op.n[1], width = op.n[2], normed = op.n[0] * head_dim;
    for (int64_t i = begin; i < end; i++) {
        const float* x = row_of(op, 0, i, width);
        float* out = row_of(op, 2, i, width);
        for (int64_t start = 0; start < normed; start += head_dim)
            norm_row(x + start, row_of(op, 1, 0, 0) + start, out + start, head_dim, op.f[0]);
        memmove(out + normed, x + normed, size_t(width - normed) * sizeof(float));
    }
}

// The rows of element-wise operators are one long row.
void add(const Op& op, const Batch&, int64_t begin, int64_t end, uint8_t*) {
    const float *x = row_of(op, 0, begin, op.n[0]), *y = row_of(op, 1, begin, op.n[0]);
    map(row_of(op, 2, begin, op.n[0]), (end - begin) * op.n[0],
        [=](int64_t i, int n) __attribute__((always_inline)) {
            return load_first(x + i, n) + load_first(y + i, n);
        });
}

void scale(const Op& op, const Batch&, int64_t begin, int64_t end, uint8_t*) {
    const float *x = row_of(op, 0, begin, op.n[0]), factor = op.f[0];
    map(row_of(op, 1, begin, op.n[0]), (end - begin) * op.n[0],
        [=](int64_t i, int n) __attribute__((always_inline)) {
            return load_first(x + i, n) * set1(factor);
        });
}

void cap(const Op& op, const Batch&, int64_t begin, int64_t end, uint8_t*) {
    const float *x = row_of(op, 0, begin, op.n[0]), bound = op.f[0];
    map(row_of(op, 1, begin, op.n[0]), (end - begin) * op.n[0],
        [=](int64_t i, int n) __attribute__((always_inline)) {
            return soft_cap(load_first(x + i, n), bound);
        });
}

template <class F>
ZONDA_INLINE void gate(const Op& op, int64_t begin, int64_t end, F activation) {
    const int64_t size = op.n[0];
    for (int64_t row = begin; row < end; row++) {
        const float* x = row_of(op, 0, row, 2 * size);
        map(row_of(op, 1, row, size), size, [=](int64_t i, int n) __attribute__((always_inline)) {
            return activation(load_first(x + i, n)) * load_first(x + size + i, n);
        });
    }
}

void silu_and_multiply(const Op& op, const Batch&, int64_t begin, int64_t end, uint8_t*) {
    gate(op, begin, end, [](F32x16 x) __attribute__((always_inline)) { return x * sigmoid(x); });
}

// x * (1 + tanh(u)) / 2 is x * sigmoid(2 * u).
void gelu_and_multiply(const Op& op, const Batch&, int64_t begin, int64_t end, uint8_t*) {
    gate(op, begin, end, [](F32x16 x) __attribute__((always_inline)) {
        F32x16 cubic = fma(x * x * x, set1(0.044715f), x);
        return x * sigmoid(cubic * set1(1.5957691216f));  // 2 * sqrt(2 / pi)
    });
}

// A row's angles as the lanes need them: pairs of neighbours have theirs twice, the sine of the
// first one negative.
void spread_angles(const float* cos_sin, int64_t pairs, bool interleaved, float* cos, float* sin) {
    for (int64_t i = 0; i < pairs; i++) {
        const float c = cos_sin[2 * i], s = cos_sin[2 * i + 1];
        if (interleaved) {
            cos[2 * i] = cos[2 * i + 1] = c;
            sin[2 * i] = -s;
            sin[2 * i + 1] = s;
        } else {
            cos[i] = c;
            sin[i] = s;
        }
    }
}

// Turns the leading 2 * pairs numbers of a head and copies the rest.
void rotate(const float* x, const float* cos, const float* sin, float* out, int64_t head_dim,
            int64_t pairs, bool interleaved) {
    if (interleaved) {
        map(out, 2 * pairs, [=](int64_t i, int n) __attribute__((always_inline)) {
            F32x16 turned = load_first(x + i, n);
            return turned * load_first(cos + i, n) + swap_lanes<1>(turned) * load_first(sin + i, n);
        });
    } else {
        map(out, pairs, [=](int64_t i, int n) __attribute__((always_inline)) {
            return load_first(x + i, n) * load_first(cos + i, n) -
                   load_first(x + pairs + i, n) * load_first(sin + i, n);
        });
        map(out + pairs, pairs, [=](int64_t i, int n) __attribute__((always_inline)) {
            return load_first(x + i, n) * load_first(sin + i, n) +
                   load_first(x + pairs + i, n) * load_first(cos + i, n);
        });
    }
    memcpy(out + 2 * pairs, x + 2 * pairs, size_t(head_dim - 2 * pairs) * sizeof(float));
}

void rotate_heads(const Op& op, const Batch&, int64_t begin, int64_t end, uint8_t* scratch) {
    const int64_t H = op.n[0], G = op.n[1], D = op.n[2], pairs = op.n[3];
    float *cos = reinterpret_cast<float*>(scratch), *sin = cos + 2 * pairs;
    for (int64_t row = begin; row < end; row++) {
        spread_angles(row_of(op, 1, row, 2 * pairs), pairs, op.n[4], cos, sin);
        const float* x = row_of(op, 0, row, (H + 2 * G) * D);
        float *q = row_of(op, 2, row, H * D), *k = row_of(op, 3, row, G * D);
        for (int64_t h = 0; h < H; h++) rotate(x + h * D, cos, sin, q + h * D, D, pairs, op.n[4]);
        x += H * D;
        for (int64_t g = 0; g < G; g++) rotate(x + g * D, cos, sin, k + g * D, D, pairs, op.n[4]);
        memcpy(row_of(op, 4, row, G * D), x + G * D, size_t(G * D) * sizeof(float));
    }
}

size_t rotate_heads_scratch(const Op& op) { return size_t(4 * op.n[3]) * sizeof(float); }

void write_bf16(const KvLayout& layout, uint8_t* head, int slot, const float* k, const float* v,
                int64_t D) {
    uint16_t* keys = reinterpret_cast<uint16_t*>(head) + slot;
    uint16_t* values = reinterpret_cast<uint16_t*>(head + layout.values) + slot * layout.width;
    for (int64_t d = 0; d < D; d++) keys[d * PAGE_SIZE] = narrow_bf16(k[d]);
    for (int64_t d = 0; d < D; d += LANES)
        store_bf16(values + d, load_first(v + d, lanes_left(D, d)));
}

void write_int8(const KvLayout& layout, uint8_t* head, int slot, const float* k, const float* v,
                int64_t D, float* scratch) {
    int8_t* bytes = reinterpret_cast<int8_t*>(scratch + D);
    spread(k, D, scratch);
    const float key_scale = quantize(scratch, D, bytes);
    uint8_t* keys = head + 4 * slot;
    for (int64_t d = 0; d < D; d++)
        keys[d / 4 * 4 * PAGE_SIZE + d % 4] = uint8_t(bytes[d] + KEY_OFFSET);
    int8_t* values = reinterpret_cast<int8_t*>(head + layout.values) + slot * layout.width;
    const float value_scale = quantize(v, D, values);
    reinterpret_cast<float*>(head + layout.key_scales)[slot] = key_scale;
    reinterpret_cast<float*>(head + layout.value_scales)[slot] = value_scale;
}

void write_kv(const Op& op, const Batch& batch, int64_t begin, int64_t end, uint8_t* scratch) {
    const int64_t G = op.n[0], D = op.n[1], kv_type = op.n[2];
    const KvLayout layout = kv_layout(kv_type, G, D);
    for (int64_t token = begin; token < end; token++) {
        const int64_t slot = batch.slot_mapping[token];
        uint8_t* page = static_cast<uint8_t*>(op.p[2]) + slot / PAGE_SIZE * layout.page_bytes;
        for (int64_t g = 0; g < G; g++) {
            const float *k = row_of(op, 0, token * G + g, D), *v = row_of(op, 1, token * G + g, D);
            uint8_t* head = page + g * layout.head_bytes;
            if (kv_type == KV_BF16) write_bf16(layout, head, int(slot % PAGE_SIZE), k, v, D);
            else write_int8(layout, head, int(slot % PAGE_SIZE), k, v, D, reinterpret_cast<float*>(scratch));
        }
    }
}

size_t write_kv_scratch(const Op& op) {
    return size_t(op.n[1]) * sizeof(float) + size_t(round_up(op.n[1], LANES));
}

}  // namespace

void add_row_kernels(Kernel* table) {
    table[OP_GATHER].run = gather;
    table[OP_RMS_NORM].run = rms_norm;
    table[OP_ADD].run = add;
    table[OP_SCALE].run = scale;
    table[OP_SOFT_CAP].run = cap;
    table[OP_SILU_AND_MULTIPLY].run = silu_and_multiply;
    table[OP_GELU_AND_MULTIPLY].run = gelu_and_multiply;
    table[OP_NORM_HEADS].run = norm_heads;
    table[OP_ROTATE_HEADS] = {nullptr, rotate_heads, rotate_heads_scratch};
    table[OP_WRITE_KV] = {nullptr, write_kv, write_kv_scratch};
}

}  // namespace zonda::ZONDA_VARIANT
