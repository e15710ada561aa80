// Draws or scores a token per logits row.
//
// A draw needs tokens in the order of their weights only around a few places: where the k-th one,
// the sum of top-p, and the drawn number lie. So only tokens above a level that is low enough are
// looked at, and of those only the neighbourhoods of these places are sorted.
#include <algorithm>
#include <cmath>

#include "kernels.h"
#include "simd.h"

namespace zonda::ZONDA_VARIANT {

namespace {

constexpr int64_t BLOCK = 4096;  // as many weights are added up in float32, then in float64
constexpr int ALL = 0xFFFF;

// A row of logits and which of its tokens are legal.
struct Logits {
    float* values;
    int64_t size;
    const int32_t* mask;  // or null

    // A bit for each of the 16 tokens from `i` on.
    uint32_t legal(int64_t i) const {
        uint32_t bits = mask ? uint32_t(mask[i / 32]) >> (i % 32) & ALL : ALL;
        return size - i < LANES ? bits & ((1u << (size - i)) - 1) : bits;
    }

    F32x16 vector(int64_t i, uint32_t bits) const {
        if (bits == ALL) return load(values + i);
        return pick_lanes(load_first(values + i, lanes_left(size, i)), bits, set1(-INFINITY));
    }
};

struct Best {
    float value;
    int64_t id;
};

// The largest legal logit, the lowest id among equals.
Best find_best(const Logits& logits) {
    Best best = {-INFINITY, 0};
    int64_t block = -1;
    for (int64_t start = 0; start < logits.size; start += BLOCK) {
        const int64_t end = std::min(start + BLOCK, logits.size);
        F32x16 largest[4] = {set1(-INFINITY), set1(-INFINITY), set1(-INFINITY), set1(-INFINITY)};
        for (int64_t i = start; i < end; i += 4 * LANES)
            for (int j = 0; j < 4 && i + j * LANES < end; j++)
                if (const uint32_t bits = logits.legal(i + j * LANES))
                    largest[j] = max(logits.vector(i + j * LANES, bits), largest[j]);
        const F32x16 both[2] = {max(largest[0], largest[1]), max(largest[2], largest[3])};
        const float value = max_lanes(max(both[0], both[1]));
        if (value > best.value) {
            best.value = value;
            block = start;
        }
    }
    for (int64_t i = block; i >= 0 && i < logits.size; i++) {
        const uint32_t legal = logits.legal(i / LANES * LANES) >> i % LANES & 1;
        if (legal && logits.values[i] == best.value) return {best.value, i};
    }
    return best;
}

// What turns logits into log(softmax).
struct Norm {
    double largest, log_total;

    float log_probability(float logit) const { return float(double(logit) - largest - log_total); }
};

Norm find_norm(const Logits& logits) {
    const float best = find_best(logits).value;
    const F32x16 largest = set1(best);
    double total = 0;
    for (int64_t start = 0; start < logits.size; start += BLOCK) {
        F32x16 sum = zero();
        for (int64_t i = start; i < std::min(start + BLOCK, logits.size); i += LANES)
            sum = sum + exp(logits.vector(i, logits.legal(i)) - largest);
        total += double(sum_lanes(sum));
    }
    return {double(best), std::log(total)};
}

// The `count` likeliest tokens, the lower id first among equals; -1 where there are no more.
void find_top(const Logits& logits, const Norm& norm, int64_t count, int64_t* ids, float* logprobs) {
    float values[MAX_TOP];
    int64_t size = 0;
    for (int64_t i = 0; i < logits.size; i += LANES) {
        const F32x16 lanes = load_first(logits.values + i, lanes_left(logits.size, i));
        uint32_t bits = lanes_above(lanes, size < count ? -INFINITY : values[count - 1]) & logits.legal(i);
        for (; bits; bits &= bits - 1) {
            const int64_t id = i + __builtin_ctz(bits);
            const float value = logits.values[id];
            if (size == count && !(value > values[count - 1])) continue;
            int64_t at = size < count ? size++ : count - 1;
            for (; at > 0 && values[at - 1] < value; at--) {
                values[at] = values[at - 1];
                ids[at] = ids[at - 1];
            }
            values[at] = value;
            ids[at] = id;
        }
    }
    for (int64_t at = 0; at < count; at++) {
        if (at >= size) ids[at] = -1;
        logprobs[at] = at < size ? norm.log_probability(values[at]) : -INFINITY;
    }
}

// Turns logits into weights relative to the best one. Returns their sum.
double weigh(const Logits& logits, float best, float temperature) {
    // Finite, as the best one is 0 times it.
    const F32x16 inverse = set1(std::min(1.0f / temperature, 3e38f));
    double total = 0;
    for (int64_t start = 0; start < logits.size; start += BLOCK) {
        F32x16 sum = zero();
        for (int64_t i = start; i < std::min(start + BLOCK, logits.size); i += LANES) {
            F32x16 weights = zero();
            if (const uint32_t bits = logits.legal(i))
                weights = exp((logits.vector(i, bits) - set1(best)) * inverse);
            sum = sum + weights;
            store_first(logits.values + i, weights, lanes_left(logits.size, i));
        }
        total += double(sum_lanes(sum));
    }
    return total;
}

// The highest level above which there are `wanted` weights, or weights of that sum; below all of
// them where none is low enough.
float find_level(const Logits& weights, double wanted, bool is_count) {
    constexpr int NUM_LEVELS = 6;
    constexpr float LEVELS[NUM_LEVELS] = {0.5f, 0.25f, 0.0625f, 0x1p-7f, 0x1p-11f, 0x1p-16f};
    double totals[NUM_LEVELS] = {};
    for (int64_t start = 0; start < weights.size; start += BLOCK) {
        F32x16 sums[NUM_LEVELS];
        for (int j = 0; j < NUM_LEVELS; j++) sums[j] = zero();
        for (int64_t i = start; i < std::min(start + BLOCK, weights.size); i += LANES) {
            const F32x16 weight = load_first(weights.values + i, lanes_left(weights.size, i));
            const F32x16 value = is_count ? set1(1.0f) : weight;
            for (int j = 0; j < NUM_LEVELS; j++)
                sums[j] = sums[j] + zero_unless_above(value, weight, LEVELS[j]);
        }
        for (int j = 0; j < NUM_LEVELS; j++) totals[j] += double(sum_lanes(sums[j]));
    }
    for (int j = 0; j < NUM_LEVELS; j++)
        if (totals[j] >= wanted) return LEVELS[j];
    return 0;
}

// A weight and its token in one number: the heavier first, the lower id among equals.
struct Item {
    uint64_t key;

