// Packed blocks to vectors: the codes of a group as 8 words, its scales and offsets as float32.
#pragma once

#include "formats.h"
#include "simd.h"

namespace zonda::ZONDA_VARIANT {

constexpr int WORDS = GROUP / 4;

// Bits of the high plane of `words` to position `AT` of their bytes.
template <int BITS, int AT, int WORD>
ZONDA_INLINE U8x64 high_bits(const U8x64* plane) {
    constexpr int PER_VECTOR = 8 / BITS;
    constexpr int FROM = BITS * (WORD % PER_VECTOR);
    U8x64 mask = bytes1(uint8_t(((1 << BITS) - 1) << AT));
    U8x64 bits = plane[WORD / PER_VECTOR];
    if constexpr (FROM < AT) return shift16_left<AT - FROM>(bits) & mask;
    else return shift16_right<FROM - AT>(bits) & mask;
}

template <int LOW, int HIGH, int WORD>
ZONDA_INLINE U8x64 code_word(const U8x64* low, const U8x64* high) {
    constexpr int PER_VECTOR = 8 / LOW;
    U8x64 word = low[WORD / PER_VECTOR];
    if constexpr (LOW < 8) word = shift16_right<LOW * (WORD % PER_VECTOR)>(word) & bytes1((1 << LOW) - 1);
    if constexpr (HIGH > 0) word = word | high_bits<HIGH, LOW, WORD>(high);
    return word;
}

template <int LOW, int HIGH, int COUNT, int WORD = 0>
ZONDA_INLINE void code_words(const U8x64* low, const U8x64* high, U8x64* words) {
    if constexpr (WORD < COUNT) {
        words[WORD] = code_word<LOW, HIGH, WORD>(low, high);
        code_words<LOW, HIGH, COUNT, WORD + 1>(low, high, words);
    }
}

// The first COUNT words whose planes start at `packed`.
template <int LOW, int HIGH, int COUNT>
ZONDA_INLINE void load_words(const uint8_t* packed, U8x64* words) {
    constexpr int LOWS = COUNT * LOW / 8, HIGHS = COUNT * HIGH / 8;
    U8x64 low[LOWS], high[HIGHS + 1];
    for (int i = 0; i < LOWS; i++) low[i] = load_bytes(packed + 64 * i);
    for (int i = 0; i < HIGHS; i++) high[i] = load_bytes(packed + 64 * (LOWS + i));
    code_words<LOW, HIGH, COUNT>(low, high, words);
}

// The codes of a group; with a table what they stand for, plus the zero point.
template <int FORMAT>
ZONDA_INLINE void unpack_group(const uint8_t* group, U8x64* words) {
    constexpr Format F = FORMATS[FORMAT];
    load_words<F.low_bits, F.high_bits, WORDS>(group, words);
    if constexpr (F.table >= 0)
        for (int j = 0; j < WORDS; j++) words[j] = look_up(TABLES[F.table], words[j]);
}

ZONDA_INLINE F32x16 load_e8m0(const uint8_t* p) {
    // 2 ** (byte - 128) as two factors: one alone is no normal number for bytes 0 and 1.
    F32x16 exponent = load_u8(p) - set1(128.0f);
    F32x16 half = round(exponent * set1(0.5f));
    return times_power_of_two(times_power_of_two(set1(1.0f), half), exponent - half);
}

// Scales and offsets of one block, by sub-block.
template <int FORMAT>
struct Scales {
    static constexpr Format F = FORMATS[FORMAT];
    static constexpr bool NIBBLES = F.scale == ScaleKind::U4 || F.scale == ScaleKind::U6;
    const uint8_t* block;
    // Sub-scales of fewer than 8 bits as bytes, after them those of offsets.
    alignas(64) uint8_t bytes[NIBBLES ? 512 : 1];

    __attribute__((always_inline)) explicit Scales(const uint8_t* packed) : block(packed) {
        const uint8_t* scales = block + sub_scale_start(F);
        if constexpr (F.scale == ScaleKind::U6) {
            U8x64 words[4];
            load_words<4, 2, 4>(scales, words);
            for (int i = 0; i < 4; i++) store_bytes(bytes + 64 * i, words[i]);
        }
        if constexpr (F.scale == ScaleKind::U4) {
            for (int i = 0; i < 4; i++) {
                U8x64 both = load_bytes(scales + 64 * i);
                store_bytes(bytes + 64 * i, both & bytes1(15));
                store_bytes(bytes + 256 + 64 * i, shift16_right<4>(both) & bytes1(15));
            }
        }
    }

    __attribute__((always_inline)) F32x16 halves(int start) const {
        return load_f16(reinterpret_cast<const uint16_t*>(block + start));
    }

    __attribute__((always_inline)) F32x16 scale(int sub_block) const {
        const uint8_t* subs = block + sub_scale_start(F) + TILE * sub_block;
        if constexpr (F.scale == ScaleKind::E8M0) return load_e8m0(subs);
        else if constexpr (F.scale == ScaleKind::F16_TWO) return halves(sub_scale_start(F) + 2 * TILE * sub_block);
        else if constexpr (F.scale == ScaleKind::F16) return halves(scale_start(F));
        else if constexpr (F.scale == ScaleKind::U8 && F.unit != 1)
            return halves(scale_start(F)) * load_u8(subs) * set1(F.unit);
        else if constexpr (F.scale == ScaleKind::U8) return halves(scale_start(F)) * load_u8(subs);
        else if constexpr (F.scale == ScaleKind::I8)
            return halves(scale_start(F)) * load_i8(reinterpret_cast<const int8_t*>(subs));
        else if constexpr (F.scale == ScaleKind::U6)
            return halves(scale_start(F)) * (load_u8(bytes + TILE * sub_block) - set1(32.0f));
        else return halves(scale_start(F)) * load_u8(bytes + TILE * sub_block);
    }

    __attribute__((always_inline)) F32x16 offset(int sub_block) const {
        if constexpr (F.scale == ScaleKind::U8)
            return halves(offset_start(F)) * load_u8(block + sub_offset_start(F) + TILE * sub_block);
        else if constexpr (F.scale == ScaleKind::U4)
            return halves(offset_start(F)) * load_u8(bytes + 256 + TILE * sub_block);
        else return halves(offset_start(F));
    }
};

}  // namespace zonda::ZONDA_VARIANT
