// Replays recorded operators, and the C ABI of the library.
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <system_error>

#include "pool.h"
#include "variants.h"

namespace zonda {

namespace {

struct Region {
    int64_t first, last;  // operators first..last-1
};

int64_t now_ns() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(
               std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Operators over planned buffers. Those from `first_row_op` on compute logits rows: they are
// repeated for blocks of rows, so that their buffers need not hold all rows of a step.
class Program final : public Job {
  public:
    Program(const Variant& variant, const Op* ops, int64_t num_ops, int64_t first_row_op, int64_t row_block)
        : ops_(ops, ops + num_ops), row_block_(row_block) {
        variant.add_kernels(kernels_);
        for (int64_t i = 0; i < num_ops; i++) {
            if (i == first_row_op) first_row_region_ = int64_t(regions_.size());
            if (!ops[i].joins || regions_.empty() || i == first_row_op) regions_.push_back({i, i});
            regions_.back().last = i + 1;
            const Kernel& kernel = kernels_[ops[i].kind];
            if (kernel.scratch_bytes) scratch_bytes_ = std::max(scratch_bytes_, kernel.scratch_bytes(ops[i]));
        }
        scratch_bytes_ = (scratch_bytes_ + 63) / 64 * 64;
        if (first_row_op >= num_ops) first_row_region_ = int64_t(regions_.size());
    }

    bool is_complete() const {
        for (const Op& op : ops_)
            if (!kernels_[op.kind].run) return false;
        return true;
    }

    int64_t num_regions() const { return int64_t(regions_.size()); }

    // Runs one step; `region_ns`, where given, collects the time of each region.
    void run_step(Pool& pool, const Batch& batch, int64_t* region_ns) {
        batch_ = batch;
        num_rows_ = batch.num_rows;
        batch_.first_row = 0;
        batch_.num_rows = std::min(num_rows_, row_block_);
        region_ = -1;
        region_ns_ = region_ns;
        began_ns_ = region_ns ? now_ns() : 0;
        reserve(pool.num_threads());
        pool.run(*this);
    }

    int64_t next_region() override {
        if (region_ns_ && region_ >= 0) {
            const int64_t now = now_ns();
            region_ns_[region_] += now - began_ns_;
            began_ns_ = now;
        }
        region_++;
        if (region_ == num_regions() && first_row_region_ < num_regions()) {
            batch_.first_row += row_block_;
            batch_.num_rows = std::min(num_rows_ - batch_.first_row, row_block_);
            if (batch_.num_rows > 0) region_ = first_row_region_;
        }
        if (region_ >= num_regions() || (region_ >= first_row_region_ && batch_.num_rows <= 0)) return -1;
        const Op& op = ops_[size_t(regions_[size_t(region_)].first)];
        switch (op.domain) {
            case TOKENS: return batch_.num_tokens;
            case ROWS: return batch_.num_rows;
            default: return kernels_[op.kind].units(op, batch_);
        }
    }

    void run(int64_t begin, int64_t end, int thread) override {
        const Region& region = regions_[size_t(region_)];
        uint8_t* scratch = scratch_.get() + size_t(thread) * scratch_bytes_;
        const bool is_rows = ops_[size_t(region.first)].domain != TASKS;
        // Row by row, so that what one operator leaves is in the cache for the next.
        const int64_t step = is_rows && region.last - region.first > 1 ? 1 : end - begin;
        for (int64_t unit = begin; unit < end; unit += step)
            for (int64_t i = region.first; i < region.last; i++) {
                const Op& op = ops_[size_t(i)];
                kernels_[op.kind].run(op, batch_, unit, unit + step, scratch);
            }
    }

  private:
    void reserve(int num_threads) {
        const size_t wanted = size_t(num_threads) * scratch_bytes_;
        if (wanted <= reserved_) return;
        scratch_.reset(static_cast<uint8_t*>(std::aligned_alloc(64, wanted)));
        if (!scratch_) throw std::bad_alloc();
        reserved_ = wanted;
    }

    struct Free {
        void operator()(uint8_t* bytes) const { std::free(bytes); }
    };

    Kernel kernels_[NUM_OPS] = {};
    std::vector<Op> ops_;
    std::vector<Region> regions_;
    int64_t first_row_region_ = 0;
    const int64_t row_block_;
    size_t scratch_bytes_ = 64;
    size_t reserved_ = 0;
    std::unique_ptr<uint8_t[], Free> scratch_;
    Batch batch_{};
    int64_t num_rows_ = 0;
    int64_t region_ = -1;
    int64_t* region_ns_ = nullptr;
    int64_t began_ns_ = 0;
};

}  // namespace

}  // namespace zonda

// What `native.py` calls. Nothing throws across; null and negative results mean out of memory or
// threads.
extern "C" {

int32_t zonda_op_bytes() { return int32_t(sizeof(zonda::Op)); }

int32_t zonda_batch_bytes() { return int32_t(sizeof(zonda::Batch)); }

// Name of a compiled variant, best first; null past the last one.
const char* zonda_variant_name(int32_t index) {
    return index >= 0 && index < zonda::NUM_VARIANTS ? zonda::VARIANTS[index].name : nullptr;
}

int32_t zonda_variant_is_supported(int32_t index) { return zonda::VARIANTS[index].is_supported(); }

void* zonda_pool_open(int32_t num_threads) {
    try {
        return new zonda::Pool(num_threads);
    } catch (const std::exception&) {
        return nullptr;
    }
}

void zonda_pool_close(void* pool) { delete static_cast<zonda::Pool*>(pool); }

void* zonda_program_open(int32_t variant, const zonda::Op* ops, int64_t num_ops, int64_t first_row_op,
                         int64_t row_block) {
    try {
        auto program = std::make_unique<zonda::Program>(
            zonda::VARIANTS[variant], ops, num_ops, first_row_op, row_block);
        return program->is_complete() ? program.release() : nullptr;
    } catch (const std::exception&) {
        return nullptr;
    }
}

void zonda_program_close(void* program) { delete static_cast<zonda::Program*>(program); }

int64_t zonda_program_num_regions(void* program) { return static_cast<zonda::Program*>(program)->num_regions(); }

// Runs one step and waits for it. Returns the nanoseconds it took, -1 when memory ran out.
int64_t zonda_program_run(void* program, void* pool, const zonda::Batch* batch, int64_t* region_ns) {
    const int64_t began = zonda::now_ns();
    try {
        static_cast<zonda::Program*>(program)->run_step(*static_cast<zonda::Pool*>(pool), *batch, region_ns);
    } catch (const std::exception&) {
        return -1;
    }
    return zonda::now_ns() - began;
}

}  // extern "C"