    float weight() const {
        const uint32_t bits = uint32_t(key >> 32);
        float value;
        memcpy(&value, &bits, 4);
        return value;
    }
    int64_t id() const { return int64_t(~uint32_t(key)); }
};

Item make_item(float weight, int64_t id) {
    uint32_t bits;
    memcpy(&bits, &weight, 4);
    return {uint64_t(bits) << 32 | uint32_t(~uint32_t(id))};
}

struct Heavier {
    bool operator()(Item a, Item b) const { return a.key > b.key; }
};

// The heaviest tokens, in no order until somebody looks.
class Candidates {
  public:
    Candidates(const Logits& weights, float level, Item* items) : items_(items) {
        for (int64_t i = 0; i < weights.size; i += LANES) {
            const F32x16 values = load_first(weights.values + i, lanes_left(weights.size, i));
            uint32_t bits = lanes_above(values, level);
            for (; bits; bits &= bits - 1) {
                const int64_t id = i + __builtin_ctz(bits);
                items_[size_++] = make_item(weights.values[id], id);
            }
        }
    }

    double mass() const { return mass_of(0, size_); }

    void keep_count(int64_t count) {
        if (count >= size_) return;
        std::nth_element(items_, items_ + count, items_ + size_, Heavier());
        size_ = count;
    }

    // As many as it takes for this mass.
    void keep_mass(double mass) {
        size_ = std::min(find(size_, [=](double sum) { return sum >= mass; }) + 1, size_);
    }

    // Those of this weight or more.
    void keep_from(float weight) {
        auto is_kept = [=](Item item) { return item.weight() >= weight; };
        size_ = std::partition(items_, items_ + size_, is_kept) - items_;
    }

    // The first one with which they add up to more than `mass`, the last one if none.
    int64_t token_at(double mass) {
        const int64_t rank = find(size_, [=](double sum) { return sum > mass; });
        if (rank == size_) return std::max_element(items_, items_ + size_, Heavier())->id();
        return items_[rank].id();
    }

  private:
    double mass_of(int64_t begin, int64_t end) const {
        double sum = 0;
        for (int64_t i = begin; i < end; i++) sum += double(items_[i].weight());
        return sum;
    }

    // The rank of the first one with which the sum `is_reached`, `end` if none. Those before it in
    // order of weight stand before it afterwards.
    template <class F>
    int64_t find(int64_t end, F is_reached) {
        int64_t begin = 0;
        double before = 0;
        while (end - begin > 32) {
            const int64_t middle = begin + (end - begin) / 2;
            std::nth_element(items_ + begin, items_ + middle, items_ + end, Heavier());
            const double mass = mass_of(begin, middle);
            if (is_reached(before + mass)) {
                end = middle;
            } else {
                before += mass;
                begin = middle;
            }
        }
        std::sort(items_ + begin, items_ + end, Heavier());
        for (; begin < end; begin++)
            if (is_reached(before += double(items_[begin].weight()))) return begin;
        return end;
    }

