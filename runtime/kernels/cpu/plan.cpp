// Cuts a step's attention into tasks, the longest first.
//
// Several tokens of one sequence (prefill) form tiles that walk all their partitions. Single tokens
// (decode) have a task per partition; those whose sequences share its pages share the task, so that
// a common prefix is read once for all of them.
#include "plan.h"

#include <algorithm>
#include <cstring>

namespace zonda {

namespace {

constexpr int NUM_CLASSES = 64;

struct Decode {
    const int64_t* pages;
    int32_t num_pages;
    int32_t sequence;
    int32_t token;
    int32_t first_partition;
    int32_t end_partition;
};

// Sequences with a common prefix become neighbours.
bool operator<(const Decode& a, const Decode& b) {
    return std::lexicographical_compare(
        a.pages, a.pages + a.num_pages, b.pages, b.pages + b.num_pages);
}

// The arrays of a plan in the order in which they lie behind it.
struct Arrays {
    Plan* plan;
    Task* unsorted;
    Decode* decodes;
    int64_t bytes;
};

Arrays lay_out(uint8_t* base, int64_t num_tokens, int64_t num_sequences, int64_t max_tasks) {
    uint8_t* next = base;
    auto take = [&next](int64_t bytes) {
        uint8_t* start = next;
        next += round_up(bytes, 64);
        return start;
    };
    Arrays arrays;
    arrays.plan = reinterpret_cast<Plan*>(take(sizeof(Plan)));
    uint8_t* tasks = take(max_tasks * int64_t(sizeof(Task)));
    arrays.unsorted = reinterpret_cast<Task*>(take(max_tasks * int64_t(sizeof(Task))));
    uint8_t* tokens = take(num_tokens * int64_t(sizeof(int32_t)));
    uint8_t* states = take(num_tokens * int64_t(sizeof(TokenStates)));
    arrays.decodes = reinterpret_cast<Decode*>(take(num_sequences * int64_t(sizeof(Decode))));
    arrays.bytes = next - base;
    if (base) {
        arrays.plan->tasks = reinterpret_cast<Task*>(tasks);
        arrays.plan->tokens = reinterpret_cast<int32_t*>(tokens);
        arrays.plan->states = reinterpret_cast<TokenStates*>(states);
    }
    return arrays;
}

class Planner {
  public:
    Planner(const Op& op, const Batch& batch)
        : batch_(batch), max_tokens_(tile_tokens(op.n[0], op.n[1])), window_(op.n[2]) {
        int64_t max_tasks = batch.num_tokens / max_tokens_ + batch.num_sequences;
        for (int64_t s = 0; s < batch.num_sequences; s++)
            if (num_new(s) == 1) max_tasks += num_partitions(batch.seq_lens[s]);
        uint8_t* memory = static_cast<uint8_t*>(op.p[0]);
        arrays_ = lay_out(memory, batch.num_tokens, batch.num_sequences, max_tasks);
    }

    void build() {
        for (int64_t s = 0; s < batch_.num_sequences; s++) {
            if (num_new(s) == 1) add_decode(s);
            if (num_new(s) > 1) add_prefill(s);
        }
        std::sort(arrays_.decodes, arrays_.decodes + num_decodes_);
        for (int64_t i = 0; i < num_decodes_; i++) add_token(arrays_.decodes[i].token);
        for (int32_t partition = 0; partition < end_partition_; partition++) add_decodes(partition);
        sort_tasks();
    }

  private:
    int64_t num_new(int64_t s) const { return batch_.cu_seqlens_q[s + 1] - batch_.cu_seqlens_q[s]; }

    int32_t first_partition(int64_t position) const {
        int64_t first = window_ ? std::max<int64_t>(0, position - window_ + 1) : 0;
        return int32_t(first / PARTITION);
    }

    void add_token(int64_t token) { arrays_.plan->tokens[num_tokens_++] = int32_t(token); }

    void add_task(Task task, int64_t num_keys) {
        task.cost = task.num_tokens * num_keys;
        arrays_.unsorted[num_tasks_++] = task;
    }

    void add_prefill(int64_t s) {
        int64_t end = batch_.cu_seqlens_q[s + 1];
        for (int64_t token = batch_.cu_seqlens_q[s]; token < end; token += max_tokens_) {
            int64_t count = std::min(max_tokens_, end - token);
            int64_t first = batch_.positions[token], last = first + count - 1;
            int32_t start = first_partition(first), stop = int32_t(num_partitions(last + 1));
            add_task({int32_t(s), int32_t(num_tokens_), int32_t(count), start, stop, 0, 0},
                     last + 1 - start * PARTITION);
            for (int64_t i = 0; i < count; i++) {
                add_token(token + i);
                arrays_.plan->states[token + i] = {0, 0, 0};
            }
        }
    }

