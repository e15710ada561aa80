// A checksum that runs at memory speed: whether a cache file is what was written, not whether
// somebody forged it.
#include <cstdint>
#include <cstring>

extern "C" uint64_t zonda_checksum(const uint8_t* bytes, int64_t count) {
    // Eight independent multiply-and-rotate chains, FNV's prime; the rest byte by byte.
    constexpr uint64_t PRIME = 0x100000001B3ull;
    uint64_t lanes[8];
    for (uint64_t i = 0; i < 8; i++) lanes[i] = 0xCBF29CE484222325ull + i;
    int64_t at = 0;
    for (; at + 64 <= count; at += 64)
        for (int i = 0; i < 8; i++) {
            uint64_t word;
            memcpy(&word, bytes + at + 8 * i, 8);
            lanes[i] = ((lanes[i] ^ word) * PRIME);
            lanes[i] ^= lanes[i] >> 29;
        }
    uint64_t sum = uint64_t(count);
    for (; at < count; at++) sum = (sum ^ bytes[at]) * PRIME;
    for (uint64_t lane : lanes) {
        sum = (sum ^ lane) * PRIME;
        sum ^= sum >> 32;
    }
    return sum;
}
