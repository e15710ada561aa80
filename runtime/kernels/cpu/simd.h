// Vectors of 16 lanes for every instruction set, one source for all kernels.
//
// A variant is compiled with -DZONDA_VARIANT=name and that set's compiler flags. All variants do
// the same operations in the same order (fused multiply-add only where `fma` is written, one fixed
// tree for sums over lanes), so their results are equal to the last bit; the scalar one is the
// twin that says what the others mean.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#ifndef ZONDA_VARIANT
#error "compile with -DZONDA_VARIANT=scalar, avx2, avxvnni, avx512, neon or i8mm"
#endif

#if defined(__AVX512F__) || defined(__AVX2__)
// GCC 12 takes the deliberately undefined vectors of its own header for mistakes (bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#elif defined(__ARM_FEATURE_DOTPROD) && !defined(ZONDA_SCALAR)
#include <arm_neon.h>
#endif

#define ZONDA_INLINE static inline __attribute__((always_inline))

// Before a loop with a constant count: its arrays of vectors become registers.
#if defined(__clang__)
#define ZONDA_UNROLL _Pragma("unroll")
#else
#define ZONDA_UNROLL _Pragma("GCC unroll 8")
#endif

namespace zonda::ZONDA_VARIANT {

constexpr int LANES = 16;

// f16 and bf16 as in files: exact widening, narrowing to nearest even.
ZONDA_INLINE float widen_bf16(uint16_t bits) {
    uint32_t wide = uint32_t(bits) << 16;
    float value;
    memcpy(&value, &wide, 4);
    return value;
}

ZONDA_INLINE uint16_t narrow_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return uint16_t((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

ZONDA_INLINE float widen_f16(uint16_t bits) {
    uint32_t sign = uint32_t(bits & 0x8000) << 16, exponent = (bits >> 10) & 31, fraction = bits & 0x3FF;
    float value;
    if (exponent == 0) {
        value = float(fraction) * 0x1p-24f;
        uint32_t wide;
        memcpy(&wide, &value, 4);
        wide |= sign;
        memcpy(&value, &wide, 4);
        return value;
    }
    uint32_t wide = sign | (exponent == 31 ? 0x7F800000u : (exponent + 112) << 23) | fraction << 13;
    memcpy(&value, &wide, 4);
    return value;
}

#if defined(__AVX512F__)

struct F32x16 { __m512 v; };
struct I32x16 { __m512i v; };
struct U8x64 { __m512i v; };

ZONDA_INLINE F32x16 zero() { return {_mm512_setzero_ps()}; }
ZONDA_INLINE F32x16 set1(float x) { return {_mm512_set1_ps(x)}; }
ZONDA_INLINE F32x16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
ZONDA_INLINE void store(float* p, F32x16 x) { _mm512_storeu_ps(p, x.v); }
ZONDA_INLINE F32x16 operator+(F32x16 a, F32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
ZONDA_INLINE F32x16 operator-(F32x16 a, F32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
ZONDA_INLINE F32x16 operator*(F32x16 a, F32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
ZONDA_INLINE F32x16 operator/(F32x16 a, F32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
ZONDA_INLINE F32x16 fma(F32x16 a, F32x16 b, F32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
ZONDA_INLINE F32x16 max(F32x16 a, F32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
ZONDA_INLINE F32x16 min(F32x16 a, F32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }
ZONDA_INLINE F32x16 abs(F32x16 a) { return {_mm512_abs_ps(a.v)}; }
ZONDA_INLINE F32x16 round(F32x16 a) {
    return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
ZONDA_INLINE F32x16 load_f16(const uint16_t* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
ZONDA_INLINE F32x16 load_bf16(const uint16_t* p) {
    __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
}
ZONDA_INLINE void store_bf16(uint16_t* p, F32x16 x) {
    __m512i bits = _mm512_castps_si512(x.v);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF)), odd);
    __m256i half = _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), half);
}
ZONDA_INLINE F32x16 load_i8(const int8_t* p) {
    __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))};
}
ZONDA_INLINE F32x16 load_u8(const uint8_t* p) {
    __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes))};
}
// Lanes of `x`, each in -128..127 and whole, as int8.
ZONDA_INLINE void store_i8(int8_t* p, F32x16 x) {
    __m128i bytes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x.v));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}
ZONDA_INLINE F32x16 to_float(I32x16 a) { return {_mm512_cvtepi32_ps(a.v)}; }
// x * 2**n for whole n in -126..127.
ZONDA_INLINE F32x16 times_power_of_two(F32x16 x, F32x16 n) {
    __m512i exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127));
    return {_mm512_mul_ps(x.v, _mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23)))};
}
// Lanes first..last-1 of `x`, `other` in the rest.
ZONDA_INLINE F32x16 keep_lanes(F32x16 x, int first, int last, F32x16 other) {
    __mmask16 mask = __mmask16(((1u << last) - 1) & ~((1u << first) - 1));
    return {_mm512_mask_blend_ps(mask, other.v, x.v)};
}

