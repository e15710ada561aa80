// Products of activations and packed weights, and the two operators that go with them: quantising
// activations and reading rows of a packed table.
//
// Every output is computed alone, in one order whatever the number of rows: per group of 32, in
// ascending K, s = exact integer dot product of codes, acc = fma(activation scale, D * s, acc), and
// with offsets acc = fma(offset, sum, acc); the bias comes last.
#include <algorithm>

#include "kernels.h"
#include "quantised.h"
#include "unpack.h"

namespace zonda::ZONDA_VARIANT {

namespace {

// Rows that one pass over a weight multiplies: their sums and activations stay in the caches.
constexpr int64_t MAX_ROWS = 64;
// Up to so many rows are held in registers while the weight streams by.
constexpr int64_t FEW_ROWS = 4;
// Tiles that share the broadcast of an activation.
constexpr int MAX_TILES = HAS_VECTORS ? 2 : 1;
// Bytes that are asked for ahead of their use; dense tiles are read two at a time.
constexpr int64_t AHEAD = 12288;
constexpr int64_t DENSE_AHEAD = 4096;

struct Linear {
    const uint8_t* x;
    const uint8_t* weight;
    const float* bias;
    float* out;
    int64_t K, N, out_stride;
};

constexpr int log2_of(int x) { return x <= 1 ? 0 : 1 + log2_of(x / 2); }

// What one tile has for one group of 32.
template <int FORMAT>
struct GroupWeights {
    static constexpr Format F = FORMATS[FORMAT];
    static constexpr int HALVES = F.sub_block == 16 ? 2 : 1;
    static constexpr int HALF_WORDS = WORDS / HALVES;
    // What `dot` leaves of the zero point.
    static constexpr int ZERO_POINT = is_wide(F) ? F.zero_point - WIDE_BIAS : F.zero_point;
    U8x64 words[WORDS];
    F32x16 scale[HALVES];
    F32x16 offset[HALVES];

    __attribute__((always_inline)) void load(const Scales<FORMAT>& scales, int group) {
        unpack_group<FORMAT>(scales.block + group * group_bytes(F), words);
        for (int half = 0; half < HALVES; half++) {
            const int sub_block = (GROUP * group + 16 * half) / F.sub_block;
            scale[half] = scales.scale(sub_block);
            if constexpr (F.has_offset) offset[half] = scales.offset(sub_block);
        }
    }
};

// One row's activations, by group.
struct Row {
    const int32_t* codes;
    const float* scale;
    const int32_t* minus_sum;
    const float* sum;

