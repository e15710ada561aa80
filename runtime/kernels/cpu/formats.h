// Packed weights: how the numbers of a weight [N, K] lie in memory once they are packed.
//
// 16 rows are a tile, one row a lane; a tile holds its blocks of 32 or 256 numbers of every row one
// after the other, ascending in K. A block has groups of 32 numbers, and a group has 8 words of 64
// bytes: byte 4 n + i of word j is the code of lane n's number 4 j + i. Words are stored in planes:
// the low 8, 4 or 2 bits of all codes, then the next 1 or 2 bits. Scales follow the groups of a
// block, at the file's own precision. The last tile of a weight is filled up with zeros.
//
// Dense weights (float32, float16, bfloat16) are tiles of [K][16 lanes].
#pragma once

#include <cstdint>

namespace zonda {

// Mirrored by name in `packing.py`.
enum PackedFormat : int32_t {
    PACKED_F32 = 0,
    PACKED_F16 = 1,
    PACKED_BF16 = 2,
    PACKED_Q4_0 = 3,
    PACKED_Q4_1 = 4,
    PACKED_Q5_0 = 5,
    PACKED_Q5_1 = 6,
    PACKED_Q8_0 = 7,
    PACKED_Q2_K = 8,
    PACKED_Q3_K = 9,
    PACKED_Q4_K = 10,
    PACKED_Q5_K = 11,
    PACKED_Q6_K = 12,
    PACKED_IQ4_NL = 13,
    PACKED_IQ4_XS = 14,
    PACKED_MXFP4 = 15,
    PACKED_NVFP4 = 16,
    PACKED_TQ2_0 = 17,
    // Formats of grids, as codes of 4 bits: IQ1_S and IQ1_M; IQ2_XXS, IQ2_XS and IQ2_S.
    PACKED_IQ1 = 18,
    PACKED_IQ2 = 19,
    PACKED_IQ3_XXS = 20,
    PACKED_IQ3_S = 21,
    NUM_PACKED_FORMATS
};

enum class ScaleKind {
    NONE,     // dense
    F16,      // float16 d for a block
    F16_TWO,  // float16 d for each 16 numbers
    E8M0,     // 2 ** (byte - 128) for a block
    U8,       // float16 d for a block times a byte for each sub-block
    I8,       // the same with a signed byte
    U6,       // the same with 6 bits less 32, stored as 4 bits and 2 bits
    U4,       // the same with the low 4 bits of a byte whose high 4 bits scale the offset
};

// number = D * (code - zero_point), or D * code + offset
struct Format {
    int block;       // numbers of a row in a block
    int low_bits;
    int high_bits;
    int zero_point;  // a power of two, or 0
    ScaleKind scale;
    int sub_block;   // numbers that share a scale
    bool has_offset; // float16 m: the offset of a block, or times a byte that of a sub-block
    int table;       // codes of 4 bits stand for TABLES[table], -1: for themselves
    float unit = 1;  // a power of two that D has as a factor
};

constexpr int GROUP = 32;
constexpr int TILE = 16;

// Values of 4-bit codes, plus the format's zero point. `transcode.py` has those of the grids.
alignas(16) constexpr uint8_t TABLES[6][16] = {
    // IQ4: a curve of 16 values, -127 to 113
    {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241},
    // twice E2M1
    {16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4},
    // IQ1: 8 * (-1, 0, 1), less 1 and more 1
    {7, 15, 23, 9, 17, 25, 16, 16, 16, 16, 16, 16, 16, 16, 16, 16},
    // IQ2: 8, 25, 43 and their negatives
    {72, 89, 107, 64, 64, 64, 64, 64, 56, 39, 21, 64, 64, 64, 64, 64},
    // IQ3_XXS: 4, 12 ... 44, 52, 62 and their negatives
    {68, 76, 84, 92, 100, 108, 116, 126, 60, 52, 44, 36, 28, 20, 12, 2},
    // IQ3_S: odd numbers to 15 and their negatives
    {17, 19, 21, 23, 25, 27, 29, 31, 15, 13, 11, 9, 7, 5, 3, 1},
};

constexpr Format FORMATS[NUM_PACKED_FORMATS] = {
    {1, 32, 0, 0, ScaleKind::NONE, 1, false, -1},      // F32
    {1, 16, 0, 0, ScaleKind::NONE, 1, false, -1},      // F16
    {1, 16, 0, 0, ScaleKind::NONE, 1, false, -1},      // BF16
    {32, 4, 0, 8, ScaleKind::F16, 32, false, -1},      // Q4_0
    {32, 4, 0, 0, ScaleKind::F16, 32, true, -1},       // Q4_1
    {32, 4, 1, 16, ScaleKind::F16, 32, false, -1},     // Q5_0
    {32, 4, 1, 0, ScaleKind::F16, 32, true, -1},       // Q5_1
    {32, 8, 0, 128, ScaleKind::F16, 32, false, -1},    // Q8_0
    {256, 2, 0, 0, ScaleKind::U4, 16, true, -1},       // Q2_K
    {256, 2, 1, 4, ScaleKind::U6, 16, false, -1},      // Q3_K
    {256, 4, 0, 0, ScaleKind::U8, 32, true, -1},       // Q4_K
    {256, 4, 1, 0, ScaleKind::U8, 32, true, -1},       // Q5_K
    {256, 4, 2, 32, ScaleKind::I8, 16, false, -1},     // Q6_K
    {32, 4, 0, 128, ScaleKind::F16, 32, false, 0},     // IQ4_NL
    {256, 4, 0, 128, ScaleKind::I8, 32, false, 0},     // IQ4_XS
    {32, 4, 0, 16, ScaleKind::E8M0, 32, false, 1},     // MXFP4
    {32, 4, 0, 16, ScaleKind::F16_TWO, 16, false, 1},  // NVFP4
    {256, 2, 0, 1, ScaleKind::F16, 32, false, -1},     // TQ2_0
    {256, 4, 0, 16, ScaleKind::U8, 16, false, 2, 0.125f},  // IQ1
    {256, 4, 0, 64, ScaleKind::U8, 16, false, 3, 0.125f},  // IQ2
    {256, 4, 0, 64, ScaleKind::U8, 32, false, 4, 0.25f},   // IQ3_XXS
    {256, 4, 0, 16, ScaleKind::U8, 32, false, 5},          // IQ3_S
};

constexpr bool is_dense(const Format& f) { return f.scale == ScaleKind::NONE; }
// Codes above 127 need `dot_wide`.
constexpr bool is_wide(const Format& f) { return f.zero_point == 128; }
constexpr bool has_bytes(const Format& f) { return f.scale == ScaleKind::U8 || f.scale == ScaleKind::I8; }

// Where the parts of a block stand, in bytes.
constexpr int group_bytes(const Format& f) { return 64 * (f.low_bits + f.high_bits); }
constexpr int sub_scale_start(const Format& f) { return f.block / GROUP * group_bytes(f); }
constexpr int sub_scale_bytes(const Format& f) {
    int per_byte = TILE * (f.block / f.sub_block);
    return has_bytes(f)                    ? (f.has_offset ? 2 : 1) * per_byte
           : f.scale == ScaleKind::U4      ? per_byte
           : f.scale == ScaleKind::U6      ? per_byte * 3 / 4
           : f.scale == ScaleKind::E8M0    ? TILE
           : f.scale == ScaleKind::F16_TWO ? 2 * per_byte
                                           : 0;
}
constexpr int sub_offset_start(const Format& f) { return sub_scale_start(f) + TILE * (f.block / f.sub_block); }
constexpr int scale_start(const Format& f) { return sub_scale_start(f) + sub_scale_bytes(f); }
constexpr bool has_f16_scale(const Format& f) {
    return f.scale != ScaleKind::E8M0 && f.scale != ScaleKind::F16_TWO;
}
constexpr int offset_start(const Format& f) { return scale_start(f) + (has_f16_scale(f) ? 2 * TILE : 0); }
constexpr int block_bytes(const Format& f) {
    return is_dense(f) ? TILE * f.low_bits / 8 : offset_start(f) + (f.has_offset ? 2 * TILE : 0);
}

constexpr int64_t tile_bytes(const Format& f, int64_t columns) { return columns / f.block * block_bytes(f); }
constexpr int64_t num_tiles(int64_t rows) { return (rows + TILE - 1) / TILE; }

static_assert(block_bytes(FORMATS[PACKED_Q4_1]) == 16 * 20, "Q4_1 takes what it takes in a file");
static_assert(block_bytes(FORMATS[PACKED_Q6_K]) == 16 * 210, "so does Q6_K");
static_assert(block_bytes(FORMATS[PACKED_Q2_K]) == 16 * 84, "so does Q2_K");
static_assert(block_bytes(FORMATS[PACKED_Q3_K]) == 16 * 110, "so does Q3_K");
static_assert(block_bytes(FORMATS[PACKED_Q4_K]) == 2368, "Q4_K has its 6-bit scales as bytes");

}  // namespace zonda