// Lanes of `y` where `x` is above `bound`, 0 in the rest.
ZONDA_INLINE F32x16 zero_unless_above(F32x16 y, F32x16 x, float bound) {
    __mmask16 above = _mm512_cmp_ps_mask(x.v, _mm512_set1_ps(bound), _CMP_GT_OQ);
    return {_mm512_maskz_mov_ps(above, y.v)};
}
// A bit per lane: whether `x` is above `bound`.
ZONDA_INLINE uint32_t lanes_above(F32x16 x, float bound) {
    return _mm512_cmp_ps_mask(x.v, _mm512_set1_ps(bound), _CMP_GT_OQ);
}
// Lanes of `x` whose bit is set, `other` in the rest.
ZONDA_INLINE F32x16 pick_lanes(F32x16 x, uint32_t bits, F32x16 other) {
    return {_mm512_mask_blend_ps(__mmask16(bits), other.v, x.v)};
}
// Lane i ^ DISTANCE in the place of lane i; DISTANCE is 1, 2, 4 or 8.
template <int DISTANCE> ZONDA_INLINE F32x16 swap_lanes(F32x16 x) {
    if constexpr (DISTANCE == 1) return {_mm512_permute_ps(x.v, 0xB1)};
    else if constexpr (DISTANCE == 2) return {_mm512_permute_ps(x.v, 0x4E)};
    else if constexpr (DISTANCE == 4) return {_mm512_shuffle_f32x4(x.v, x.v, 0xB1)};
    else return {_mm512_shuffle_f32x4(x.v, x.v, 0x4E)};
}

ZONDA_INLINE I32x16 izero() { return {_mm512_setzero_si512()}; }
ZONDA_INLINE I32x16 iset1(int32_t x) { return {_mm512_set1_epi32(x)}; }
ZONDA_INLINE I32x16 operator+(I32x16 a, I32x16 b) { return {_mm512_add_epi32(a.v, b.v)}; }
template <int N> ZONDA_INLINE I32x16 shift_left(I32x16 a) { return {_mm512_slli_epi32(a.v, N)}; }
ZONDA_INLINE void istore(int32_t* p, I32x16 x) { _mm512_storeu_si512(p, x.v); }

ZONDA_INLINE U8x64 load_bytes(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
ZONDA_INLINE void store_bytes(uint8_t* p, U8x64 x) { _mm512_storeu_si512(p, x.v); }
ZONDA_INLINE U8x64 bytes1(uint8_t x) { return {_mm512_set1_epi8(char(x))}; }
ZONDA_INLINE U8x64 operator&(U8x64 a, U8x64 b) { return {_mm512_and_si512(a.v, b.v)}; }
ZONDA_INLINE U8x64 operator|(U8x64 a, U8x64 b) { return {_mm512_or_si512(a.v, b.v)}; }
// Shifts of every 16 bits: bits of the neighbouring byte come in, mask them away.
template <int N> ZONDA_INLINE U8x64 shift16_right(U8x64 a) { return {_mm512_srli_epi16(a.v, N)}; }
template <int N> ZONDA_INLINE U8x64 shift16_left(U8x64 a) { return {_mm512_slli_epi16(a.v, N)}; }
// table[index] for indices 0..15.
ZONDA_INLINE U8x64 look_up(const uint8_t* table, U8x64 index) {
    __m128i values = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
    return {_mm512_shuffle_epi8(_mm512_broadcast_i32x4(values), index.v)};
}

#elif defined(__AVX2__)

struct F32x16 { __m256 lo, hi; };
struct I32x16 { __m256i lo, hi; };
struct U8x64 { __m256i lo, hi; };

ZONDA_INLINE F32x16 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
ZONDA_INLINE F32x16 set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
ZONDA_INLINE F32x16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
ZONDA_INLINE void store(float* p, F32x16 x) { _mm256_storeu_ps(p, x.lo); _mm256_storeu_ps(p + 8, x.hi); }
ZONDA_INLINE F32x16 operator+(F32x16 a, F32x16 b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
ZONDA_INLINE F32x16 operator-(F32x16 a, F32x16 b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
ZONDA_INLINE F32x16 operator*(F32x16 a, F32x16 b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
ZONDA_INLINE F32x16 operator/(F32x16 a, F32x16 b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
ZONDA_INLINE F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
    return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
ZONDA_INLINE F32x16 max(F32x16 a, F32x16 b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
ZONDA_INLINE F32x16 min(F32x16 a, F32x16 b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
ZONDA_INLINE F32x16 abs(F32x16 a) {
    __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi)};
}
ZONDA_INLINE F32x16 round(F32x16 a) {
    return {_mm256_round_ps(a.lo, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
            _mm256_round_ps(a.hi, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
ZONDA_INLINE F32x16 load_f16(const uint16_t* p) {
    const __m128i* half = reinterpret_cast<const __m128i*>(p);
    return {_mm256_cvtph_ps(_mm_loadu_si128(half)), _mm256_cvtph_ps(_mm_loadu_si128(half + 1))};
}
ZONDA_INLINE __m256 widen_half(__m128i half) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
ZONDA_INLINE F32x16 load_bf16(const uint16_t* p) {
    const __m128i* half = reinterpret_cast<const __m128i*>(p);
    return {widen_half(_mm_loadu_si128(half)), widen_half(_mm_loadu_si128(half + 1))};
}
ZONDA_INLINE __m256i round_half(__m256 x) {
    __m256i bits = _mm256_castps_si256(x);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd);
    return _mm256_srli_epi32(rounded, 16);
}
ZONDA_INLINE void store_bf16(uint16_t* p, F32x16 x) {
    __m256i packed = _mm256_packus_epi32(round_half(x.lo), round_half(x.hi));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xD8));
}
ZONDA_INLINE F32x16 load_i8(const int8_t* p) {
    __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
}
ZONDA_INLINE F32x16 load_u8(const uint8_t* p) {
    __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)),
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8)))};
}
ZONDA_INLINE void store_i8(int8_t* p, F32x16 x) {
    __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(x.lo), _mm256_cvtps_epi32(x.hi));
    words = _mm256_permute4x64_epi64(words, 0xD8);
    __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}
