// Lists the compiled variants and asks the processor which of them it can run.
#include "variants.h"

#if defined(__linux__) && defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace zonda {

#define DECLARE(variant) namespace variant { void add_kernels(Kernel* table); }
DECLARE(scalar)

namespace {

bool always() { return true; }

#if defined(__x86_64__)
bool has_avx2() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
bool has_avx512() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
}
// Compilers name this one differently, if at all: leaf 7, subleaf 1, EAX bit 4.
bool has_avxvnni() {
    uint32_t a = 7, b = 0, c = 1, d = 0;
    asm volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    return has_avx2() && (a >> 4 & 1);
}
#elif defined(__linux__) && defined(__aarch64__)
bool has_dotprod() { return getauxval(AT_HWCAP) & HWCAP_ASIMDDP; }
bool has_i8mm() { return has_dotprod() && (getauxval(AT_HWCAP2) & HWCAP2_I8MM); }
#elif defined(__APPLE__) && defined(__aarch64__)
bool has_feature(const char* name) {
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value;
}
bool has_dotprod() { return has_feature("hw.optional.arm.FEAT_DotProd"); }
bool has_i8mm() { return has_dotprod() && has_feature("hw.optional.arm.FEAT_I8MM"); }
#endif

}  // namespace

#if defined(__x86_64__)
DECLARE(avx2)
DECLARE(avxvnni)
DECLARE(avx512)
const Variant VARIANTS[] = {
    {"avx512", has_avx512, avx512::add_kernels},
    {"avxvnni", has_avxvnni, avxvnni::add_kernels},
    {"avx2", has_avx2, avx2::add_kernels},
    {"scalar", always, scalar::add_kernels},
};
#elif defined(__aarch64__)
DECLARE(neon)
DECLARE(i8mm)
const Variant VARIANTS[] = {
    {"i8mm", has_i8mm, i8mm::add_kernels},
    {"neon", has_dotprod, neon::add_kernels},
    {"scalar", always, scalar::add_kernels},
};
#else
const Variant VARIANTS[] = {{"scalar", always, scalar::add_kernels}};
#endif
const int NUM_VARIANTS = int(sizeof VARIANTS / sizeof VARIANTS[0]);

}  // namespace zonda
