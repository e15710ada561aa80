// One instruction set's table of kernels; compiled per variant.
#include "kernels.h"
#include "simd.h"

namespace zonda::ZONDA_VARIANT {

void add_matmul_kernels(Kernel* table);
void add_row_kernels(Kernel* table);
void add_attention_kernels(Kernel* table);
void add_sampling_kernels(Kernel* table);

void add_kernels(Kernel* table) {
    add_matmul_kernels(table);
    add_row_kernels(table);
    add_attention_kernels(table);
    add_sampling_kernels(table);
}

}  // namespace zonda::ZONDA_VARIANT