ZONDA_INLINE F32x16 to_float(I32x16 a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
ZONDA_INLINE __m256 power_of_two(__m256 n) {
    __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}
ZONDA_INLINE F32x16 times_power_of_two(F32x16 x, F32x16 n) {
    return {_mm256_mul_ps(x.lo, power_of_two(n.lo)), _mm256_mul_ps(x.hi, power_of_two(n.hi))};
}
ZONDA_INLINE __m256 keep_eight(__m256 x, int first, int last, __m256 other, int base) {
    __m256i lane = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(base));
    __m256i below = _mm256_cmpgt_epi32(_mm256_set1_epi32(last), lane);
    __m256i before = _mm256_cmpgt_epi32(_mm256_set1_epi32(first), lane);
    return _mm256_blendv_ps(other, x, _mm256_castsi256_ps(_mm256_andnot_si256(before, below)));
}
ZONDA_INLINE F32x16 keep_lanes(F32x16 x, int first, int last, F32x16 other) {
    return {keep_eight(x.lo, first, last, other.lo, 0), keep_eight(x.hi, first, last, other.hi, 8)};
}

ZONDA_INLINE F32x16 zero_unless_above(F32x16 y, F32x16 x, float bound) {
    __m256 limit = _mm256_set1_ps(bound);
    return {_mm256_and_ps(y.lo, _mm256_cmp_ps(x.lo, limit, _CMP_GT_OQ)),
            _mm256_and_ps(y.hi, _mm256_cmp_ps(x.hi, limit, _CMP_GT_OQ))};
}
ZONDA_INLINE uint32_t lanes_above(F32x16 x, float bound) {
    __m256 limit = _mm256_set1_ps(bound);
    return uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(x.lo, limit, _CMP_GT_OQ))) |
           uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(x.hi, limit, _CMP_GT_OQ))) << 8;
}
ZONDA_INLINE __m256 pick_eight(__m256 x, uint32_t bits, __m256 other) {
    __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    __m256i kept = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(int(bits)), bit), bit);
    return _mm256_blendv_ps(other, x, _mm256_castsi256_ps(kept));
}
ZONDA_INLINE F32x16 pick_lanes(F32x16 x, uint32_t bits, F32x16 other) {
    return {pick_eight(x.lo, bits, other.lo), pick_eight(x.hi, bits >> 8, other.hi)};
}
template <int DISTANCE> ZONDA_INLINE F32x16 swap_lanes(F32x16 x) {
    if constexpr (DISTANCE == 1) return {_mm256_permute_ps(x.lo, 0xB1), _mm256_permute_ps(x.hi, 0xB1)};
    else if constexpr (DISTANCE == 2) return {_mm256_permute_ps(x.lo, 0x4E), _mm256_permute_ps(x.hi, 0x4E)};
    else if constexpr (DISTANCE == 4)
        return {_mm256_permute2f128_ps(x.lo, x.lo, 1), _mm256_permute2f128_ps(x.hi, x.hi, 1)};
    else return {x.hi, x.lo};
}

ZONDA_INLINE I32x16 izero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
ZONDA_INLINE I32x16 iset1(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
ZONDA_INLINE I32x16 operator+(I32x16 a, I32x16 b) { return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)}; }
template <int N> ZONDA_INLINE I32x16 shift_left(I32x16 a) { return {_mm256_slli_epi32(a.lo, N), _mm256_slli_epi32(a.hi, N)}; }
ZONDA_INLINE void istore(int32_t* p, I32x16 x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.lo);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), x.hi);
}

ZONDA_INLINE U8x64 load_bytes(const uint8_t* p) {
    const __m256i* half = reinterpret_cast<const __m256i*>(p);
    return {_mm256_loadu_si256(half), _mm256_loadu_si256(half + 1)};
}
ZONDA_INLINE void store_bytes(uint8_t* p, U8x64 x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.lo);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 32), x.hi);
}
ZONDA_INLINE U8x64 bytes1(uint8_t x) { return {_mm256_set1_epi8(char(x)), _mm256_set1_epi8(char(x))}; }
ZONDA_INLINE U8x64 operator&(U8x64 a, U8x64 b) { return {_mm256_and_si256(a.lo, b.lo), _mm256_and_si256(a.hi, b.hi)}; }
ZONDA_INLINE U8x64 operator|(U8x64 a, U8x64 b) { return {_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)}; }
template <int N> ZONDA_INLINE U8x64 shift16_right(U8x64 a) { return {_mm256_srli_epi16(a.lo, N), _mm256_srli_epi16(a.hi, N)}; }
template <int N> ZONDA_INLINE U8x64 shift16_left(U8x64 a) { return {_mm256_slli_epi16(a.lo, N), _mm256_slli_epi16(a.hi, N)}; }
ZONDA_INLINE U8x64 look_up(const uint8_t* table, U8x64 index) {
    __m256i values = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
    return {_mm256_shuffle_epi8(values, index.lo), _mm256_shuffle_epi8(values, index.hi)};
}

