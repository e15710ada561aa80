// Stands in for the variants that a library leaves out: weak, so that those it has take their place.
namespace zonda {

struct Kernel;

#define LEAVE_OUT(variant) \
    namespace variant { __attribute__((weak)) void add_kernels(Kernel*) {} }
LEAVE_OUT(avx2)
LEAVE_OUT(avxvnni)
LEAVE_OUT(avx512)
LEAVE_OUT(neon)
LEAVE_OUT(i8mm)

}  // namespace zonda
