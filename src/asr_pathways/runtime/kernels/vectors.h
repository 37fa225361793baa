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

// How far ahead of their use weights are asked for, in floats: the next segments' lie right behind this one's.
constexpr int kPrefetch = 2048;

// 16 bytes to 16 floats.
INLINE void decode16(const int8_t* codes, float* values) {
#if LANES == 16
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
    _mm512_storeu_ps(values, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)));
#elif LANES == 8
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
    _mm256_storeu_ps(values, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)));
    _mm256_storeu_ps(values + 8, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(bytes, bytes))));
#else
    for (int i = 0; i < 16; ++i) values[i] = static_cast<float>(codes[i]);
#endif
}

// to[j][i] = from[i][j] for i, j < 4, with the given numbers of floats from row to row.
INLINE void transpose4(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
    const Vec<4> a = load<4>(from), b = load<4>(from + from_stride);
    const Vec<4> c = load<4>(from + 2 * from_stride), d = load<4>(from + 3 * from_stride);
    const Vec<4> ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    const Vec<4> cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5), cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    store<4>(to, __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5));
    store<4>(to + to_stride, __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7));
    store<4>(to + 2 * to_stride, __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5));
    store<4>(to + 3 * to_stride, __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7));
}

}  // namespace
}  // namespace sparse
