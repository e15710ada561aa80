// Attention over KV pages: runs the tasks of a plan, and merges what they leave.
#include "attention_tile.h"

namespace zonda::ZONDA_VARIANT {

namespace {

// The row's query as bytes, in place of scaled floats.
void quantize_query(Tile& tile, int64_t row, const float* q, float scale) {
    int8_t* bytes = tile.bytes + row * tile.width;
    float* spread_q = tile.queries + row * tile.head_dim;
    spread(q, tile.head_dim, spread_q);
    const float bound = quantize(spread_q, tile.head_dim, bytes);
    int32_t sum = 0;
    for (int64_t d = 0; d < tile.width; d++) sum += bytes[d];
    tile.rows[row].correction = (WIDE_BIAS - int32_t(KEY_OFFSET)) * sum;
    tile.rows[row].factor = bound * scale;
}

// Rows of a task and where they look.
template <KvType TYPE>
void load_rows(const Op& op, const Batch& batch, const Plan& plan, const Task& task, int64_t g,
               Tile& tile) {
    const int64_t num_heads = op.n[0], heads = num_heads / op.n[1], D = op.n[2], window = op.n[4];
    tile.num_rows = task.num_tokens * heads;
    for (int64_t row = 0; row < tile.num_rows; row++) {
        const int64_t token = plan.tokens[task.first_token + row / heads];
        const int64_t head = g * heads + row % heads, to = batch.positions[token] + 1;
        const int64_t from = window && to > window ? to - window : 0;
        const float* q = static_cast<const float*>(op.p[0]) + (token * num_heads + head) * D;
        tile.rows[row] = {token, head, from, to, 0, 0, tile.states + row * state_floats(D)};
        if constexpr (TYPE == KV_INT8) quantize_query(tile, row, q, op.f[0]);
        else
            for (int64_t d = 0; d < D; d++) tile.queries[row * D + d] = q[d] * op.f[0];
    }
}

Stretch find_keys(const Op& op, const Batch& batch, const Plan& plan, const KvLayout& layout,
                  const Task& task, int64_t g, int64_t partition) {
    const int64_t first = partition * PARTITION, window = op.n[4];
    int64_t from = INT64_MAX, to = 0;
    for (int64_t i = 0; i < task.num_tokens; i++) {
        const int64_t end = batch.positions[plan.tokens[task.first_token + i]] + 1;
        const int64_t begin = window && end > window ? end - window : 0;
        from = begin < from ? begin : from;
        to = end > to ? end : to;
    }
    Stretch keys;
    keys.begin = from > first ? from : first;
    keys.end = to < first + PARTITION ? to : first + PARTITION;
    const int64_t* table = batch.page_tables + task.sequence * batch.max_pages;
    table += partition * PARTITION_PAGES;
    const uint8_t* base = static_cast<const uint8_t*>(op.p[1]) + g * layout.head_bytes;
    for (int64_t page = 0; page < PARTITION_PAGES; page++) {
        // The others are only ever fetched.
        const bool is_seen = page >= keys.first_page() && page < keys.end_page();
        keys.pages[page] = base + table[is_seen ? page : keys.first_page()] * layout.page_bytes;
    }
    return keys;
}

// Directs the states of a task with partials there, where `merge_states` finds them.
void point_at_partials(const Op& op, const Plan& plan, int64_t partition, Tile& tile) {
    for (int64_t i = 0; i < tile.num_rows; i++) {
        Row& row = tile.rows[i];
        const TokenStates& states = plan.states[row.token];
        const int64_t state = states.first_state + partition - states.first_partition;
        row.state = static_cast<float*>(op.p[3]);
        row.state += (state * op.n[0] + row.head) * state_floats(op.n[2]);
    }
}

template <KvType TYPE>
void attend(const Op& op, const Batch& batch, int64_t begin, int64_t end, Tile& tile) {
    const Plan& plan = *static_cast<const Plan*>(op.p[2]);
    const int64_t H = op.n[0], G = op.n[1], D = op.n[2];
    auto keys_of = [&](int64_t unit, int64_t partition) {
        return find_keys(op, batch, plan, tile.layout, plan.tasks[unit / G], unit % G, partition);
    };
    auto first_keys_of = [&](int64_t unit) {
        return keys_of(unit, plan.tasks[unit / G].first_partition);
    };
    tile.next = first_keys_of(begin);
    for (int64_t unit = begin; unit < end; unit++) {
        const Task& task = plan.tasks[unit / G];
        load_rows<TYPE>(op, batch, plan, task, unit % G, tile);
        for (int64_t row = 0; row < tile.num_rows; row++) clear(tile.total(row), tile.width);
        for (int64_t p = task.first_partition; p < task.end_partition; p++) {
            tile.keys = tile.next;
            if (p + 1 < task.end_partition) tile.next = keys_of(unit, p + 1);
            else if (unit + 1 < end) tile.next = first_keys_of(unit + 1);
            if (task.is_partial) point_at_partials(op, plan, p, tile);
            score<TYPE>(tile);
            for (int64_t row = 0; row < tile.num_rows; row++) weigh<TYPE>(tile, row);
            add_values<TYPE>(tile);
            for (int64_t row = 0; !task.is_partial && row < tile.num_rows; row++)
                merge(tile.total(row), tile.rows[row].state, tile.width);
        }
        for (int64_t i = 0; !task.is_partial && i < tile.num_rows; i++) {
            const Row& row = tile.rows[i];
            float* out = static_cast<float*>(op.p[4]) + (row.token * H + row.head) * D;
            finish(tile.total(i), tile.width, out, D);
        }
    }
}

// Places a tile's arrays in scratch memory; returns the bytes they take.
size_t lay_out(const Op& op, uint8_t* scratch, Tile& tile) {
    const int64_t rows = tile_tokens(op.n[0], op.n[1]) * (op.n[0] / op.n[1]), D = op.n[2];
    uint8_t* next = scratch;
    auto take = [&next](int64_t bytes) {
        uint8_t* start = next;
        next += round_up(bytes, 64);
        return start;
    };
    tile.head_dim = D;
    tile.width = round_up(D, LANES);
    tile.cap = op.f[1];
    tile.layout = kv_layout(op.n[3], op.n[1], D);
    tile.rows = reinterpret_cast<Row*>(take(rows * int64_t(sizeof(Row))));
    tile.queries = reinterpret_cast<float*>(take(rows * D * 4));
    tile.bytes = reinterpret_cast<int8_t*>(take(rows * tile.width));
    tile.weights = reinterpret_cast<float*>(take(rows * STRIDE * 4));
    tile.states = reinterpret_cast<float*>(take(2 * rows * state_floats(D) * 4));
    return size_t(next - scratch);
}

size_t attention_scratch(const Op& op) {
    Tile tile;
    return lay_out(op, nullptr, tile);
}

int64_t attention_units(const Op& op, const Batch&) {
    return static_cast<const Plan*>(op.p[2])->num_tasks * op.n[1];
}

void run_tasks(const Op& op, const Batch& batch, int64_t begin, int64_t end, uint8_t* scratch) {
    Tile tile;
    lay_out(op, scratch, tile);
    if (op.n[3] == KV_BF16) attend<KV_BF16>(op, batch, begin, end, tile);
    else attend<KV_INT8>(op, batch, begin, end, tile);
}

void merge_states(const Op& op, const Batch&, int64_t begin, int64_t end, uint8_t* scratch) {
    const int64_t H = op.n[0], D = op.n[1], width = round_up(D, LANES), floats = state_floats(D);
    const Plan& plan = *static_cast<const Plan*>(op.p[1]);
    float* total = reinterpret_cast<float*>(scratch);
    for (int64_t token = begin; token < end; token++) {
        const TokenStates& states = plan.states[token];
        for (int64_t head = 0; states.num_states && head < H; head++) {
            float* state = static_cast<float*>(op.p[0]) + (states.first_state * H + head) * floats;
            clear(total, width);
            for (int64_t i = 0; i < states.num_states; i++)
                merge(total, state + i * H * floats, width);
            finish(total, width, static_cast<float*>(op.p[2]) + (token * H + head) * D, D);
        }
    }
}

size_t merge_scratch(const Op& op) { return size_t(state_floats(op.n[1])) * sizeof(float); }

int64_t one_unit(const Op&, const Batch&) { return 1; }

}  // namespace

void add_attention_kernels(Kernel* table) {
    table[OP_PLAN_ATTENTION] = {one_unit, plan_attention, nullptr};
    table[OP_ATTENTION] = {attention_units, run_tasks, attention_scratch};
    table[OP_MERGE_ATTENTION] = {nullptr, merge_states, merge_scratch};
}

}  // namespace zonda::ZONDA_VARIANT
