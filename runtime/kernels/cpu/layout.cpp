// Sizes of the buffers whose inside only the kernels know.
#include <algorithm>

#include "plan.h"

extern "C" {

// Bytes of one page of one layer.
int64_t zonda_kv_page_bytes(int32_t kv_type, int64_t num_kv_heads, int64_t head_dim) {
    return zonda::kv_layout(kv_type, num_kv_heads, head_dim).page_bytes;
}

// Upper bounds for any step; what a step does not use is never touched.
int64_t zonda_attention_plan_bytes(int64_t max_tokens, int64_t max_sequences, int64_t max_context,
                                   int64_t num_heads, int64_t num_kv_heads) {
    return zonda::plan_bytes(max_tokens, max_sequences, max_context, num_heads, num_kv_heads);
}

int64_t zonda_attention_partial_bytes(int64_t max_tokens, int64_t max_sequences,
                                      int64_t max_context, int64_t num_heads, int64_t head_dim) {
    int64_t max_states = std::min(max_tokens, max_sequences) * zonda::num_partitions(max_context);
    return max_states * num_heads * zonda::state_floats(head_dim) * int64_t(sizeof(float));
}

}  // extern "C"