#elif defined(__ARM_FEATURE_DOTPROD) && !defined(ZONDA_SCALAR)

struct F32x16 { float32x4_t v[4]; };
struct I32x16 { int32x4_t v[4]; };
struct U8x64 { uint8x16_t v[4]; };

#define ZONDA_EACH(T, expression) \
    T result;                     \
    for (int i = 0; i < 4; i++) result.v[i] = expression; \
    return result
ZONDA_INLINE F32x16 set1(float x) { ZONDA_EACH(F32x16, vdupq_n_f32(x)); }
ZONDA_INLINE F32x16 zero() { return set1(0); }
ZONDA_INLINE F32x16 load(const float* p) { ZONDA_EACH(F32x16, vld1q_f32(p + 4 * i)); }
ZONDA_INLINE void store(float* p, F32x16 x) { for (int i = 0; i < 4; i++) vst1q_f32(p + 4 * i, x.v[i]); }
ZONDA_INLINE F32x16 operator+(F32x16 a, F32x16 b) { ZONDA_EACH(F32x16, vaddq_f32(a.v[i], b.v[i])); }
ZONDA_INLINE F32x16 operator-(F32x16 a, F32x16 b) { ZONDA_EACH(F32x16, vsubq_f32(a.v[i], b.v[i])); }
ZONDA_INLINE F32x16 operator*(F32x16 a, F32x16 b) { ZONDA_EACH(F32x16, vmulq_f32(a.v[i], b.v[i])); }
ZONDA_INLINE F32x16 operator/(F32x16 a, F32x16 b) { ZONDA_EACH(F32x16, vdivq_f32(a.v[i], b.v[i])); }
ZONDA_INLINE F32x16 fma(F32x16 a, F32x16 b, F32x16 c) { ZONDA_EACH(F32x16, vfmaq_f32(c.v[i], a.v[i], b.v[i])); }
// a > b ? a : b, as x86 has it: NaN and signed zeros take the second.
ZONDA_INLINE F32x16 max(F32x16 a, F32x16 b) { ZONDA_EACH(F32x16, vbslq_f32(vcgtq_f32(a.v[i], b.v[i]), a.v[i], b.v[i])); }
ZONDA_INLINE F32x16 min(F32x16 a, F32x16 b) { ZONDA_EACH(F32x16, vbslq_f32(vcltq_f32(a.v[i], b.v[i]), a.v[i], b.v[i])); }
ZONDA_INLINE F32x16 abs(F32x16 a) { ZONDA_EACH(F32x16, vabsq_f32(a.v[i])); }
ZONDA_INLINE F32x16 round(F32x16 a) { ZONDA_EACH(F32x16, vrndnq_f32(a.v[i])); }
ZONDA_INLINE F32x16 load_f16(const uint16_t* p) {
    ZONDA_EACH(F32x16, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i))));
}
ZONDA_INLINE F32x16 load_bf16(const uint16_t* p) {
    ZONDA_EACH(F32x16, vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16)));
}
ZONDA_INLINE void store_bf16(uint16_t* p, F32x16 x) {
    for (int i = 0; i < 4; i++) {
        uint32x4_t bits = vreinterpretq_u32_f32(x.v[i]);
        uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
        uint32x4_t rounded = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7FFF)), odd);
        vst1_u16(p + 4 * i, vshrn_n_u32(rounded, 16));
    }
}
ZONDA_INLINE F32x16 load_i8(const int8_t* p) {
    int8x16_t bytes = vld1q_s8(p);
    int16x8_t lo = vmovl_s8(vget_low_s8(bytes)), hi = vmovl_s8(vget_high_s8(bytes));
    return {{vcvtq_f32_s32(vmovl_s16(vget_low_s16(lo))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(lo))),
             vcvtq_f32_s32(vmovl_s16(vget_low_s16(hi))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(hi)))}};
}
ZONDA_INLINE F32x16 load_u8(const uint8_t* p) {
    uint8x16_t bytes = vld1q_u8(p);
    uint16x8_t lo = vmovl_u8(vget_low_u8(bytes)), hi = vmovl_u8(vget_high_u8(bytes));
    return {{vcvtq_f32_u32(vmovl_u16(vget_low_u16(lo))), vcvtq_f32_u32(vmovl_u16(vget_high_u16(lo))),
             vcvtq_f32_u32(vmovl_u16(vget_low_u16(hi))), vcvtq_f32_u32(vmovl_u16(vget_high_u16(hi)))}};
}
ZONDA_INLINE void store_i8(int8_t* p, F32x16 x) {
    int16x8_t lo = vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(x.v[0])), vqmovn_s32(vcvtnq_s32_f32(x.v[1])));
    int16x8_t hi = vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(x.v[2])), vqmovn_s32(vcvtnq_s32_f32(x.v[3])));
    vst1q_s8(p, vcombine_s8(vqmovn_s16(lo), vqmovn_s16(hi)));
}
ZONDA_INLINE F32x16 to_float(I32x16 a) { ZONDA_EACH(F32x16, vcvtq_f32_s32(a.v[i])); }
ZONDA_INLINE F32x16 times_power_of_two(F32x16 x, F32x16 n) {
    ZONDA_EACH(F32x16, vmulq_f32(x.v[i], vreinterpretq_f32_s32(vshlq_n_s32(
        vaddq_s32(vcvtnq_s32_f32(n.v[i]), vdupq_n_s32(127)), 23))));
}
ZONDA_INLINE F32x16 keep_lanes(F32x16 x, int first, int last, F32x16 other) {
    const int32_t start[4] = {0, 1, 2, 3};
    F32x16 result;
    for (int i = 0; i < 4; i++) {
        int32x4_t lane = vaddq_s32(vld1q_s32(start), vdupq_n_s32(4 * i));
        uint32x4_t kept = vandq_u32(vcltq_s32(lane, vdupq_n_s32(last)), vcgeq_s32(lane, vdupq_n_s32(first)));
        result.v[i] = vbslq_f32(kept, x.v[i], other.v[i]);
    }
    return result;
}

