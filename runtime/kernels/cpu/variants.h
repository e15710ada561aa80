// The instruction sets that the kernels were compiled for.
#pragma once

#include "kernels.h"

namespace zonda {

struct Variant {
    const char* name;
    bool (*is_supported)();  // by the machine this runs on
    void (*add_kernels)(Kernel* table);
};

// Best first; the last one runs everywhere.
extern const Variant VARIANTS[];
extern const int NUM_VARIANTS;

}  // namespace zonda
