// What programs are made of: operators, the arrays of a step, and the kernels of a variant.
// The structs are mirrored in `structs.py`; both sides check their sizes when the library is loaded.
#pragma once

#include <cstddef>
#include <cstdint>

namespace zonda {

// One slot of a KV page is one lane.
constexpr int PAGE_SIZE = 16;

// Most likeliest tokens that a row reports.
constexpr int MAX_TOP = 20;

enum KvType : int32_t { KV_BF16 = 0, KV_INT8 = 1, NUM_KV_TYPES };

// The arrays of a step: `runtime.kernels.ForwardBatch` and `SamplingBatch`, and where the results
// go. T tokens of S sequences; of the R logits rows, `first_row` and the next `num_rows` are being
// computed.
struct Batch {
    int64_t num_tokens;
    int64_t num_sequences;
    int64_t first_row;
    int64_t num_rows;
    int64_t max_pages;
    const int64_t* token_ids;     // [T]
    const int64_t* positions;     // [T]
    const int64_t* slot_mapping;  // [T]
    const int64_t* cu_seqlens_q;  // [S + 1]
    const int64_t* seq_lens;      // [S]
    const int64_t* page_tables;   // [S, max_pages]
    const int64_t* logits_rows;   // [R]
    const int64_t* targets;       // [R], the token to score, or -1
    const float* temperature;     // [R]
    const int64_t* top_k;         // [R]
    const float* top_p;           // [R]
    const float* min_p;           // [R]
    const float* uniform;         // [R]
    const int32_t* token_bitmask;     // [R, ceil(V / 32)] or null
    const int64_t* penalty_start;     // [R + 1] or null, as are the next five
    const int64_t* penalty_tokens;    // [penalty_start[R]]
    const int32_t* penalty_counts;    // [penalty_start[R]]
    const float* repetition_penalty;  // [R]
    const float* presence_penalty;    // [R]
    const float* frequency_penalty;   // [R]
    const int64_t* bias_start;        // [R + 1] or null, as are the next two
    const int64_t* bias_tokens;       // [bias_start[R]]
    const float* bias_values;         // [bias_start[R]]
    const int64_t* num_top;           // [R] or null, likeliest tokens to report with the row's; -1 for neither
    int64_t* drawn_ids;               // [R], out
    float* logprobs;                  // [R], out
    int64_t* top_ids;                 // [R, MAX_TOP], out, null where num_top is
    float* top_logprobs;              // [R, MAX_TOP], out
};

// What the work units of an operator are.
enum Domain : int32_t {
    TOKENS = 0,  // a row per token
    ROWS = 1,    // a row per logits row of the current block
    TASKS = 2,   // the operator's own units: tiles, attention tasks, or one
};

// Operators. x, y, out are float32 rows, packed one after the other: [T, n] or [R, n].
// "q8 row" is an activation row quantised for a matrix product: see `quantised.h`.
enum OpKind : int32_t {
    // rows of a float32 table: p {table, out}, n {row floats, index: 0 token ids, 1 positions, 2 logits_rows}
    OP_GATHER = 0,
    // rows of a packed weight: p {weight, out}, n {columns, format}, f {factor}; by token ids
    OP_EMBED = 1,
    // p {x, weight, out}, n {C}, f {eps}
    OP_RMS_NORM = 2,
    // p {x, y, out}, n {C}
    OP_ADD = 3,
    // p {x, out}, n {C}, f {factor}
    OP_SCALE = 4,
    // p {x, out}, n {C}, f {cap}
    OP_SOFT_CAP = 5,
    // p {gate_up, out}, n {C}: gate is the first C of 2 C
    OP_SILU_AND_MULTIPLY = 6,
    OP_GELU_AND_MULTIPLY = 7,
    // p {x, q8 out}, n {K}
    OP_QUANTIZE = 8,
    // p {q8 or float32 rows, packed weight, bias or null, out}, n {K, N, format, what the rows are:
    // TOKENS or ROWS, floats from one row of `out` to the next}
    OP_LINEAR = 9,
    // p {qkv, weight, out}, n {normed heads, D, row floats}, f {eps}
    OP_NORM_HEADS = 10,
    // p {qkv, cos_sin, q, k, v}, n {H, G, D, pairs, interleaved}
    OP_ROTATE_HEADS = 11,
    // p {k, v, kv_pages}, n {G, D, kv type}
    OP_WRITE_KV = 12,
    // once a step and window: p {plan}, n {H, G, window, plan bytes}
    OP_PLAN_ATTENTION = 13,
    // p {q, kv_pages, plan, partials, out}, n {H, G, D, kv type, window}, f {scale, soft cap}
    OP_ATTENTION = 14,
    // per token: p {partials, plan, out}, n {H, D}
    OP_MERGE_ATTENTION = 15,
    // p {logits}, n {V}
    OP_SAMPLE = 16,
    // as OP_LINEAR of logits rows, p and n too; N is V. Tiles that no row of the block needs are left
    // out: a row needs those where its mask has a bit, all if it is scored or reports log-probabilities
    OP_OUTPUT_LOGITS = 17,
    NUM_OPS
};

// One operator of a program. `joins` says that it runs in the region of the operator before it: the
// same thread does the same rows of both, with no barrier between.
struct Op {
    int32_t kind;
    int32_t domain;
    int32_t joins;
    int32_t reserved;
    int64_t n[8];
    float f[4];
    void* p[8];
};

// How a variant runs an operator.
struct Kernel {
    // Work units of this step; null where the domain says it.
    int64_t (*units)(const Op&, const Batch&);
    // Runs units begin..end-1. `scratch` is the thread's own, of `scratch_bytes` at least.
    void (*run)(const Op&, const Batch&, int64_t begin, int64_t end, uint8_t* scratch);
    // Scratch memory that `run` needs; null for none.
    size_t (*scratch_bytes)(const Op&);
};

}  // namespace zonda