ZONDA_INLINE F32x16 zero_unless_above(F32x16 y, F32x16 x, float bound) {
    ZONDA_EACH(F32x16, vbslq_f32(vcgtq_f32(x.v[i], vdupq_n_f32(bound)), y.v[i], vdupq_n_f32(0)));
}
ZONDA_INLINE uint32_t lanes_above(F32x16 x, float bound) {
    const uint32_t first[4] = {1, 2, 4, 8};
    uint32_t bits = 0;
    for (int i = 0; i < 4; i++)
        bits |= vaddvq_u32(vandq_u32(vcgtq_f32(x.v[i], vdupq_n_f32(bound)), vld1q_u32(first))) << 4 * i;
    return bits;
}
ZONDA_INLINE F32x16 pick_lanes(F32x16 x, uint32_t bits, F32x16 other) {
    const uint32_t first[4] = {1, 2, 4, 8};
    ZONDA_EACH(F32x16, vbslq_f32(vtstq_u32(vdupq_n_u32(bits >> 4 * i), vld1q_u32(first)), x.v[i], other.v[i]));
}
template <int DISTANCE> ZONDA_INLINE F32x16 swap_lanes(F32x16 x) {
    if constexpr (DISTANCE == 1) { ZONDA_EACH(F32x16, vrev64q_f32(x.v[i])); }
    else if constexpr (DISTANCE == 2) { ZONDA_EACH(F32x16, vextq_f32(x.v[i], x.v[i], 2)); }
    else { ZONDA_EACH(F32x16, x.v[i ^ (DISTANCE / 4)]); }
}

ZONDA_INLINE I32x16 iset1(int32_t x) { ZONDA_EACH(I32x16, vdupq_n_s32(x)); }
ZONDA_INLINE I32x16 izero() { return iset1(0); }
ZONDA_INLINE I32x16 operator+(I32x16 a, I32x16 b) { ZONDA_EACH(I32x16, vaddq_s32(a.v[i], b.v[i])); }
template <int N> ZONDA_INLINE I32x16 shift_left(I32x16 a) {
    if constexpr (N == 0) return a;
    else { ZONDA_EACH(I32x16, vshlq_n_s32(a.v[i], N)); }
}
ZONDA_INLINE void istore(int32_t* p, I32x16 x) { for (int i = 0; i < 4; i++) vst1q_s32(p + 4 * i, x.v[i]); }

ZONDA_INLINE U8x64 load_bytes(const uint8_t* p) { ZONDA_EACH(U8x64, vld1q_u8(p + 16 * i)); }
ZONDA_INLINE void store_bytes(uint8_t* p, U8x64 x) { for (int i = 0; i < 4; i++) vst1q_u8(p + 16 * i, x.v[i]); }
ZONDA_INLINE U8x64 bytes1(uint8_t x) { ZONDA_EACH(U8x64, vdupq_n_u8(x)); }
ZONDA_INLINE U8x64 operator&(U8x64 a, U8x64 b) { ZONDA_EACH(U8x64, vandq_u8(a.v[i], b.v[i])); }
ZONDA_INLINE U8x64 operator|(U8x64 a, U8x64 b) { ZONDA_EACH(U8x64, vorrq_u8(a.v[i], b.v[i])); }
template <int N> ZONDA_INLINE U8x64 shift16_right(U8x64 a) {
    if constexpr (N == 0) return a;
    else { ZONDA_EACH(U8x64, vreinterpretq_u8_u16(vshrq_n_u16(vreinterpretq_u16_u8(a.v[i]), N))); }
}
template <int N> ZONDA_INLINE U8x64 shift16_left(U8x64 a) {
    if constexpr (N == 0) return a;
    else { ZONDA_EACH(U8x64, vreinterpretq_u8_u16(vshlq_n_u16(vreinterpretq_u16_u8(a.v[i]), N))); }
}
ZONDA_INLINE U8x64 look_up(const uint8_t* table, U8x64 index) {
    uint8x16_t values = vld1q_u8(table);
    ZONDA_EACH(U8x64, vqtbl1q_u8(values, index.v[i]));
}
#undef ZONDA_EACH

