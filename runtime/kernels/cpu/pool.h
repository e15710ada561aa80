// A team of threads that walks through regions of work together.
//
// Work units of a region are dealt to the threads in equal ranges; who is done takes over from the
// others' ends, so a thread that the system put aside holds nobody up for long. Between jobs the
// threads look out for the next one for a moment, then sleep.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace zonda {

// Regions of work, one after the other.
class Job {
  public:
    virtual ~Job() = default;
    // Units of the next region, or -1 when all is done. Called by one thread at a time, when every
    // unit before it has been run.
    virtual int64_t next_region() = 0;
    // Runs units begin..end-1 of the current region.
    virtual void run(int64_t begin, int64_t end, int thread) = 0;
};

class Pool {
  public:
    explicit Pool(int num_threads);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int num_threads() const { return num_threads_; }

    // Runs a job to its end; the caller is thread 0. One job at a time.
    void run(Job& job);

  private:
    // Units [begin, end) that are still to be taken, in one word: begin << 32 | end.
    struct alignas(64) Range {
        std::atomic<uint64_t> units{0};
        // How long its thread looks before it yields.
        int spins = 0;
    };

    void close();
    void serve(int thread);
    void work(int thread);
    bool take(int owner, bool is_mine, int64_t& begin, int64_t& end);
    // Deals the next region that is worth sharing; runs those that are not. False at the end.
    bool deal(int thread);
    void wait_for_region(uint32_t generation, int& spins);

    const int num_threads_;
    std::unique_ptr<Range[]> ranges_;
    Job* job_ = nullptr;
    int64_t chunk_ = 1;
    // The generation that ended the last job. The next job cannot end before every thread has read it.
    std::atomic<uint32_t> over_{0};
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<uint32_t> generation_{0};
    alignas(64) std::atomic<uint32_t> job_number_{0};
    std::atomic<int> num_sleeping_{0};
    std::atomic<bool> is_closing_{false};
    std::mutex mutex_;
    std::condition_variable wake_;
    std::vector<std::thread> threads_;
};

}  // namespace zonda
