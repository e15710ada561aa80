// What this machine can do at most: bytes read from memory, int8 and float32 operations a second.
// Figures that kernels are held against; no kernel is called here.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <system_error>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace zonda {

namespace {

constexpr double PEAK_SECONDS = 0.02;
constexpr int64_t ROUNDS_BETWEEN_LOOKS = 4096;  // at the clock
constexpr size_t HUGE_PAGE = 2 << 20;

double now() {
    std::chrono::duration<double> since_start = std::chrono::steady_clock::now().time_since_epoch();
    return since_start.count();
}

// Calls work(thread) on all threads at the same time; false when they could not be started.
template <class Work>
bool run_together(int num_threads, const Work& work) {
    enum { WAIT, GO, LEAVE };
    std::atomic<int> signal{WAIT}, num_ready{0};
    std::unique_ptr<std::thread[]> threads(new (std::nothrow) std::thread[size_t(num_threads)]);
    if (!threads) return false;
    int num_started = 0;
    auto serve = [&](int thread) {
        num_ready++;
        while (signal == WAIT) std::this_thread::yield();
        if (signal == GO) work(thread);
    };
    try {
        for (; num_started < num_threads; num_started++) threads[num_started] = std::thread(serve, num_started);
    } catch (const std::system_error&) {
    }
    while (num_ready < num_started) std::this_thread::yield();
    signal = num_started == num_threads ? GO : LEAVE;
    for (int i = 0; i < num_started; i++) threads[i].join();
    return num_started == num_threads;
}

// Vectors of several widths over any memory.
typedef uint64_t Bytes16 __attribute__((vector_size(16), may_alias));
typedef uint64_t Bytes32 __attribute__((vector_size(32), may_alias));
typedef uint64_t Bytes64 __attribute__((vector_size(64), may_alias));

// What is read at a time; parts of a buffer are multiples of it.
constexpr size_t BLOCK_BYTES = 256;

#define READ_LOOP(Vector)                                            \
    constexpr int COUNT = BLOCK_BYTES / sizeof(Vector);              \
    Vector a = {}, b = {}, c = {}, d = {};                           \
    for (; first < last; first += BLOCK_BYTES) {                     \
        const Vector* block = reinterpret_cast<const Vector*>(first); \
        for (int i = 0; i < COUNT; i += 4) {                         \
            a |= block[i];                                           \
            b |= block[i + 1];                                       \
            c |= block[i + 2];                                       \
            d |= block[i + 3];                                       \
        }                                                            \
    }                                                                \
    a |= b | c | d;                                                  \
    asm volatile("" : : "m"(a));

// A round is one instruction on each of twelve sums: more than its latency times how many start in
// a cycle. The empty assembly keeps the compiler from working the sums out beforehand.
#define TWELVE(F) F(0) F(1) F(2) F(3) F(4) F(5) F(6) F(7) F(8) F(9) F(10) F(11)
#define DECLARE_SUM(i) auto sum##i = zero;
#define ADVANCE_SUM(i) sum##i = NEXT(sum##i); asm volatile("" : REGISTER(sum##i));
#define LOOP                                                                 \
    TWELVE(DECLARE_SUM)                                                      \
    for (int64_t round = 0; round < rounds; round++) { TWELVE(ADVANCE_SUM) }

#if defined(__x86_64__)

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))
#define AVXVNNI __attribute__((target("avx2,fma,avxvnni")))
#define AVX2 __attribute__((target("avx2,fma")))

AVX512 void read_avx512(const char* first, const char* last) { READ_LOOP(Bytes64) }
AVX2 void read_avx2(const char* first, const char* last) { READ_LOOP(Bytes32) }