#else  // scalar

struct F32x16 { float v[16]; };
struct I32x16 { int32_t v[16]; };
struct U8x64 { uint8_t v[64]; };

#define ZONDA_EACH(T, count, expression) \
    T result;                            \
    for (int i = 0; i < count; i++) result.v[i] = expression; \
    return result
ZONDA_INLINE F32x16 set1(float x) { ZONDA_EACH(F32x16, 16, x); }
ZONDA_INLINE F32x16 zero() { return set1(0); }
ZONDA_INLINE F32x16 load(const float* p) { ZONDA_EACH(F32x16, 16, p[i]); }
ZONDA_INLINE void store(float* p, F32x16 x) { memcpy(p, x.v, 64); }
ZONDA_INLINE F32x16 operator+(F32x16 a, F32x16 b) { ZONDA_EACH(F32x16, 16, a.v[i] + b.v[i]); }
ZONDA_INLINE F32x16 operator-(F32x16 a, F32x16 b) { ZONDA_EACH(F32x16, 16, a.v[i] - b.v[i]); }
ZONDA_INLINE F32x16 operator*(F32x16 a, F32x16 b) { ZONDA_EACH(F32x16, 16, a.v[i] * b.v[i]); }
ZONDA_INLINE F32x16 operator/(F32x16 a, F32x16 b) { ZONDA_EACH(F32x16, 16, a.v[i] / b.v[i]); }
ZONDA_INLINE F32x16 fma(F32x16 a, F32x16 b, F32x16 c) { ZONDA_EACH(F32x16, 16, ::fmaf(a.v[i], b.v[i], c.v[i])); }
ZONDA_INLINE F32x16 max(F32x16 a, F32x16 b) { ZONDA_EACH(F32x16, 16, a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
ZONDA_INLINE F32x16 min(F32x16 a, F32x16 b) { ZONDA_EACH(F32x16, 16, a.v[i] < b.v[i] ? a.v[i] : b.v[i]); }
ZONDA_INLINE F32x16 abs(F32x16 a) { ZONDA_EACH(F32x16, 16, ::fabsf(a.v[i])); }
ZONDA_INLINE F32x16 round(F32x16 a) { ZONDA_EACH(F32x16, 16, ::nearbyintf(a.v[i])); }
ZONDA_INLINE F32x16 load_f16(const uint16_t* p) { ZONDA_EACH(F32x16, 16, widen_f16(p[i])); }
ZONDA_INLINE F32x16 load_bf16(const uint16_t* p) { ZONDA_EACH(F32x16, 16, widen_bf16(p[i])); }
ZONDA_INLINE void store_bf16(uint16_t* p, F32x16 x) { for (int i = 0; i < 16; i++) p[i] = narrow_bf16(x.v[i]); }
ZONDA_INLINE F32x16 load_i8(const int8_t* p) { ZONDA_EACH(F32x16, 16, float(p[i])); }
ZONDA_INLINE F32x16 load_u8(const uint8_t* p) { ZONDA_EACH(F32x16, 16, float(p[i])); }
ZONDA_INLINE void store_i8(int8_t* p, F32x16 x) { for (int i = 0; i < 16; i++) p[i] = int8_t(::nearbyintf(x.v[i])); }
ZONDA_INLINE F32x16 to_float(I32x16 a) { ZONDA_EACH(F32x16, 16, float(a.v[i])); }
ZONDA_INLINE F32x16 times_power_of_two(F32x16 x, F32x16 n) {
    F32x16 result;
    for (int i = 0; i < 16; i++) {
        uint32_t bits = uint32_t(int32_t(n.v[i]) + 127) << 23;
        float power;
        memcpy(&power, &bits, 4);
        result.v[i] = x.v[i] * power;
    }
    return result;
}
ZONDA_INLINE F32x16 keep_lanes(F32x16 x, int first, int last, F32x16 other) {
    ZONDA_EACH(F32x16, 16, i >= first && i < last ? x.v[i] : other.v[i]);
}

ZONDA_INLINE F32x16 zero_unless_above(F32x16 y, F32x16 x, float bound) {
    ZONDA_EACH(F32x16, 16, x.v[i] > bound ? y.v[i] : 0.0f);
}
ZONDA_INLINE uint32_t lanes_above(F32x16 x, float bound) {
    uint32_t bits = 0;
    for (int i = 0; i < 16; i++) bits |= uint32_t(x.v[i] > bound) << i;
    return bits;
}
ZONDA_INLINE F32x16 pick_lanes(F32x16 x, uint32_t bits, F32x16 other) {
    ZONDA_EACH(F32x16, 16, bits >> i & 1 ? x.v[i] : other.v[i]);
}
template <int DISTANCE> ZONDA_INLINE F32x16 swap_lanes(F32x16 x) { ZONDA_EACH(F32x16, 16, x.v[i ^ DISTANCE]); }

ZONDA_INLINE I32x16 iset1(int32_t x) { ZONDA_EACH(I32x16, 16, x); }
ZONDA_INLINE I32x16 izero() { return iset1(0); }
ZONDA_INLINE I32x16 operator+(I32x16 a, I32x16 b) { ZONDA_EACH(I32x16, 16, a.v[i] + b.v[i]); }
template <int N> ZONDA_INLINE I32x16 shift_left(I32x16 a) { ZONDA_EACH(I32x16, 16, a.v[i] * (1 << N)); }
ZONDA_INLINE void istore(int32_t* p, I32x16 x) { memcpy(p, x.v, 64); }

ZONDA_INLINE U8x64 load_bytes(const uint8_t* p) { ZONDA_EACH(U8x64, 64, p[i]); }
ZONDA_INLINE void store_bytes(uint8_t* p, U8x64 x) { memcpy(p, x.v, 64); }
ZONDA_INLINE U8x64 bytes1(uint8_t x) { ZONDA_EACH(U8x64, 64, x); }
ZONDA_INLINE U8x64 operator&(U8x64 a, U8x64 b) { ZONDA_EACH(U8x64, 64, a.v[i] & b.v[i]); }
ZONDA_INLINE U8x64 operator|(U8x64 a, U8x64 b) { ZONDA_EACH(U8x64, 64, a.v[i] | b.v[i]); }
// Byte by byte: what comes in from the neighbour elsewhere is masked away everywhere.
template <int N> ZONDA_INLINE U8x64 shift16_right(U8x64 a) { ZONDA_EACH(U8x64, 64, uint8_t(a.v[i] >> N)); }
template <int N> ZONDA_INLINE U8x64 shift16_left(U8x64 a) { ZONDA_EACH(U8x64, 64, uint8_t(a.v[i] << N)); }
ZONDA_INLINE U8x64 look_up(const uint8_t* table, U8x64 index) { ZONDA_EACH(U8x64, 64, table[index.v[i]]); }
#undef ZONDA_EACH

#endif

// Dot products of four bytes: acc[n] + sum over i of w[4 n + i] * a[i], where `four` holds the
// four int8 a[i], each in -127..127.
//
// `dot` takes w in 0..127. `dot_wide` takes w in 0..255 and returns the product with w - WIDE_BIAS
// in the place of w, because some sets only have products with a signed or a small factor.
#if defined(__AVX512F__)
constexpr int WIDE_BIAS = 0;
ZONDA_INLINE I32x16 dot(I32x16 acc, U8x64 w, int32_t four) {
    return {_mm512_dpbusd_epi32(acc.v, w.v, _mm512_set1_epi32(four))};
}
ZONDA_INLINE I32x16 dot_wide(I32x16 acc, U8x64 w, int32_t four) { return dot(acc, w, four); }
#elif defined(__AVXVNNI__)
constexpr int WIDE_BIAS = 0;
ZONDA_INLINE I32x16 dot(I32x16 acc, U8x64 w, int32_t four) {
    __m256i a = _mm256_set1_epi32(four);
    return {_mm256_dpbusd_avx_epi32(acc.lo, w.lo, a), _mm256_dpbusd_avx_epi32(acc.hi, w.hi, a)};
}
ZONDA_INLINE I32x16 dot_wide(I32x16 acc, U8x64 w, int32_t four) { return dot(acc, w, four); }
#elif defined(__AVX2__)
constexpr int WIDE_BIAS = 128;
ZONDA_INLINE __m256i dot_eight(__m256i acc, __m256i w, __m256i a) {
    // Sums of two products stay below 2**15: 2 * 127 * 127, and 2 * 128 * 127 in dot_wide.
    return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(w, a), _mm256_set1_epi16(1)));
}
ZONDA_INLINE I32x16 dot(I32x16 acc, U8x64 w, int32_t four) {
    __m256i a = _mm256_set1_epi32(four);
    return {dot_eight(acc.lo, w.lo, a), dot_eight(acc.hi, w.hi, a)};
}
ZONDA_INLINE __m256i dot_eight_signed(__m256i acc, __m256i w, __m256i a) {
    return dot_eight(acc, _mm256_abs_epi8(w), _mm256_sign_epi8(a, w));
}
ZONDA_INLINE I32x16 dot_wide(I32x16 acc, U8x64 w, int32_t four) {
    __m256i a = _mm256_set1_epi32(four), bias = _mm256_set1_epi8(char(0x80));
    return {dot_eight_signed(acc.lo, _mm256_xor_si256(w.lo, bias), a),
            dot_eight_signed(acc.hi, _mm256_xor_si256(w.hi, bias), a)};
}
#elif defined(__ARM_FEATURE_MATMUL_INT8) && !defined(ZONDA_SCALAR)
constexpr int WIDE_BIAS = 0;
ZONDA_INLINE I32x16 dot(I32x16 acc, U8x64 w, int32_t four) {
    int8x16_t a = vreinterpretq_s8_s32(vdupq_n_s32(four));
    for (int i = 0; i < 4; i++) acc.v[i] = vusdotq_s32(acc.v[i], w.v[i], a);
    return acc;
}
ZONDA_INLINE I32x16 dot_wide(I32x16 acc, U8x64 w, int32_t four) { return dot(acc, w, four); }
#elif defined(__ARM_FEATURE_DOTPROD) && !defined(ZONDA_SCALAR)
constexpr int WIDE_BIAS = 128;
ZONDA_INLINE I32x16 dot(I32x16 acc, U8x64 w, int32_t four) {
    int8x16_t a = vreinterpretq_s8_s32(vdupq_n_s32(four));
    for (int i = 0; i < 4; i++) acc.v[i] = vdotq_s32(acc.v[i], vreinterpretq_s8_u8(w.v[i]), a);
    return acc;
}
ZONDA_INLINE I32x16 dot_wide(I32x16 acc, U8x64 w, int32_t four) {
    for (int i = 0; i < 4; i++) w.v[i] = veorq_u8(w.v[i], vdupq_n_u8(0x80));
    return dot(acc, w, four);
}
#else
constexpr int WIDE_BIAS = 0;
ZONDA_INLINE I32x16 dot(I32x16 acc, U8x64 w, int32_t four) {
    int8_t a[4];
    memcpy(a, &four, 4);
    for (int i = 0; i < 64; i++) acc.v[i / 4] += int32_t(w.v[i]) * a[i % 4];
    return acc;
}
ZONDA_INLINE I32x16 dot_wide(I32x16 acc, U8x64 w, int32_t four) { return dot(acc, w, four); }
#endif

