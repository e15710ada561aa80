// Packing: rows as GGUF files have them to the tiles of `formats.h`. Compiled once: a few whole
// words at a time keep up with any disk.
#include <cstdint>
#include <cstring>

#include "formats.h"
#include "quantised.h"

namespace zonda {

namespace {

// One block of one row, taken apart.
struct RowBlock {
    alignas(64) uint8_t codes[256];
    uint8_t scales[16], offsets[16];  // of sub-blocks; E8M0 and 16-bit scales as their bytes
    uint16_t d, m;
};

uint16_t load16(const uint8_t* p) { return uint16_t(p[0] | p[1] << 8); }

constexpr uint16_t negative(uint16_t f16) { return uint16_t(f16 ^ 0x8000); }

// Low nibbles of `count` bytes, then their high nibbles.
void nibbles(const uint8_t* p, int count, uint8_t* codes) {
    for (int i = 0; i < count; i++) codes[i] = p[i] & 15;
    for (int i = 0; i < count; i++) codes[count + i] = p[i] >> 4;
}

// 2 bits of 4 times 32 numbers in each 32 of the `count` bytes.
void two_bits(const uint8_t* p, int count, uint8_t* codes) {
    for (int start = 0; start < count; start += 32)
        for (int plane = 0; plane < 4; plane++)
            for (int i = 0; i < 32; i++) *codes++ = p[start + i] >> 2 * plane & 3;
}

void fifth_bits(const uint8_t* p, uint8_t* codes) {
    for (int i = 0; i < 32; i++) codes[i] = uint8_t(codes[i] | (p[i / 8] >> i % 8 & 1) << 4);
}

// d and dmin, the packed 6-bit scales and minimums of Q4_K and Q5_K.
void read_k_head(const uint8_t* p, RowBlock& block) {
    block.d = load16(p);
    block.m = negative(load16(p + 2));
    const uint8_t *low = p + 4, *high = p + 8, *rest = p + 12;
    for (int i = 0; i < 4; i++) {
        block.scales[i] = low[i] & 63;
        block.scales[4 + i] = uint8_t((rest[i] & 15) | (low[i] >> 2 & 48));
        block.offsets[i] = high[i] & 63;
        block.offsets[4 + i] = uint8_t(rest[i] >> 4 | (high[i] >> 2 & 48));
    }
}

// What a file's block holds: bytes of a block, and how to take one apart. Layouts as the decoders of
// `runtime.quant` describe them.
template <int FORMAT>
struct Source;

template <>
struct Source<PACKED_Q4_0> {
    static constexpr int BYTES = 18;
    static void read(const uint8_t* p, RowBlock& block) {
        block.d = load16(p);
        nibbles(p + 2, 16, block.codes);
    }
};
template <>
struct Source<PACKED_Q4_1> {
    static constexpr int BYTES = 20;
    static void read(const uint8_t* p, RowBlock& block) {
        block.d = load16(p);
        block.m = load16(p + 2);
        nibbles(p + 4, 16, block.codes);
    }
};
template <>
struct Source<PACKED_Q5_0> {
    static constexpr int BYTES = 22;
    static void read(const uint8_t* p, RowBlock& block) {
        block.d = load16(p);
        nibbles(p + 6, 16, block.codes);
        fifth_bits(p + 2, block.codes);
    }
};
template <>
struct Source<PACKED_Q5_1> {
    static constexpr int BYTES = 24;
    static void read(const uint8_t* p, RowBlock& block) {
        block.d = load16(p);
        block.m = load16(p + 2);
        nibbles(p + 8, 16, block.codes);
        fifth_bits(p + 4, block.codes);
    }
};
template <>
struct Source<PACKED_Q8_0> {
    static constexpr int BYTES = 34;
    static void read(const uint8_t* p, RowBlock& block) {
        block.d = load16(p);
        for (int i = 0; i < 32; i++) block.codes[i] = p[2 + i] ^ 128;
    }
};
template <>
struct Source<PACKED_Q2_K> {
    static constexpr int BYTES = 84;
    static void read(const uint8_t* p, RowBlock& block) {
        memcpy(block.scales, p, 16);
        two_bits(p + 16, 64, block.codes);
        block.d = load16(p + 80);
        block.m = negative(load16(p + 82));
    }
};
template <>
struct Source<PACKED_Q3_K> {
    static constexpr int BYTES = 110;
    static void read(const uint8_t* p, RowBlock& block) {
        two_bits(p + 32, 64, block.codes);
        for (int i = 0; i < 256; i++) block.codes[i] = uint8_t(block.codes[i] | (p[i % 32] >> i / 32 & 1) << 2);
        nibbles(p + 96, 8, block.scales);
        for (int i = 0; i < 16; i++)
            block.scales[i] = uint8_t(block.scales[i] | (p[104 + i % 4] >> 2 * (i / 4) & 3) << 4);
        block.d = load16(p + 108);
    }
};
template <>
struct Source<PACKED_Q4_K> {
    static constexpr int BYTES = 144;
    static void read(const uint8_t* p, RowBlock& block) {
        read_k_head(p, block);
        for (int i = 0; i < 4; i++) nibbles(p + 16 + 32 * i, 32, block.codes + 64 * i);
    }
};
template <>
struct Source<PACKED_Q5_K> {
    static constexpr int BYTES = 176;
    static void read(const uint8_t* p, RowBlock& block) {
        read_k_head(p, block);
        for (int i = 0; i < 4; i++) nibbles(p + 48 + 32 * i, 32, block.codes + 64 * i);
        for (int g = 0; g < 8; g++)
            for (int i = 0; i < 32; i++)
                block.codes[32 * g + i] = uint8_t(block.codes[32 * g + i] | (p[16 + i] >> g & 1) << 4);
    }
};
template <>
struct Source<PACKED_Q6_K> {
    static constexpr int BYTES = 210;
    static void read(const uint8_t* p, RowBlock& block) {
        for (int half = 0; half < 2; half++) {
            uint8_t* codes = block.codes + 128 * half;
            nibbles(p + 64 * half, 64, codes);
            const uint8_t* upper = p + 128 + 32 * half;
            for (int plane = 0; plane < 4; plane++)
                for (int i = 0; i < 32; i++)
                    codes[32 * plane + i] = uint8_t(codes[32 * plane + i] | (upper[i] >> 2 * plane & 3) << 4);
        }
        memcpy(block.scales, p + 192, 16);
        block.d = load16(p + 208);
    }
};
template <>
struct Source<PACKED_IQ4_NL> : Source<PACKED_Q4_0> {};
template <>
struct Source<PACKED_IQ4_XS> {
    static constexpr int BYTES = 136;
    static void read(const uint8_t* p, RowBlock& block) {
        block.d = load16(p);
        const int upper = load16(p + 2);
        for (int i = 0; i < 8; i++) {
            const int low = p[4 + i / 2] >> 4 * (i % 2) & 15;
            block.scales[i] = uint8_t((low | (upper >> 2 * i & 3) << 4) - 32);
            nibbles(p + 8 + 16 * i, 16, block.codes + 32 * i);
        }
    }
};
template <>
struct Source<PACKED_MXFP4> {
    static constexpr int BYTES = 17;
    static void read(const uint8_t* p, RowBlock& block) {
        block.scales[0] = p[0];
        nibbles(p + 1, 16, block.codes);
    }
};
// As `transcode.py` prepares it: two float16 scales, two times 8 bytes of nibbles.
template <>
struct Source<PACKED_NVFP4> {
    static constexpr int BYTES = 20;
    static void read(const uint8_t* p, RowBlock& block) {
        memcpy(block.scales, p, 4);
        nibbles(p + 4, 8, block.codes);
        nibbles(p + 12, 8, block.codes + 16);
    }
};
template <>
struct Source<PACKED_TQ2_0> {
    static constexpr int BYTES = 66;
    static void read(const uint8_t* p, RowBlock& block) {
        two_bits(p, 64, block.codes);
        block.d = load16(p + 64);
    }
};
// As `transcode.py` prepares them: float16 d, 16 or 8 scales, 128 bytes of nibbles.
template <int SUB_BLOCKS>
struct TableSource {
    static constexpr int BYTES = 2 + SUB_BLOCKS + 128;
    static void read(const uint8_t* p, RowBlock& block) {
        block.d = load16(p);
        memcpy(block.scales, p + 2, SUB_BLOCKS);
        nibbles(p + 2 + SUB_BLOCKS, 128, block.codes);
    }
};
template <>
struct Source<PACKED_IQ1> : TableSource<16> {};
template <>
struct Source<PACKED_IQ2> : TableSource<16> {};
template <>
struct Source<PACKED_IQ3_XXS> : TableSource<8> {};
template <>
struct Source<PACKED_IQ3_S> : TableSource<8> {};

// Words of all lanes into planes: COUNT words, `words[lane][word]`.
template <int LOW, int HIGH, int COUNT>
void pack_words(const uint8_t* const words[TILE], uint8_t* packed) {
    constexpr int PER_LOW = 8 / LOW, LOWS = COUNT / PER_LOW;
    for (int lane = 0; lane < TILE; lane++) {
        uint32_t word[COUNT];
        memcpy(word, words[lane], sizeof word);
        for (int v = 0; v < LOWS; v++) {
            uint32_t low = 0;
            for (int i = 0; i < PER_LOW; i++)
                low |= (word[PER_LOW * v + i] & 0x01010101u * ((1u << LOW) - 1)) << LOW * i;
            memcpy(packed + 64 * v + 4 * lane, &low, 4);
        }
        if constexpr (HIGH > 0) {
            constexpr int PER_HIGH = 8 / HIGH;
            for (int v = 0; v < COUNT / PER_HIGH; v++) {
                uint32_t high = 0;
                for (int i = 0; i < PER_HIGH; i++)
                    high |= (word[PER_HIGH * v + i] >> LOW & 0x01010101u * ((1u << HIGH) - 1)) << HIGH * i;
                memcpy(packed + 64 * (LOWS + v) + 4 * lane, &high, 4);
            }
        }
    }
}

template <int FORMAT>
void pack_scales(const RowBlock* blocks, uint8_t* packed) {
    constexpr Format F = FORMATS[FORMAT];
    constexpr int SUB_BLOCKS = F.block / F.sub_block;
    if constexpr (F.scale == ScaleKind::U6) {
        // [sub-block][lane] bytes, as four words of 16 lanes.
        alignas(4) uint8_t bytes[TILE][TILE];
        const uint8_t* words[TILE];
        for (int i = 0; i < TILE; i++) {
            // Lane i of word j is bytes 64 j + 4 i onwards of the 256.
            words[i] = bytes[i];
            for (int j = 0; j < 16; j++) {
                const int at = 64 * (j / 4) + 4 * i + j % 4;
                bytes[i][j] = blocks[at % TILE].scales[at / TILE];
            }
        }
        pack_words<4, 2, 4>(words, packed + sub_scale_start(F));
    }
    for (int lane = 0; lane < TILE; lane++) {
        const RowBlock& block = blocks[lane];
        if constexpr (has_bytes(F) || F.scale == ScaleKind::U4 || F.scale == ScaleKind::E8M0)
            for (int i = 0; i < SUB_BLOCKS; i++) packed[sub_scale_start(F) + TILE * i + lane] = block.scales[i];
        if constexpr (has_bytes(F) && F.has_offset)
            for (int i = 0; i < SUB_BLOCKS; i++) packed[sub_offset_start(F) + TILE * i + lane] = block.offsets[i];
        if constexpr (F.scale == ScaleKind::F16_TWO)
            for (int i = 0; i < 2; i++)
                memcpy(packed + sub_scale_start(F) + 2 * TILE * i + 2 * lane, block.scales + 2 * i, 2);
        if constexpr (has_f16_scale(F)) memcpy(packed + scale_start(F) + 2 * lane, &block.d, 2);
        if constexpr (F.has_offset) memcpy(packed + offset_start(F) + 2 * lane, &block.m, 2);
    }
}

// One tile of which `num_lanes` rows exist, `row_bytes` apart.
template <int FORMAT>
void pack_tile(const uint8_t* source, uint8_t* packed, int num_lanes, int64_t columns) {
    constexpr Format F = FORMATS[FORMAT];
    const int64_t num_blocks = columns / F.block;
    RowBlock blocks[TILE] = {};
    for (int64_t b = 0; b < num_blocks; b++, packed += block_bytes(F)) {
        for (int lane = 0; lane < num_lanes; lane++)
            Source<FORMAT>::read(source + (lane * num_blocks + b) * Source<FORMAT>::BYTES, blocks[lane]);
        for (int group = 0; group < F.block / GROUP; group++) {
            const uint8_t* words[TILE];
            for (int lane = 0; lane < TILE; lane++) words[lane] = blocks[lane].codes + GROUP * group;
            pack_words<F.low_bits, F.high_bits, GROUP / 4>(words, packed + group * group_bytes(F));
        }
        pack_scales<FORMAT>(blocks, packed);
    }
}

template <typename Number>
void pack_dense(const uint8_t* source, uint8_t* packed, int num_lanes, int64_t columns) {
    constexpr int64_t SIZE = sizeof(Number);
    for (int64_t k = 0; k < columns; k++)
        for (int lane = 0; lane < TILE; lane++) {
            Number number = 0;
            if (lane < num_lanes) memcpy(&number, source + (lane * columns + k) * SIZE, SIZE);
            memcpy(packed + (k * TILE + lane) * SIZE, &number, SIZE);
        }
}

struct Packer {
    int64_t block_bytes;  // in the file
    void (*pack)(const uint8_t* source, uint8_t* packed, int num_lanes, int64_t columns);
};

template <int FORMAT>
constexpr Packer packer() {
    return {Source<FORMAT>::BYTES, pack_tile<FORMAT>};
}

// In the order of PackedFormat.
constexpr Packer PACKERS[NUM_PACKED_FORMATS] = {
    {4, pack_dense<uint32_t>}, {2, pack_dense<uint16_t>}, {2, pack_dense<uint16_t>},
    packer<3>(),  packer<4>(),  packer<5>(),  packer<6>(),  packer<7>(),  packer<8>(),  packer<9>(),
    packer<10>(), packer<11>(), packer<12>(), packer<13>(), packer<14>(), packer<15>(), packer<16>(),
    packer<17>(), packer<18>(), packer<19>(), packer<20>(), packer<21>(),
};

}  // namespace

}  // namespace zonda

extern "C" {

// Bytes of an activation row of that many columns.
int64_t zonda_quantized_row_bytes(int64_t columns) { return zonda::QuantisedLayout(columns).row_bytes; }

// Bytes of a packed weight; `columns` is a multiple of the format's block.
int64_t zonda_packed_bytes(int32_t format, int64_t rows, int64_t columns) {
    return zonda::num_tiles(rows) * zonda::tile_bytes(zonda::FORMATS[format], columns);
}

// Packs tiles first_tile..last_tile-1 of the rows at `source` into the weight at `packed`.
void zonda_pack(int32_t format, const uint8_t* source, uint8_t* packed, int64_t rows, int64_t columns,
                int64_t first_tile, int64_t last_tile) {
    using namespace zonda;
    const Packer& packer = PACKERS[format];
    const int64_t row_bytes = columns / FORMATS[format].block * packer.block_bytes;
    const int64_t stride = tile_bytes(FORMATS[format], columns);
    for (int64_t tile = first_tile; tile < last_tile; tile++) {
        const int64_t left = rows - TILE * tile;
        const int num_lanes = int(left < TILE ? left : TILE);
        packer.pack(source + TILE * tile * row_bytes, packed + tile * stride, num_lanes, columns);
    }
}

}  // extern "C"