#define REGISTER "+v"
#define NEXT(sum) _mm512_dpbusd_epi32(sum, a, b)
AVX512 void multiply_int8_avx512(int64_t rounds) {
    __m512i zero = _mm512_setzero_si512(), a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(1);
    LOOP
}
#undef NEXT
#define NEXT(sum) _mm512_fmadd_ps(a, b, sum)
AVX512 void multiply_float_avx512(int64_t rounds) {
    __m512 zero = _mm512_setzero_ps(), a = _mm512_set1_ps(0.5f), b = _mm512_set1_ps(1e-6f);
    LOOP
}
#undef NEXT
#undef REGISTER
#define REGISTER "+x"
#define NEXT(sum) _mm256_dpbusd_avx_epi32(sum, a, b)
AVXVNNI void multiply_int8_avxvnni(int64_t rounds) {
    __m256i zero = _mm256_setzero_si256(), a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(1);
    LOOP
}
#undef NEXT
#define NEXT(sum) _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), ones)); asm volatile("" : "+x"(a))
AVX2 void multiply_int8_avx2(int64_t rounds) {
    __m256i zero = _mm256_setzero_si256(), a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(1);
    __m256i ones = _mm256_set1_epi16(1);
    LOOP
}
#undef NEXT
#define NEXT(sum) _mm256_fmadd_ps(a, b, sum)
AVX2 void multiply_float_avx2(int64_t rounds) {
    __m256 zero = _mm256_setzero_ps(), a = _mm256_set1_ps(0.5f), b = _mm256_set1_ps(1e-6f);
    LOOP
}
#undef NEXT
#undef REGISTER

#elif defined(__aarch64__)

#define DOTPROD __attribute__((target("arch=armv8.2-a+dotprod")))
#define I8MM __attribute__((target("arch=armv8.2-a+dotprod+i8mm")))

#define REGISTER "+w"
#define NEXT(sum) vmmlaq_s32(sum, a, b)
I8MM void multiply_int8_i8mm(int64_t rounds) {
    int32x4_t zero = vdupq_n_s32(0);
    int8x16_t a = vdupq_n_s8(3), b = vdupq_n_s8(1);
    LOOP
}
#undef NEXT
#define NEXT(sum) vdotq_s32(sum, a, b)
DOTPROD void multiply_int8_neon(int64_t rounds) {
    int32x4_t zero = vdupq_n_s32(0);
    int8x16_t a = vdupq_n_s8(3), b = vdupq_n_s8(1);
    LOOP
}
#undef NEXT
#define NEXT(sum) vfmaq_f32(sum, a, b)
void multiply_float_neon(int64_t rounds) {
    float32x4_t zero = vdupq_n_f32(0), a = vdupq_n_f32(0.5f), b = vdupq_n_f32(1e-6f);
    LOOP
}
#undef NEXT
#undef REGISTER

#endif

void read_words(const char* first, const char* last) { READ_LOOP(Bytes16) }

#define REGISTER "+r"
#define NEXT(sum) sum + a * b; asm volatile("" : "+r"(a))
void multiply_int8_scalar(int64_t rounds) {
    int32_t zero = 0, a = 3, b = int32_t(rounds);
    LOOP
}
#undef NEXT
#undef REGISTER
#if defined(__x86_64__)
#define REGISTER "+x"
#elif defined(__aarch64__)
#define REGISTER "+w"
#else
#define REGISTER "+f"
#endif
#define NEXT(sum) sum + a * b; asm volatile("" : REGISTER(a))
void multiply_float_scalar(int64_t rounds) {
    float zero = 0, a = 0.5f, b = float(rounds);
    LOOP
}

// The widest loads and the fastest multiplications of a variant, and how many one instruction does.
struct Peak {
    const char* variant;
    void (*read)(const char* first, const char* last);
    void (*multiply_int8)(int64_t rounds);
    int num_int8;
    void (*multiply_float)(int64_t rounds);
    int num_float;
};

const Peak PEAKS[] = {
#if defined(__x86_64__)
    {"avx512", read_avx512, multiply_int8_avx512, 64, multiply_float_avx512, 16},
    {"avxvnni", read_avx2, multiply_int8_avxvnni, 32, multiply_float_avx2, 8},
    {"avx2", read_avx2, multiply_int8_avx2, 32, multiply_float_avx2, 8},
#elif defined(__aarch64__)
    {"i8mm", read_words, multiply_int8_i8mm, 32, multiply_float_neon, 4},
    {"neon", read_words, multiply_int8_neon, 16, multiply_float_neon, 4},
#endif
    {"scalar", read_words, multiply_int8_scalar, 1, multiply_float_scalar, 1},
};

