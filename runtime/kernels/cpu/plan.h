// How a step's attention is cut into tasks.
//
// Keys are cut into partitions of 256 from position 0 on; each has its own softmax state, and
// states are merged in order. So a token's result does not depend on which task computed which
// partition.
#pragma once

#include "kv_pages.h"

namespace zonda {

constexpr int64_t PARTITION_PAGES = 16;
constexpr int64_t PARTITION = PARTITION_PAGES * PAGE_SIZE;
constexpr int64_t TILE_ROWS = 24;  // a row is one query head of one token

// Some tokens over some partitions, for every kv head. Their page tables agree in those partitions.
struct Task {
    int32_t sequence;         // whose page table is read
    int32_t first_token;      // index into the plan's tokens
    int32_t num_tokens;
    int32_t first_partition;
    int32_t end_partition;
    int32_t is_partial;       // leaves one state for `merge`; else writes the result
    int64_t cost;
};

// Where a token's states lie among the partials: none where a task wrote its result.
struct TokenStates {
    int32_t first_state;
    int32_t num_states;
    int32_t first_partition;
};

struct Plan {
    int64_t num_tasks;
    Task* tasks;
    int32_t* tokens;
    TokenStates* states;  // [T]
};

static inline int64_t num_partitions(int64_t num_keys) {
    return (num_keys + PARTITION - 1) / PARTITION;
}

// A softmax state of one row and partition: weighted values [W], their largest score, the sum of
// their weights.
static inline int64_t state_floats(int64_t head_dim) {
    return round_up(head_dim, PAGE_SIZE) + PAGE_SIZE;
}

static inline int64_t tile_tokens(int64_t num_heads, int64_t num_kv_heads) {
    int64_t tokens = TILE_ROWS / (num_heads / num_kv_heads);
    return tokens ? tokens : 1;
}

// Upper bound for any step.
int64_t plan_bytes(int64_t max_tokens, int64_t max_sequences, int64_t max_context,
                   int64_t num_heads, int64_t num_kv_heads);

// OP_PLAN_ATTENTION.
void plan_attention(const Op& op, const Batch& batch, int64_t begin, int64_t end, uint8_t* scratch);

}  // namespace zonda
