// Attention of a tile over one partition of keys, from scores to a softmax state.
//
// A row is one query head of a token; a tile is rows that see the same keys. For each partition of
// 256 keys, a tile computes all scores (16 keys as lanes), their softmax, and the weighted values
// (dimensions as lanes): each score and each value is one chain of multiply-adds in a fixed order,
// whatever shares the tile. Keys that a row does not see have weight 0 and change nothing.
#pragma once

#include <type_traits>

#include "maths.h"
#include "plan.h"

namespace zonda::ZONDA_VARIANT {

namespace {

// What of a tile is in registers at once: rows times pages of scores, or times vectors of values.
constexpr int BLOCK_ROWS = 6, MAX_BLOCK_WIDTH = 4;
#if defined(__AVX2__) && !defined(__AVX512F__)
constexpr int BLOCK_SIZE = 6;
#else
constexpr int BLOCK_SIZE = 24;
#endif
constexpr int block_width(int rows) {
    return BLOCK_SIZE / rows < MAX_BLOCK_WIDTH ? BLOCK_SIZE / rows : MAX_BLOCK_WIDTH;
}

constexpr int CHUNK_PAGES = 4;  // pages that stay in the nearest cache while all rows pass
// Of weights; a power of two would crowd a few sets of the cache.
constexpr int64_t STRIDE = PARTITION + LANES;
constexpr float HIDDEN = -3e38f;

struct Row {
    int64_t token;
    int64_t head;
    int64_t from, to;    // positions it sees
    float factor;        // int8: of integer scores
    int32_t correction;  // int8: for the bytes' offset
    float* state;        // of the current partition
};

// The keys of one partition and kv head that some row of a tile sees.
struct Stretch {
    int64_t begin, end;  // positions
    const uint8_t* pages[PARTITION_PAGES];

    int64_t first_page() const { return begin % PARTITION / PAGE_SIZE; }
    int64_t end_page() const { return (end - 1) % PARTITION / PAGE_SIZE + 1; }
};

struct Tile {
    int64_t num_rows, head_dim, width;
    float cap;
    KvLayout layout;
    Row* rows;
    float* queries;  // [rows][D], scaled
    int8_t* bytes;   // [rows][D in whole vectors]
    float* weights;  // [rows][STRIDE]: scores, then weights
    float* states;   // [2][rows][state_floats]: of the partition, of all so far
    Stretch keys;
    Stretch next;  // its keys are fetched from memory while the current values are added

