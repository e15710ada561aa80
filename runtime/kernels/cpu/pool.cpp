#include "pool.h"

#include <algorithm>

namespace zonda {

namespace {

// Looks at one word, of about 20 ns each. Between jobs a thread sleeps after as many as make 0.1 ms.
constexpr int SPINS_BETWEEN_JOBS = 5'000;
// Between regions it yields after 20 us to 0.2 ms: late where that is in vain, for the system may put who
// yields behind others for milliseconds, even behind what nobody waits for; soon where the others of the
// team have to wait for a processor.
constexpr int LEAST_SPINS = 1'000;
constexpr int MOST_SPINS = 10'000;
// A range is taken in so many chunks: few enough to stream through memory, enough to help others.
constexpr int CHUNKS_OF_A_RANGE = 4;

inline void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("isb");
#endif
}

inline uint64_t pack(int64_t begin, int64_t end) { return uint64_t(begin) << 32 | uint64_t(end); }

}  // namespace

Pool::Pool(int num_threads) : num_threads_(num_threads), ranges_(new Range[size_t(num_threads)]) {
    try {
        for (int thread = 1; thread < num_threads; thread++) threads_.emplace_back(&Pool::serve, this, thread);
    } catch (...) {
        close();
        throw;
    }
}

Pool::~Pool() { close(); }

void Pool::close() {
    {
        std::lock_guard<std::mutex> lock(mutex_);
        is_closing_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
}

void Pool::run(Job& job) {
    job_ = &job;
    if (!deal(0)) return;
    job_number_.fetch_add(1);
    if (num_sleeping_.load()) {
        std::lock_guard<std::mutex> lock(mutex_);
        wake_.notify_all();
    }
    work(0);
}

void Pool::serve(int thread) {
    uint32_t done = 0;
    while (true) {
        for (int i = 0; job_number_.load(std::memory_order_acquire) == done; i++) {
            if (is_closing_.load(std::memory_order_relaxed)) return;
            if (i < SPINS_BETWEEN_JOBS) {
                pause();
            } else {
                std::unique_lock<std::mutex> lock(mutex_);
                num_sleeping_++;
                wake_.wait(lock, [&] { return is_closing_ || job_number_.load() != done; });
                num_sleeping_--;
            }
        }
        done++;
        work(thread);
    }
}

void Pool::work(int thread) {
    while (true) {
        const uint32_t generation = generation_.load(std::memory_order_acquire);
        for (int i = 0; i < num_threads_; i++) {
            int owner = (thread + i) % num_threads_;
            int64_t begin, end;
            while (take(owner, i == 0, begin, end)) job_->run(begin, end, thread);
        }
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == num_threads_) {
            if (!deal(thread)) over_.store(generation + 1, std::memory_order_relaxed);
            arrived_.store(0, std::memory_order_relaxed);
            generation_.store(generation + 1, std::memory_order_release);
        } else {
            wait_for_region(generation, ranges_[size_t(thread)].spins);
        }
        if (over_.load(std::memory_order_relaxed) == generation + 1) return;
    }
}

void Pool::wait_for_region(uint32_t generation, int& spins) {
    int i = 0;
    for (; generation_.load(std::memory_order_acquire) == generation; i++) {
        if (i < spins) pause();
        else std::this_thread::yield();
    }
    // In balance where one look in twenty is in vain.
    spins += i > spins ? -spins / 4 : spins / 64;
    spins = std::clamp(spins, LEAST_SPINS, MOST_SPINS);
}

bool Pool::take(int owner, bool is_mine, int64_t& begin, int64_t& end) {
    std::atomic<uint64_t>& units = ranges_[size_t(owner)].units;
    uint64_t now = units.load(std::memory_order_relaxed);
    while (true) {
        begin = int64_t(now >> 32);
        end = int64_t(now & 0xFFFFFFFF);
        if (begin >= end) return false;
        const int64_t count = std::min(chunk_, end - begin);
        const uint64_t rest = is_mine ? pack(begin + count, end) : pack(begin, end - count);
        if (units.compare_exchange_weak(now, rest, std::memory_order_acq_rel)) {
            if (is_mine) end = begin + count;
            else begin = end - count;
            return true;
        }
    }
}

bool Pool::deal(int thread) {
    int64_t units = job_->next_region();
    // One unit, or a team of one: cheaper than telling the others.
    while (units >= 0 && (units <= 1 || num_threads_ == 1)) {
        if (units > 0) job_->run(0, units, thread);
        units = job_->next_region();
    }
    if (units < 0) return false;
    chunk_ = std::max<int64_t>(1, units / (num_threads_ * CHUNKS_OF_A_RANGE));
    for (int64_t i = 0; i < num_threads_; i++) {
        const uint64_t range = pack(units * i / num_threads_, units * (i + 1) / num_threads_);
        ranges_[size_t(i)].units.store(range, std::memory_order_relaxed);
    }
    return true;
}

}  // namespace zonda