    void add_decode(int64_t s) {
        int64_t token = batch_.cu_seqlens_q[s], length = batch_.seq_lens[s];
        int32_t start = first_partition(length - 1), stop = int32_t(num_partitions(length));
        int32_t num_pages = int32_t((length + PAGE_SIZE - 1) / PAGE_SIZE);
        const int64_t* pages = batch_.page_tables + s * batch_.max_pages;
        Decode& decode = arrays_.decodes[num_decodes_++];
        decode = {pages, num_pages, int32_t(s), int32_t(token), start, stop};
        int32_t count = stop - start > 1 ? stop - start : 0;
        arrays_.plan->states[token] = {num_states_, count, start};
        num_states_ += count;
        end_partition_ = std::max(end_partition_, stop);
    }

    static bool sees(const Decode& decode, int32_t partition) {
        return partition >= decode.first_partition && partition < decode.end_partition;
    }

    // Whether `b` can join a task of `a`: both whole, the same pages, and both with partials.
    static bool shares(const Decode& a, const Decode& b, int32_t partition) {
        int64_t first = partition * PARTITION_PAGES, end = first + PARTITION_PAGES;
        if (end > a.num_pages || end > b.num_pages) return false;
        bool is_alone = a.end_partition - a.first_partition == 1;
        if (is_alone != (b.end_partition - b.first_partition == 1)) return false;
        return !memcmp(a.pages + first, b.pages + first, PARTITION_PAGES * sizeof(int64_t));
    }

    void add_decodes(int32_t partition) {
        const Decode* decodes = arrays_.decodes;
        for (int64_t i = 0; i < num_decodes_;) {
            const Decode& leader = decodes[i];
            int64_t first = i++;
            if (!sees(leader, partition)) continue;
            while (i < num_decodes_ && i - first < max_tokens_ && sees(decodes[i], partition)
                   && shares(leader, decodes[i], partition)) i++;
            int64_t num_keys = std::min<int64_t>(
                PARTITION, leader.num_pages * PAGE_SIZE - partition * PARTITION);
            int32_t is_partial = leader.end_partition - leader.first_partition > 1;
            add_task({leader.sequence, int32_t(first + first_decode_token()), int32_t(i - first),
                      partition, partition + 1, is_partial, 0}, num_keys);
        }
    }

    // The decodes' tokens were added last.
    int64_t first_decode_token() const { return num_tokens_ - num_decodes_; }

    static int cost_class(int64_t cost) {
        int log = 63 - __builtin_clzll(uint64_t(cost) | 2);
        int half = int((cost >> (log - 1)) & 1);
        return NUM_CLASSES - 1 - std::min(NUM_CLASSES - 1, 2 * log + half);
    }

    // A counting sort by the logarithm of the cost.
    void sort_tasks() {
        int64_t next[NUM_CLASSES + 1] = {};
        for (int64_t i = 0; i < num_tasks_; i++) next[cost_class(arrays_.unsorted[i].cost) + 1]++;
        for (int i = 0; i < NUM_CLASSES; i++) next[i + 1] += next[i];
        for (int64_t i = 0; i < num_tasks_; i++) {
            const Task& task = arrays_.unsorted[i];
            arrays_.plan->tasks[next[cost_class(task.cost)]++] = task;
        }
        arrays_.plan->num_tasks = num_tasks_;
    }

    const Batch& batch_;
    int64_t max_tokens_;
    int64_t window_;
    Arrays arrays_;
    int64_t num_tokens_ = 0;
    int64_t num_tasks_ = 0;
    int64_t num_decodes_ = 0;
    int32_t num_states_ = 0;
    int32_t end_partition_ = 0;
};

}  // namespace

int64_t plan_bytes(int64_t max_tokens, int64_t max_sequences, int64_t max_context,
                   int64_t num_heads, int64_t num_kv_heads) {
    int64_t max_tiles = max_tokens / tile_tokens(num_heads, num_kv_heads) + max_sequences;
    int64_t max_decodes = std::min(max_tokens, max_sequences);
    int64_t max_tasks = max_tiles + max_decodes * num_partitions(max_context);
    return lay_out(nullptr, max_tokens, max_sequences, max_tasks).bytes;
}

void plan_attention(const Op& op, const Batch& batch, int64_t, int64_t, uint8_t*) {
    Planner(op, batch).build();
}

}  // namespace zonda