// From here on in terms of what stands above: the same for all variants.

#if defined(__AVX2__) || (defined(__ARM_FEATURE_DOTPROD) && !defined(ZONDA_SCALAR))
constexpr bool HAS_VECTORS = true;
#else
constexpr bool HAS_VECTORS = false;
#endif

// Asks for a cache line that will be read soon; any address is allowed.
ZONDA_INLINE void prefetch(const void* p) { __builtin_prefetch(p); }

// How many of the lanes from `i` on lie before `size`.
ZONDA_INLINE int lanes_left(int64_t size, int64_t i) { return size - i < LANES ? int(size - i) : LANES; }

// `count` values, 0 in the other lanes.
ZONDA_INLINE F32x16 load_first(const float* p, int count) {
    if (count >= LANES) return load(p);
    float values[LANES] = {};
    for (int i = 0; i < count; i++) values[i] = p[i];
    return load(values);
}

ZONDA_INLINE void store_first(float* p, F32x16 x, int count) {
    if (count >= LANES) return store(p, x);
    float values[LANES];
    store(values, x);
    for (int i = 0; i < count; i++) p[i] = values[i];
}

// The sum of all lanes: 16 to 8 to 4 to 2 to 1, upper half onto lower half.
#if defined(__AVX2__)
ZONDA_INLINE float sum_four(__m128 x) {
    __m128 two = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
ZONDA_INLINE float max_four(__m128 x) {
    __m128 two = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
ZONDA_INLINE __m256 low_half(F32x16 x) {
#if defined(__AVX512F__)
    return _mm512_castps512_ps256(x.v);
#else
    return x.lo;
#endif
}
ZONDA_INLINE __m256 high_half(F32x16 x) {
#if defined(__AVX512F__)
    return _mm512_extractf32x8_ps(x.v, 1);
#else
    return x.hi;
#endif
}
ZONDA_INLINE float sum_lanes(F32x16 x) {
    __m256 eight = _mm256_add_ps(low_half(x), high_half(x));
    return sum_four(_mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1)));
}

