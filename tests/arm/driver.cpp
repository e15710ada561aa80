// Runs operators for tests on a machine that cannot load the library: under an emulator.
//
// The first line of the output names the sizes of the structs and the variants. Then
// each request on the input is a Request, a Batch, the operators and one image of memory; their
// pointers are offsets into the image, 0 is null. The answer is the image as the program left it.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <vector>

#include "kernels.h"

extern "C" {
int32_t zonda_op_bytes();
int32_t zonda_batch_bytes();
const char* zonda_variant_name(int32_t index);
int32_t zonda_variant_is_supported(int32_t index);
void* zonda_pool_open(int32_t num_threads);
void zonda_pool_close(void* pool);
void* zonda_program_open(int32_t variant, const zonda::Op* ops, int64_t num_ops,
                         int64_t first_row_op, int64_t row_block);
void zonda_program_close(void* program);
int64_t zonda_program_run(void* program, void* pool, const zonda::Batch* batch, int64_t* region_ns);
}

namespace {

// Mirrored in `tests/helpers/cpu_driver.py`.
struct Request {
    int64_t variant, num_threads, first_row_op, row_block, num_ops, image_bytes;
};

constexpr size_t ALIGNMENT = 64;

bool read(void* target, size_t size) { return fread(target, 1, size, stdin) == size; }

[[noreturn]] void fail(const char* what) {
    fprintf(stderr, "driver: %s\n", what);
    exit(1);
}

template <class T>
void relocate(T*& pointer, uint8_t* image) {
    if (pointer) pointer = reinterpret_cast<T*>(image + reinterpret_cast<uintptr_t>(pointer));
}

void relocate(zonda::Batch& batch, uint8_t* image) {
    uint8_t* first = reinterpret_cast<uint8_t*>(&batch.token_ids);
    uint8_t* end = reinterpret_cast<uint8_t*>(&batch + 1);
    for (; first < end; first += sizeof(void*)) {
        uint8_t* pointer;
        memcpy(&pointer, first, sizeof pointer);
        relocate(pointer, image);
        memcpy(first, &pointer, sizeof pointer);
    }
}

void run(const Request& request, void* pool) {
    zonda::Batch batch;
    std::vector<zonda::Op> ops(size_t(request.num_ops));
    const size_t room = (size_t(request.image_bytes) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    uint8_t* image = static_cast<uint8_t*>(aligned_alloc(ALIGNMENT, room));
    if (!image) fail("no memory");
    if (!read(&batch, sizeof batch) || !read(ops.data(), ops.size() * sizeof(zonda::Op)) ||
        !read(image, size_t(request.image_bytes)))
        fail("a request was cut short");
    relocate(batch, image);
    for (zonda::Op& op : ops)
        for (void*& pointer : op.p) relocate(pointer, image);
    void* program = zonda_program_open(int32_t(request.variant), ops.data(), request.num_ops,
                                       request.first_row_op, request.row_block);
    if (!program || zonda_program_run(program, pool, &batch, nullptr) < 0) fail("no memory");
    zonda_program_close(program);
    fwrite(image, 1, size_t(request.image_bytes), stdout);
    fflush(stdout);
    free(image);
}

}  // namespace

int main() {
    printf("%d %d", zonda_op_bytes(), zonda_batch_bytes());
    for (int32_t i = 0; zonda_variant_name(i); i++) {
        if (!zonda_variant_is_supported(i)) fail("the emulator cannot run every instruction set");
        printf(" %s", zonda_variant_name(i));
    }
    printf("\n");
    fflush(stdout);
    std::map<int64_t, void*> pools;
    Request request;
    while (read(&request, sizeof request)) {
        void*& pool = pools[request.num_threads];
        if (!pool) pool = zonda_pool_open(int32_t(request.num_threads));
        if (!pool) fail("no threads");
        run(request, pool);
    }
    for (auto& entry : pools) zonda_pool_close(entry.second);
}