    Item* items_;
    int64_t size_ = 0;
};

struct Choice {
    int64_t top_k;
    float temperature, top_p, min_p, uniform;
};

// A level above which lies all that can be drawn, or what is drawn is.
float find_level(const Logits& weights, double total, const Choice& choice) {
    constexpr double MARGIN = 1 + 1e-5;  // sums of float32 numbers are not exact
    if (choice.top_k > 0) return find_level(weights, double(choice.top_k), true);
    if (choice.top_p < 1) return find_level(weights, double(choice.top_p) * total * MARGIN, false);
    if (choice.min_p > 0) return std::nextafter(choice.min_p, 0.0f);
    return find_level(weights, double(choice.uniform) * total * MARGIN, false);
}

int64_t draw(const Logits& logits, float best, const Choice& choice, Item* scratch) {
    double total = weigh(logits, best, choice.temperature);
    Candidates candidates(logits, find_level(logits, total, choice), scratch);
    if (choice.top_k > 0) {
        candidates.keep_count(choice.top_k);
        total = candidates.mass();
    }
    if (choice.top_p < 1) candidates.keep_mass(double(choice.top_p) * total);
    if (choice.min_p > 0) candidates.keep_from(choice.min_p);
    if (choice.top_p < 1 || choice.min_p > 0) total = candidates.mass();
    return candidates.token_at(double(choice.uniform) * total);
}

void add_bias(const Batch& batch, int64_t row, float* logits) {
    for (int64_t i = batch.bias_start[row]; i < batch.bias_start[row + 1]; i++)
        logits[batch.bias_tokens[i]] += batch.bias_values[i];
}

void penalize(const Batch& batch, int64_t row, float* logits) {
    for (int64_t i = batch.penalty_start[row]; i < batch.penalty_start[row + 1]; i++) {
        float& logit = logits[batch.penalty_tokens[i]];
        const float repetition = batch.repetition_penalty[row];
        logit = logit > 0 ? logit / repetition : logit * repetition;
        logit = logit - batch.frequency_penalty[row] * float(batch.penalty_counts[i]);
        if (batch.penalty_counts[i] > 0) logit = logit - batch.presence_penalty[row];
    }
}

void draw_row(const Batch& batch, int64_t row, float* values, int64_t size, Item* scratch) {
    Logits logits = {values, size, nullptr};
    if (batch.bias_start) add_bias(batch, row, values);
    if (batch.penalty_start) penalize(batch, row, values);
    if (batch.token_bitmask) logits.mask = batch.token_bitmask + row * ((size + 31) / 32);
    const Best best = find_best(logits);
    batch.drawn_ids[row] = best.id;
    if (batch.temperature[row] > 0 && std::isfinite(best.value)) {
        const Choice choice = {batch.top_k[row], batch.temperature[row], batch.top_p[row],
                               batch.min_p[row], batch.uniform[row]};
        batch.drawn_ids[row] = draw(logits, best.value, choice, scratch);
    }
}

// Draws or scores. `plain` has room for the row as it was before anything changed it.
void sample_row(const Batch& batch, int64_t row, float* values, int64_t size, Item* scratch, float* plain) {
    const int64_t target = batch.targets[row], num_top = batch.num_top ? batch.num_top[row] : -1;
    batch.logprobs[row] = 0;
    if (target < 0 && num_top < 0) return draw_row(batch, row, values, size, scratch);
    const Logits logits = {values, size, nullptr};
    const Norm norm = find_norm(logits);
    if (num_top > 0)
        find_top(logits, norm, num_top, batch.top_ids + row * MAX_TOP, batch.top_logprobs + row * MAX_TOP);
    const float* source = values;
    batch.drawn_ids[row] = target;
    if (target < 0) {
        memcpy(plain, values, size_t(size) * sizeof(float));
        source = plain;
        draw_row(batch, row, values, size, scratch);
    }
    batch.logprobs[row] = norm.log_probability(source[batch.drawn_ids[row]]);
}

void sample(const Op& op, const Batch& batch, int64_t begin, int64_t end, uint8_t* scratch) {
    float* logits = static_cast<float*>(op.p[0]);
    Item* items = reinterpret_cast<Item*>(scratch);
    for (int64_t i = begin; i < end; i++)
        sample_row(batch, batch.first_row + i, logits + i * op.n[0], op.n[0], items,
                   reinterpret_cast<float*>(items + op.n[0]));
}

size_t sample_scratch(const Op& op) { return size_t(op.n[0]) * (sizeof(Item) + sizeof(float)); }

}  // namespace

void add_sampling_kernels(Kernel* table) { table[OP_SAMPLE] = {nullptr, sample, sample_scratch}; }

}  // namespace zonda::ZONDA_VARIANT