ZONDA_INLINE float max_lanes(F32x16 x) {
    __m256 eight = _mm256_max_ps(low_half(x), high_half(x));
    return max_four(_mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1)));
}
#else
ZONDA_INLINE float sum_lanes(F32x16 x) {
    float v[LANES];
    store(v, x);
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; i++) v[i] += v[i + half];
    return v[0];
}

ZONDA_INLINE float max_lanes(F32x16 x) {
    float v[LANES];
    store(v, x);
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; i++) v[i] = v[i] > v[i + half] ? v[i] : v[i + half];
    return v[0];
}
#endif

// e**x, relative error below 2e-7; 0 below -87.3, 2**127.5 above 88.3. Cephes' expf: a power of
// two times a polynomial of the rest.
ZONDA_INLINE F32x16 exp(F32x16 x) {
    F32x16 bounded = max(min(x, set1(88.3f)), set1(-87.3f));
    F32x16 n = round(bounded * set1(1.44269504f));
    F32x16 r = fma(n, set1(-0.693359375f), bounded);
    r = fma(n, set1(2.12194440e-4f), r);
    F32x16 y = set1(1.9875691500e-4f);
    y = fma(y, r, set1(1.3981999507e-3f));
    y = fma(y, r, set1(8.3334519073e-3f));
    y = fma(y, r, set1(4.1665795894e-2f));
    y = fma(y, r, set1(1.6666665459e-1f));
    y = fma(y, r, set1(5.0000001201e-1f));
    y = fma(y, r * r, r) + set1(1.0f);
    // Exactly 0 below the bound, so that a hidden score has no weight at all.
    return zero_unless_above(times_power_of_two(y, n), x, -87.3f);
}

}  // namespace zonda::ZONDA_VARIANT