    template <int HALVES>
    static __attribute__((always_inline)) Row at(const uint8_t* row, const QuantisedLayout& layout) {
        return {reinterpret_cast<const int32_t*>(row), reinterpret_cast<const float*>(row + layout.scale),
                reinterpret_cast<const int32_t*>(row + (HALVES == 2 ? layout.half_minus_sum : layout.minus_sum)),
                reinterpret_cast<const float*>(row + (HALVES == 2 ? layout.half_sum : layout.sum))};
    }
};

template <int FORMAT>
ZONDA_INLINE F32x16 add_group(F32x16 acc, const GroupWeights<FORMAT>& weights, const Row& row, int64_t group) {
    using Weights = GroupWeights<FORMAT>;
    F32x16 t = zero();
#pragma GCC unroll 2
    for (int half = 0; half < Weights::HALVES; half++) {
        I32x16 s = izero();
        if constexpr (Weights::ZERO_POINT > 0)
            s = shift_left<log2_of(Weights::ZERO_POINT)>(iset1(row.minus_sum[Weights::HALVES * group + half]));
        // Two chains: the latency of one would be felt.
        I32x16 odd = izero();
#pragma GCC unroll 8
        for (int j = half * Weights::HALF_WORDS; j < (half + 1) * Weights::HALF_WORDS; j += 2) {
            const int32_t* codes = row.codes + WORDS * group + j;
            if constexpr (is_wide(Weights::F)) {
                s = dot_wide(s, weights.words[j], codes[0]);
                odd = dot_wide(odd, weights.words[j + 1], codes[1]);
            } else {
                s = dot(s, weights.words[j], codes[0]);
                odd = dot(odd, weights.words[j + 1], codes[1]);
            }
        }
        s = s + odd;
        t = half ? fma(weights.scale[half], to_float(s), t) : weights.scale[half] * to_float(s);
    }
    acc = fma(set1(row.scale[group]), t, acc);
    if constexpr (Weights::F.has_offset)
        for (int half = 0; half < Weights::HALVES; half++)
            acc = fma(weights.offset[half], set1(row.sum[Weights::HALVES * group + half]), acc);
    return acc;
}

ZONDA_INLINE void finish(const Linear& linear, int64_t tile, int64_t row, F32x16 acc) {
    const int64_t column = TILE * tile;
    const int count = int(linear.N - column < TILE ? linear.N - column : TILE);
    if (linear.bias) acc = acc + load_first(linear.bias + column, count);
    store_first(linear.out + row * linear.out_stride + column, acc, count);
}

// Asks for what comes after `group`: a little ahead in the same stream, or where two tiles are read
// side by side, for the same place of the next two.
template <int FORMAT, int NUM_TILES>
ZONDA_INLINE void prefetch_group(const uint8_t* group, int64_t tile_stride) {
    constexpr Format F = FORMATS[FORMAT];
    const uint8_t* next = group + (NUM_TILES == 1 ? AHEAD : NUM_TILES * tile_stride);
    for (int line = 0; line < block_bytes(F) * GROUP / F.block; line += 64) prefetch(next + line);
}

// Tiles first_tile.. of rows first_row..; NUM_ROWS 0: `num_rows` of them.
template <int FORMAT, int NUM_TILES, int NUM_ROWS>
void multiply(const Linear& linear, int64_t first_tile, int64_t first_row, int64_t num_rows) {
    constexpr Format F = FORMATS[FORMAT];
    using Weights = GroupWeights<FORMAT>;
    const QuantisedLayout layout(linear.K);
    const int64_t stride = tile_bytes(F, linear.K);
    const uint8_t* block = linear.weight + first_tile * stride;
    const uint8_t* rows = linear.x + first_row * layout.row_bytes;
    const int64_t count = NUM_ROWS ? NUM_ROWS : num_rows;
    F32x16 acc[NUM_ROWS ? NUM_ROWS : MAX_ROWS][NUM_TILES];
    for (int64_t r = 0; r < count; r++)
        for (int tile = 0; tile < NUM_TILES; tile++) acc[r][tile] = zero();
    int64_t group = 0;
    for (int64_t b = linear.K / F.block; b > 0; b--, block += block_bytes(F)) {
        const Scales<FORMAT> scales[2] = {Scales<FORMAT>(block), Scales<FORMAT>(block + (NUM_TILES - 1) * stride)};
        for (int in_block = 0; in_block < F.block / GROUP; in_block++, group++) {
            Weights weights[NUM_TILES];
            for (int tile = 0; tile < NUM_TILES; tile++) {
                weights[tile].load(scales[tile], in_block);
                prefetch_group<FORMAT, NUM_TILES>(scales[tile].block + in_block * group_bytes(F), stride);
            }
            const uint8_t* bytes = rows;
            for (int64_t r = 0; r < count; r++, bytes += layout.row_bytes) {
                const Row row = Row::at<Weights::HALVES>(bytes, layout);
#pragma GCC unroll 2
                for (int tile = 0; tile < NUM_TILES; tile++)
                    acc[r][tile] = add_group<FORMAT>(acc[r][tile], weights[tile], row, group);
            }
        }
    }
    for (int64_t r = 0; r < count; r++)
        for (int tile = 0; tile < NUM_TILES; tile++) finish(linear, first_tile + tile, first_row + r, acc[r][tile]);
}

template <int FORMAT>
ZONDA_INLINE F32x16 load_dense(const uint8_t* p) {
    if constexpr (FORMAT == PACKED_F32) return load(reinterpret_cast<const float*>(p));
    else if constexpr (FORMAT == PACKED_F16) return load_f16(reinterpret_cast<const uint16_t*>(p));
    else return load_bf16(reinterpret_cast<const uint16_t*>(p));
}

// As `multiply`, of float32 rows and dense weights.
template <int FORMAT, int NUM_TILES, int NUM_ROWS>
void multiply_dense(const Linear& linear, int64_t first_tile, int64_t first_row) {
    constexpr int STEP = block_bytes(FORMATS[FORMAT]);
    const int64_t stride = tile_bytes(FORMATS[FORMAT], linear.K);
    const uint8_t* weight = linear.weight + first_tile * stride;
    const float* x = reinterpret_cast<const float*>(linear.x) + first_row * linear.K;
    F32x16 acc[NUM_ROWS][NUM_TILES];
    for (int r = 0; r < NUM_ROWS; r++)
        for (int tile = 0; tile < NUM_TILES; tile++) acc[r][tile] = zero();
    for (int64_t k = 0; k < linear.K; k++, weight += STEP) {
        F32x16 w[NUM_TILES];
        for (int tile = 0; tile < NUM_TILES; tile++) {
            w[tile] = load_dense<FORMAT>(weight + tile * stride);
            prefetch(weight + tile * stride + DENSE_AHEAD);
        }
        for (int r = 0; r < NUM_ROWS; r++)
            for (int tile = 0; tile < NUM_TILES; tile++)
                acc[r][tile] = fma(w[tile], set1(x[r * linear.K + k]), acc[r][tile]);
    }
    for (int r = 0; r < NUM_ROWS; r++)
        for (int tile = 0; tile < NUM_TILES; tile++) finish(linear, first_tile + tile, first_row + r, acc[r][tile]);
}

template <int FORMAT, int NUM_TILES>
void run_tiles(const Linear& linear, int64_t first_tile, int64_t first_row, int64_t num_rows) {
    if constexpr (is_dense(FORMATS[FORMAT])) {
        int64_t row = first_row, end = first_row + num_rows;
        if constexpr (HAS_VECTORS) {
            for (; end - row >= 8; row += 8) multiply_dense<FORMAT, NUM_TILES, 8>(linear, first_tile, row);
            for (; end - row >= 4; row += 4) multiply_dense<FORMAT, NUM_TILES, 4>(linear, first_tile, row);
            for (; end - row >= 2; row += 2) multiply_dense<FORMAT, NUM_TILES, 2>(linear, first_tile, row);
        }
        for (; row < end; row++) multiply_dense<FORMAT, NUM_TILES, 1>(linear, first_tile, row);
    } else if constexpr (NUM_TILES > 1 || !HAS_VECTORS) {
        multiply<FORMAT, NUM_TILES, 0>(linear, first_tile, first_row, num_rows);
    } else {
        static_assert(FEW_ROWS == 4);
        switch (num_rows) {
            case 1: return multiply<FORMAT, 1, 1>(linear, first_tile, first_row, 1);
            case 2: return multiply<FORMAT, 1, 2>(linear, first_tile, first_row, 2);
            case 3: return multiply<FORMAT, 1, 3>(linear, first_tile, first_row, 3);
            case 4: return multiply<FORMAT, 1, 4>(linear, first_tile, first_row, 4);
            default: return multiply<FORMAT, 1, 0>(linear, first_tile, first_row, num_rows);
        }
    }
}

// One row of a packed weight as float32.
template <int FORMAT>
void read_row(const uint8_t* weight, int64_t row, int64_t columns, float factor, float* out) {
    constexpr Format F = FORMATS[FORMAT];
    const uint8_t* tile = weight + row / TILE * tile_bytes(F, columns);
    const int lane = int(row % TILE);
    float values[TILE];
    if constexpr (is_dense(F)) {
        for (int64_t k = 0; k < columns; k++) {
            store(values, load_dense<FORMAT>(tile + k * block_bytes(F)));
            out[k] = values[lane] * factor;
        }
    } else {
        constexpr int HALVES = GroupWeights<FORMAT>::HALVES;
        for (int64_t group = 0; group < columns / GROUP; group++, out += GROUP) {
            const Scales<FORMAT> scales(tile + group * GROUP / F.block * block_bytes(F));
            GroupWeights<FORMAT> weights;
            weights.load(scales, int(group % (F.block / GROUP)));
            uint8_t codes[WORDS][4 * TILE];
            for (int j = 0; j < WORDS; j++) store_bytes(codes[j], weights.words[j]);
            for (int half = 0; half < HALVES; half++) {
                store(values, weights.scale[half]);
                const float scale = values[lane];
                if constexpr (F.has_offset) store(values, weights.offset[half]);
                for (int k = GROUP / HALVES * half; k < GROUP / HALVES * (half + 1); k++) {
                    float value = float(int(codes[k / 4][4 * lane + k % 4]) - F.zero_point) * scale;
                    if constexpr (F.has_offset) value += values[lane];
                    out[k] = value * factor;
                }
            }
        }
    }
}

struct FormatKernels {
    void (*run_one)(const Linear&, int64_t tile, int64_t first_row, int64_t num_rows);
    void (*run_two)(const Linear&, int64_t tile, int64_t first_row, int64_t num_rows);
    void (*read_row)(const uint8_t* weight, int64_t row, int64_t columns, float factor, float* out);
};

template <int FORMAT>
constexpr FormatKernels kernels_of() {
    return {run_tiles<FORMAT, 1>, run_tiles<FORMAT, MAX_TILES>, read_row<FORMAT>};
}

// In the order of PackedFormat.
constexpr FormatKernels KERNELS[NUM_PACKED_FORMATS] = {
    kernels_of<0>(),  kernels_of<1>(),  kernels_of<2>(),  kernels_of<3>(),  kernels_of<4>(),  kernels_of<5>(),
    kernels_of<6>(),  kernels_of<7>(),  kernels_of<8>(),  kernels_of<9>(),  kernels_of<10>(), kernels_of<11>(),
    kernels_of<12>(), kernels_of<13>(), kernels_of<14>(), kernels_of<15>(), kernels_of<16>(), kernels_of<17>(),
    kernels_of<18>(), kernels_of<19>(), kernels_of<20>(), kernels_of<21>(),
};

// How a product is shared out: blocks of rows, in each of them one tile or two at a time.
struct Shares {
    int64_t num_rows, row_blocks, tiles, tiles_each, per_block;