const Peak* find_peak(const char* variant) {
    for (const Peak& peak : PEAKS)
        if (!strcmp(peak.variant, variant)) return &peak;
    return nullptr;
}

// Memory in huge pages, where the system gives them; each thread has a part of it.
class Buffer {
public:
    Buffer(int64_t num_bytes, int num_threads)
        : part_bytes_(size_t(num_bytes) / size_t(num_threads) / BLOCK_BYTES * BLOCK_BYTES),
          num_bytes_((part_bytes_ * size_t(num_threads) / HUGE_PAGE + 1) * HUGE_PAGE),
          data_(static_cast<char*>(std::aligned_alloc(HUGE_PAGE, num_bytes_))) {
#if defined(__linux__)
        if (data_) madvise(data_, num_bytes_, MADV_HUGEPAGE);
#endif
    }
    ~Buffer() { std::free(data_); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;

    bool is_there() const { return data_; }
    size_t part_bytes() const { return part_bytes_; }
    char* part(int thread) const { return data_ + part_bytes_ * size_t(thread); }

private:
    size_t part_bytes_, num_bytes_;
    char* data_;
};

}  // namespace

}  // namespace zonda

using namespace zonda;

extern "C" {

// Reads `num_bytes` of memory `repeats` times with `num_threads`, each its own part, by the widest
// loads of a variant; writes the bytes per second of each time. 0, or -1 when there is no such
// variant, or memory or threads are short.
int32_t zonda_measure_read_bandwidth(
    const char* variant, int32_t num_threads, int64_t num_bytes, int32_t repeats, double* per_second
) {
    const Peak* peak = find_peak(variant);
    Buffer buffer(num_bytes, num_threads);
    std::unique_ptr<double[]> times(new (std::nothrow) double[2 * size_t(num_threads)]);
    if (!peak || !buffer.is_there() || !times) return -1;
    double *begins = times.get(), *ends = begins + num_threads;
    size_t part_bytes = buffer.part_bytes();
    auto fill = [&](int thread) { memset(buffer.part(thread), thread + 1, part_bytes); };
    auto read = [&](int thread) {
        begins[thread] = now();
        peak->read(buffer.part(thread), buffer.part(thread) + part_bytes);
        ends[thread] = now();
    };
    if (!run_together(num_threads, fill)) return -1;
    for (int i = 0; i < repeats; i++) {
        if (!run_together(num_threads, read)) return -1;
        double took = *std::max_element(ends, ends + num_threads) - *std::min_element(begins, ends);
        per_second[i] = double(part_bytes) * num_threads / took;
    }
    return 0;
}

// Multiplies and adds in registers with the best instructions of a variant; writes operations per
// second (two to a multiplication), of float32 where `is_float`, else of int8. 0, or -1 as above.
int32_t zonda_measure_peak(
    const char* variant, int32_t is_float, int32_t num_threads, int32_t repeats, double* per_second
) {
    const Peak* peak = find_peak(variant);
    std::unique_ptr<double[]> rates(new (std::nothrow) double[size_t(num_threads)]);
    if (!peak || !rates) return -1;
    auto multiply = is_float ? peak->multiply_float : peak->multiply_int8;
    double num_operations = 2.0 * 12 * (is_float ? peak->num_float : peak->num_int8);
    for (int i = 0; i < repeats; i++) {
        auto work = [&](int thread) {
            double began = now(), ended = began, num_rounds = 0;
            for (; ended < began + PEAK_SECONDS; ended = now(), num_rounds += ROUNDS_BETWEEN_LOOKS)
                multiply(ROUNDS_BETWEEN_LOOKS);
            rates[size_t(thread)] = num_rounds * num_operations / (ended - began);
        };
        if (!run_together(num_threads, work)) return -1;
        per_second[i] = 0;
        for (int thread = 0; thread < num_threads; thread++) per_second[i] += rates[size_t(thread)];
    }
    return 0;
}

}  // extern "C"
