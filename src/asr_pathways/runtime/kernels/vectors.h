// Vectors of floats by the compiler's extension (GCC, Clang), which needs no instruction set of its own.
#pragma once

#include <cstdint>

#define INLINE inline __attribute__((always_inline))

namespace sparse {
namespace {

template <int Lanes>
struct VectorOf {
    typedef float type __attribute__((vector_size(4 * Lanes)));
    typedef int32_t integers __attribute__((vector_size(4 * Lanes)));
};
template <int Lanes>
using Vec = typename VectorOf<Lanes>::type;
template <int Lanes>
using IntVec = typename VectorOf<Lanes>::integers;

template <int Lanes>
INLINE Vec<Lanes> load(const float* from) {
    Vec<Lanes> vector;
    __builtin_memcpy(&vector, from, sizeof vector);
    return vector;
}

template <int Lanes>
INLINE void store(float* to, const Vec<Lanes>& vector) {
    __builtin_memcpy(to, &vector, sizeof vector);
}

// Four consecutive floats, of which each can be had in all lanes: one load and a shuffle each, where four loads would
// keep the activations waiting.
template <int Lanes>
struct Quad {
    Vec<4> four;
    INLINE explicit Quad(const float* from) : four(load<4>(from)) {}
    template <int Which>
    INLINE Vec<Lanes> all() const {
        return __builtin_shufflevector(four, four, Which, Which, Which, Which);
    }
};

#if LANES >= 8
template <>
struct Quad<8> {
    __m256 wide;  // the four, twice
    INLINE explicit Quad(const float* from) : wide(_mm256_broadcast_ps(reinterpret_cast<const __m128*>(from))) {}
    template <int Which>
    INLINE Vec<8> all() const {
        return _mm256_permute_ps(wide, Which * 0x55);
    }
};
#endif

#if LANES >= 16
template <>
struct Quad<16> {
    __m512 wide;  // the four, four times
    INLINE explicit Quad(const float* from) : wide(_mm512_broadcast_f32x4(_mm_loadu_ps(from))) {}
    template <int Which>
    INLINE Vec<16> all() const {
        return _mm512_permute_ps(wide, Which * 0x55);
    }
};
#endif

// How far ahead of their use weights are prefetched, in floats: the next segments' values follow this one's.
constexpr int kPrefetch = 4096;

// Four vectors as rows of a matrix, transposed in place.
INLINE void transpose4(Vec<4> (&rows)[4]) {
    const Vec<4> ab_low = __builtin_shufflevector(rows[0], rows[1], 0, 4, 1, 5);
    const Vec<4> ab_high = __builtin_shufflevector(rows[0], rows[1], 2, 6, 3, 7);
    const Vec<4> cd_low = __builtin_shufflevector(rows[2], rows[3], 0, 4, 1, 5);
    const Vec<4> cd_high = __builtin_shufflevector(rows[2], rows[3], 2, 6, 3, 7);
    rows[0] = __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5);
    rows[1] = __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7);
    rows[2] = __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5);
    rows[3] = __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7);
}

// to[j][i] = from[i][j] for i < filled, j < stored, and 0 for filled <= i < 4; with the given numbers of floats from
// row to row.
INLINE void transpose4(const float* from, int64_t from_stride, int filled, float* to, int64_t to_stride, int stored) {
    Vec<4> rows[4] = {};
    for (int i = 0; i < 4; ++i)
        if (i < filled) rows[i] = load<4>(from + i * from_stride);
    transpose4(rows);
    for (int j = 0; j < 4; ++j)
        if (j < stored) store<4>(to + j * to_stride, rows[j]);
}

}  // namespace
}  // namespace sparse