    Shares(const Op& op, const Batch& batch)
        : num_rows(op.n[3] == ROWS ? batch.num_rows : batch.num_tokens),
          row_blocks((num_rows + MAX_ROWS - 1) / MAX_ROWS),
          tiles(num_tiles(op.n[1])),
          tiles_each(num_rows > FEW_ROWS || is_dense(FORMATS[op.n[2]]) ? MAX_TILES : 1),
          per_block((tiles + tiles_each - 1) / tiles_each) {}

    // Of a block of rows, of which there is one more that ends the last.
    int64_t first_row(int64_t block) const { return num_rows * block / row_blocks; }
};

int64_t linear_units(const Op& op, const Batch& batch) {
    const Shares shares(op, batch);
    return shares.row_blocks * shares.per_block;
}

Linear linear_of(const Op& op) {
    return {static_cast<const uint8_t*>(op.p[0]), static_cast<const uint8_t*>(op.p[1]),
            static_cast<const float*>(op.p[2]),   static_cast<float*>(op.p[3]),
            op.n[0],                              op.n[1],
            op.n[4]};
}

// One share of rows first_row..end_row-1.
void run_share(const Op& op, const Shares& shares, const Linear& linear, int64_t share, int64_t first_row,
               int64_t end_row) {
    const FormatKernels& kernels = KERNELS[op.n[2]];
    const int64_t tile = share * shares.tiles_each;
    const bool is_pair = shares.tiles_each == 2 && tile + 1 < shares.tiles;
    (is_pair ? kernels.run_two : kernels.run_one)(linear, tile, first_row, end_row - first_row);
}

void run_linear(const Op& op, const Batch& batch, int64_t begin, int64_t end, uint8_t*) {
    const Shares shares(op, batch);
    const Linear linear = linear_of(op);
    for (int64_t unit = begin; unit < end; unit++) {
        const int64_t block = unit / shares.per_block;
        run_share(op, shares, linear, unit % shares.per_block, shares.first_row(block), shares.first_row(block + 1));
    }
}

// Which of the rows first_row..end_row-1 need each of `count` shares: a bit a row. `row_bits` reads the
// mask of a row, from its first word on, at a share.
template <class F>
ZONDA_INLINE void find_needs(const Batch& batch, int64_t num_words, int64_t first_row, int64_t end_row, int64_t count,
                             uint64_t* needs, F row_bits) {
    for (int64_t i = 0; i < count; i++) needs[i] = 0;
    for (int64_t row = first_row; row < end_row; row++) {
        const int64_t at = batch.first_row + row;
        const bool is_scored = batch.targets[at] >= 0 || (batch.num_top && batch.num_top[at] >= 0);
        const uint32_t all = is_scored ? ~0u : 0;
        const int32_t* mask = batch.token_bitmask + at * num_words;
        for (int64_t i = 0; i < count; i++) needs[i] |= uint64_t((row_bits(mask, i) | all) != 0) << (row - first_row);
    }
}

// A share of the rows from `first_row` on whose bit is set.
void run_needed(const Op& op, const Shares& shares, const Linear& linear, int64_t share, int64_t first_row,
                uint64_t rows) {
    // A row between two that need the share costs less than reading the weights once more.
    rows |= rows << 1 & rows >> 1;
    for (int64_t row = first_row; rows;) {
        const int skipped = __builtin_ctzll(rows);
        rows >>= skipped;
        const int taken = ~rows ? __builtin_ctzll(~rows) : 64;
        rows = taken < 64 ? rows >> taken : 0;
        run_share(op, shares, linear, share, row + skipped, row + skipped + taken);
        row += skipped + taken;
    }
}

void run_output_logits(const Op& op, const Batch& batch, int64_t begin, int64_t end, uint8_t* scratch) {
    if (!batch.token_bitmask) return run_linear(op, batch, begin, end, scratch);
    static_assert(TILE == 16 && MAX_TILES <= 2 && MAX_ROWS <= 64, "a word of a mask is a pair of tiles");
    constexpr int64_t SHARES_AT_ONCE = 512;
    const Shares shares(op, batch);
    const Linear linear = linear_of(op);
    const int64_t num_words = (op.n[1] + 31) / 32;
    uint64_t needs[SHARES_AT_ONCE];
    for (int64_t unit = begin; unit < end;) {
        const int64_t block = unit / shares.per_block, share = unit % shares.per_block;
        const int64_t first_row = shares.first_row(block), end_row = shares.first_row(block + 1);
        const int64_t count = std::min({end - unit, shares.per_block - share, SHARES_AT_ONCE});
        if (shares.tiles_each == 2)
            find_needs(batch, num_words, first_row, end_row, count, needs,
                       [=](const int32_t* mask, int64_t i) { return uint32_t(mask[share + i]); });
        else
            find_needs(batch, num_words, first_row, end_row, count, needs, [=](const int32_t* mask, int64_t i) {
                return uint32_t(mask[(share + i) / 2]) >> (share + i) % 2 * 16 & 0xFFFF;
            });
        for (int64_t i = 0; i < count; i++) run_needed(op, shares, linear, share + i, first_row, needs[i]);
        unit += count;
    }
}

void run_embed(const Op& op, const Batch& batch, int64_t begin, int64_t end, uint8_t*) {
    for (int64_t token = begin; token < end; token++)
        KERNELS[op.n[1]].read_row(static_cast<const uint8_t*>(op.p[0]), batch.token_ids[token], op.n[0], op.f[0],
                                  static_cast<float*>(op.p[1]) + token * op.n[0]);
}

void quantize_group(F32x16 low, F32x16 high, int64_t group, uint8_t* row, const QuantisedLayout& layout) {
    const float largest = max_lanes(max(abs(low), abs(high)));
    // What is so small that 127 / largest would overflow counts as 0.
    const bool is_zero = !(largest > 1e-36f);
    const float scale = is_zero ? 0.0f : largest / 127.0f;
    const F32x16 inverse = set1(is_zero ? 0.0f : 127.0f / largest);
    const F32x16 bound = set1(127.0f);
    int32_t half_sum[2];
    for (int half = 0; half < 2; half++) {
        // NaN becomes -127 here.
        const F32x16 codes = max(min(round((half ? high : low) * inverse), bound), zero() - bound);
        store_i8(reinterpret_cast<int8_t*>(row) + GROUP * group + 16 * half, codes);
        // Whole numbers: exact in any order.
        half_sum[half] = int32_t(sum_lanes(codes));
        reinterpret_cast<int32_t*>(row + layout.half_minus_sum)[2 * group + half] = -half_sum[half];
        reinterpret_cast<float*>(row + layout.half_sum)[2 * group + half] = scale * float(half_sum[half]);
    }
    const int32_t sum = half_sum[0] + half_sum[1];
    reinterpret_cast<float*>(row + layout.scale)[group] = scale;
    reinterpret_cast<int32_t*>(row + layout.minus_sum)[group] = -sum;
    reinterpret_cast<float*>(row + layout.sum)[group] = scale * float(sum);
}

void quantize_row(const float* x, int64_t K, uint8_t* row, const QuantisedLayout& layout) {
    F32x16 damage = zero();
    for (int64_t group = 0; group < K / GROUP; group++, x += GROUP) {
        const F32x16 low = load(x), high = load(x + 16);
        damage = fma(low, zero(), fma(high, zero(), damage));
        quantize_group(low, high, group, row, layout);
    }
    // 0 times a NaN or an infinity is NaN: then so is every product with the row.
    const float total = sum_lanes(damage);
    float* scales = reinterpret_cast<float*>(row + layout.scale);
    if (total != 0)
        for (int64_t group = 0; group < K / GROUP; group++) scales[group] = total;
}

void run_quantize(const Op& op, const Batch&, int64_t begin, int64_t end, uint8_t*) {
    const int64_t K = op.n[0];
    const QuantisedLayout layout(K);
    for (int64_t row = begin; row < end; row++)
        quantize_row(static_cast<const float*>(op.p[0]) + row * K, K,
                     static_cast<uint8_t*>(op.p[1]) + row * layout.row_bytes, layout);
}

}  // namespace

void add_matmul_kernels(Kernel* table) {
    table[OP_QUANTIZE] = {nullptr, run_quantize, nullptr};
    table[OP_EMBED] = {nullptr, run_embed, nullptr};
    table[OP_LINEAR] = {linear_units, run_linear, nullptr};
    table[OP_OUTPUT_LOGITS] = {linear_units, run_output_logits, nullptr};
}

}  // namespace zonda::ZONDA_VARIANT