    const float* scales(int64_t page, int64_t offset) const {
        return reinterpret_cast<const float*>(keys.pages[page] + offset);
    }
    float* total(int64_t row) const { return states + (num_rows + row) * state_floats(head_dim); }
    float* weights_of(int64_t row, int64_t page) const {
        return weights + row * STRIDE + page * PAGE_SIZE;
    }
};

ZONDA_INLINE float& max_of(float* state, int64_t width) { return state[width]; }
ZONDA_INLINE float& sum_of(float* state, int64_t width) { return state[width + 1]; }

// Calls f(count, first row) for blocks of BLOCK_ROWS rows and one of the rest; `count` is constant.
template <int COUNT = BLOCK_ROWS, class F>
ZONDA_INLINE void for_row_blocks(int64_t num_rows, F f, int64_t row = 0) {
    for (; row + COUNT <= num_rows; row += COUNT) f(std::integral_constant<int, COUNT>(), row);
    if constexpr (COUNT > 1) for_row_blocks<COUNT - 1>(num_rows, f, row);
}

// Calls f(count, first row, first page, last page) for blocks of rows, chunk by chunk of pages.
template <class F>
ZONDA_INLINE void for_chunks(const Tile& tile, F f) {
    const int64_t end_page = tile.keys.end_page();
    for (int64_t page = tile.keys.first_page(); page < end_page; page += CHUNK_PAGES) {
        const int64_t end = page + CHUNK_PAGES < end_page ? page + CHUNK_PAGES : end_page;
        for_row_blocks(tile.num_rows, [&](auto count, int64_t row) { f(count, row, page, end); });
    }
}

// Scores of one block of rows and pages. On the way it fetches the values of the same pages: the
// processor's own prefetching stops at the end of each page.
template <int ROWS, int PAGES>
void score_bf16(const Tile& tile, int64_t row, int64_t page) {
    const int64_t D = tile.head_dim;
    const float* q = tile.queries + row * D;
    const uint16_t* keys[PAGES];
    F32x16 scores[ROWS][PAGES];
    ZONDA_UNROLL
    for (int p = 0; p < PAGES; p++)
        keys[p] = reinterpret_cast<const uint16_t*>(tile.keys.pages[page + p]);
    ZONDA_UNROLL
    for (int r = 0; r < ROWS; r++) {
        ZONDA_UNROLL
        for (int p = 0; p < PAGES; p++) scores[r][p] = zero();
    }
    for (int64_t d = 0; d < D; d++) {
        F32x16 key[PAGES];
        ZONDA_UNROLL
        for (int p = 0; p < PAGES; p++) {
            key[p] = load_bf16(keys[p] + d * PAGE_SIZE);
            __builtin_prefetch(tile.keys.pages[page + p] + tile.layout.values + d * PAGE_SIZE * 2);
        }
        ZONDA_UNROLL
        for (int r = 0; r < ROWS; r++) {
            const F32x16 value = set1(q[r * D + d]);
            ZONDA_UNROLL
            for (int p = 0; p < PAGES; p++) scores[r][p] = fma(value, key[p], scores[r][p]);
        }
    }
    ZONDA_UNROLL
    for (int r = 0; r < ROWS; r++) {
        ZONDA_UNROLL
        for (int p = 0; p < PAGES; p++) store(tile.weights_of(row + r, page + p), scores[r][p]);
    }
}

template <int ROWS, int PAGES>
void score_int8(const Tile& tile, int64_t row, int64_t page) {
    const int64_t stride = tile.width;
    const int8_t* q = tile.bytes + row * stride;
    const Row* rows = tile.rows + row;
    I32x16 scores[ROWS][PAGES];
    ZONDA_UNROLL
    for (int r = 0; r < ROWS; r++) {
        ZONDA_UNROLL
        for (int p = 0; p < PAGES; p++) scores[r][p] = iset1(rows[r].correction);
    }
    for (int64_t d = 0; d < tile.head_dim; d += 4) {
        U8x64 key[PAGES];
        ZONDA_UNROLL
        for (int p = 0; p < PAGES; p++) {
            key[p] = load_bytes(tile.keys.pages[page + p] + d * PAGE_SIZE);
            __builtin_prefetch(tile.keys.pages[page + p] + tile.layout.values + d * PAGE_SIZE);
        }
        ZONDA_UNROLL
        for (int r = 0; r < ROWS; r++) {
            int32_t four;
            memcpy(&four, q + r * stride + d, 4);
            ZONDA_UNROLL
            for (int p = 0; p < PAGES; p++) scores[r][p] = dot_wide(scores[r][p], key[p], four);
        }
    }
    ZONDA_UNROLL
    for (int p = 0; p < PAGES; p++) {
        const F32x16 scales = load(tile.scales(page + p, tile.layout.key_scales));
        ZONDA_UNROLL
        for (int r = 0; r < ROWS; r++)
            store(tile.weights_of(row + r, page + p),
                  to_float(scores[r][p]) * (set1(rows[r].factor) * scales));
    }
}

template <KvType TYPE, int ROWS, int PAGES>
ZONDA_INLINE void score_block(const Tile& tile, int64_t row, int64_t page) {
    if constexpr (TYPE == KV_BF16) score_bf16<ROWS, PAGES>(tile, row, page);
    else score_int8<ROWS, PAGES>(tile, row, page);
}

template <KvType TYPE>
void score(const Tile& tile) {
    for_chunks(tile, [&](auto rows, int64_t row, int64_t page, int64_t end_page) {
        constexpr int WIDTH = block_width(rows);
        for (; page + WIDTH <= end_page; page += WIDTH)
            score_block<TYPE, rows, WIDTH>(tile, row, page);
        for (; page < end_page; page++) score_block<TYPE, rows, 1>(tile, row, page);
    });
}

// Turns a row's scores into weights relative to the largest score.
template <KvType TYPE>
void weigh(const Tile& tile, int64_t row) {
    const Row& own = tile.rows[row];
    const Stretch& keys = tile.keys;
    float* weights = tile.weights_of(row, 0);
    const int64_t base = keys.begin / PARTITION * PARTITION;
    const int64_t from = (own.from > keys.begin ? own.from : keys.begin) - base;
    const int64_t to = (own.to < keys.end ? own.to : keys.end) - base;
    const int64_t first = from < to ? from / PAGE_SIZE : keys.end_page();
    const int64_t end = from < to ? (to - 1) / PAGE_SIZE + 1 : keys.end_page();
    F32x16 largest = set1(HIDDEN), sum = zero();
    for (int64_t page = keys.first_page(); page < keys.end_page(); page++)
        if (page < first || page >= end) store(weights + page * LANES, zero());
    for (int64_t page = first; page < end; page++) {
        const int64_t start = page * PAGE_SIZE;
        F32x16 scores = load(weights + start);
        if (tile.cap > 0) scores = soft_cap(scores, tile.cap);
        if (start < from || start + PAGE_SIZE > to)
            scores = keep_lanes(scores, from > start ? int(from - start) : 0,
                                to - start < LANES ? int(to - start) : LANES, set1(HIDDEN));
        store(weights + start, scores);
        largest = max(scores, largest);
    }
    const float bound = max_lanes(largest);
    for (int64_t page = first; page < end; page++) {
        F32x16 weight = exp(load(weights + page * LANES) - set1(bound));
        sum = sum + weight;
        if constexpr (TYPE == KV_INT8)
            weight = weight * load(tile.scales(page, tile.layout.value_scales));
        store(weights + page * LANES, weight);
    }
    max_of(own.state, tile.width) = bound;
    sum_of(own.state, tile.width) = sum_lanes(sum);
}

template <KvType TYPE>
ZONDA_INLINE F32x16 load_values(const uint8_t* values, int64_t index) {
    if constexpr (TYPE == KV_INT8) return load_i8(reinterpret_cast<const int8_t*>(values) + index);
    else return load_bf16(reinterpret_cast<const uint16_t*>(values) + index);
}

// Adds the weighted values of some pages, COLUMNS vectors from dimension `d` on.
template <KvType TYPE, int ROWS, int COLUMNS>
void add_block(const Tile& tile, int64_t row, int64_t d, int64_t page, int64_t end_page) {
    constexpr int64_t VALUE_BYTES = TYPE == KV_BF16 ? 2 : 1;
    const Row* rows = tile.rows + row;
    F32x16 sums[ROWS][COLUMNS];
    ZONDA_UNROLL
    for (int r = 0; r < ROWS; r++) {
        ZONDA_UNROLL
        for (int c = 0; c < COLUMNS; c++) sums[r][c] = load(rows[r].state + d + c * LANES);
    }
    // Never beyond what the rows see: slots that nobody wrote may hold anything.
    const int64_t end_slot = (tile.keys.end - 1) % PARTITION + 1;
    for (; page < end_page; page++) {
        const uint8_t* values = tile.keys.pages[page] + tile.layout.values;
        const uint8_t* ahead = tile.next.pages[page] + d * VALUE_BYTES;
        const float* weights = tile.weights_of(row, page);
        const int64_t rest = end_slot - page * PAGE_SIZE;
        const int64_t count = rest < PAGE_SIZE ? rest : PAGE_SIZE;
        for (int64_t slot = 0; slot < count; slot++) {
            for (int64_t line = 0; line < COLUMNS * LANES * VALUE_BYTES; line += 64)
                __builtin_prefetch(ahead + slot * tile.width * VALUE_BYTES + line);
            F32x16 value[COLUMNS];
            ZONDA_UNROLL
            for (int c = 0; c < COLUMNS; c++)
                value[c] = load_values<TYPE>(values, slot * tile.width + d + c * LANES);
            ZONDA_UNROLL
            for (int r = 0; r < ROWS; r++) {
                const F32x16 weight = set1(weights[r * STRIDE + slot]);
                ZONDA_UNROLL
                for (int c = 0; c < COLUMNS; c++) sums[r][c] = fma(weight, value[c], sums[r][c]);
            }
        }
    }
    ZONDA_UNROLL
    for (int r = 0; r < ROWS; r++) {
        ZONDA_UNROLL
        for (int c = 0; c < COLUMNS; c++) store(rows[r].state + d + c * LANES, sums[r][c]);
    }
}

template <KvType TYPE>
void add_values(const Tile& tile) {
    for (int64_t row = 0; row < tile.num_rows; row++)
        for (int64_t d = 0; d < tile.width; d += LANES) store(tile.rows[row].state + d, zero());
    for_chunks(tile, [&](auto rows, int64_t row, int64_t page, int64_t end_page) {
        constexpr int WIDTH = block_width(rows);
        int64_t d = 0;
        for (; d + WIDTH * LANES <= tile.width; d += WIDTH * LANES)
            add_block<TYPE, rows, WIDTH>(tile, row, d, page, end_page);
        for (; d < tile.width; d += LANES) add_block<TYPE, rows, 1>(tile, row, d, page, end_page);
    });
}

void clear(float* state, int64_t width) {
    for (int64_t d = 0; d < width; d += LANES) store(state + d, zero());
    max_of(state, width) = HIDDEN;
    sum_of(state, width) = 0;
}

// Adds the state of the next partition to that of all before it.
void merge(float* total, float* next, int64_t width) {
    const float old_max = max_of(total, width), new_max = max_of(next, width);
    const float bound = old_max > new_max ? old_max : new_max;
    const F32x16 old_factor = exp(set1(old_max - bound)), new_factor = exp(set1(new_max - bound));
    for (int64_t d = 0; d < width; d += LANES)
        store(total + d, fma(load(next + d), new_factor, load(total + d) * old_factor));
    const F32x16 sum = set1(sum_of(total, width)) * old_factor;
    store_first(&sum_of(total, width), fma(set1(sum_of(next, width)), new_factor, sum), 1);
    max_of(total, width) = bound;
}

// Divides by the sum. Adding 0 turns -0 into 0: hidden keys may have turned one into the other.
void finish(float* state, int64_t width, float* out, int64_t head_dim) {
    const F32x16 factor = set1(1.0f / sum_of(state, width));
    for (int64_t d = 0; d < head_dim; d += LANES)
        store_first(out + d, fma(load(state + d), factor, zero()), lanes_left(head_dim, d));
}

}  // namespace

}  // namespace zonda::ZONDA_VARIANT
