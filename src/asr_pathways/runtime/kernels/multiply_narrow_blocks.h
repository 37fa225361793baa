// Blocks times few activations: several rows of a block share a vector, each with all the activations; part of
// multiply_kernels.h. Lane i of a vector is row i / Width of those rows, activation i % Width.
#pragma once

#include "vectors.h"

namespace sparse {
namespace {

#if LANES == 16

template <int Width>
INLINE __m512 repeat(const float* from) {
    if constexpr (Width == 4)
        return _mm512_broadcast_f32x4(_mm_loadu_ps(from));
    else
        return _mm512_broadcast_f32x8(_mm256_loadu_ps(from));
}

// out[r][j] += sum over k of values[k][r] * tile[indices[k]][j], for r < Block and j < Width.
// Sixteen weights come in one load and are spread from there over `Width` vectors: repeated loads are expensive.
template <int Block, int Width>
INLINE void add_folded_segment(const float* values, const uint16_t* indices, int64_t count, const float* tile,
                               float* out) {
    constexpr int rows = 16 / Width, parts = Block / rows, blocks = 16 / Block;
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i row_of_lane = _mm512_srli_epi32(lanes, Width == 4 ? 2 : 3);
    __m512i spread[Width];
    __m512 sums[Width];
    for (int q = 0; q < Width; ++q) {
        spread[q] = _mm512_add_epi32(row_of_lane, _mm512_set1_epi32(q * rows));
        sums[q] = _mm512_setzero_ps();
    }
    int64_t k = 0;
    for (; k + blocks <= count; k += blocks) {
        __builtin_prefetch(values + k * Block + kPrefetch);
        const __m512 weights = _mm512_loadu_ps(values + k * Block);
#pragma GCC unroll 4
        for (int b = 0; b < blocks; ++b) {
            const __m512 x = repeat<Width>(tile + static_cast<int64_t>(indices[k + b]) * Width);
#pragma GCC unroll 4
            for (int q = b * parts; q < (b + 1) * parts; ++q)
                sums[q] = _mm512_fmadd_ps(x, _mm512_permutexvar_ps(spread[q], weights), sums[q]);
        }
    }
    for (; k < count; ++k) {
        const __m512 weights = _mm512_maskz_loadu_ps(static_cast<__mmask16>((1 << Block) - 1), values + k * Block);
        const __m512 x = repeat<Width>(tile + static_cast<int64_t>(indices[k]) * Width);
        for (int q = 0; q < parts; ++q)
            sums[q] = _mm512_fmadd_ps(x, _mm512_permutexvar_ps(spread[q], weights), sums[q]);
    }
    for (int p = 0; p < parts; ++p) {
        for (int q = p + parts; q < Width; q += parts) sums[p] = _mm512_add_ps(sums[p], sums[q]);
        _mm512_storeu_ps(out + 16 * p, _mm512_add_ps(_mm512_loadu_ps(out + 16 * p), sums[p]));
    }
}

#elif LANES == 8

// The same with two rows in a vector and four activations.
template <int Block, int Width>
INLINE void add_folded_segment(const float* values, const uint16_t* indices, int64_t count, const float* tile,
                               float* out) {
    static_assert(Width == 4, "two rows share a vector");
    constexpr int parts = Block / 2, sets = 8 / parts;
    const __m256i upper = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1), lower = _mm256_setr_epi32(2, 2, 2, 2, 3, 3, 3, 3);
    Vec<8> sums[sets][parts] = {};
    const auto add = [&](int64_t k, Vec<8>(&set)[parts]) {
        const Vec<8> x = Quad<8>(tile + static_cast<int64_t>(indices[k]) * Width).wide;
        for (int p = 0; p < parts; p += 2) {
            const Quad<8> weights(values + k * Block + 2 * p);
            set[p] += x * _mm256_permutevar_ps(weights.wide, upper);
            set[p + 1] += x * _mm256_permutevar_ps(weights.wide, lower);
        }
    };
    int64_t k = 0;
    for (; k + sets <= count; k += sets) {
        __builtin_prefetch(values + k * Block + kPrefetch);
#pragma GCC unroll 4
        for (int s = 0; s < sets; ++s) add(k + s, sums[s]);
    }
    for (; k < count; ++k) add(k, sums[0]);
    for (int p = 0; p < parts; ++p) {
        for (int s = 1; s < sets; ++s) sums[0][p] += sums[s][p];
        store<8>(out + p * 8, load<8>(out + p * 8) + sums[0][p]);
    }
}

#else

template <int Block, int Width>
void add_folded_segment(const float*, const uint16_t*, int64_t, const float*, float*);  // no vector is as wide

#endif

}  // namespace
}  // namespace sparse
