// Unstructured weights times very few activations, a dense vector at a time; part of kernel_avx512.cpp.
//
// With a single row of activations an index per weight costs more than the multiply-add. Here a bit per column spreads
// the stored values over 16 columns at a time, as they were in the dense row, and whole vectors are multiplied.
#pragma once

#include "multiply_kernels.h"

namespace sparse {
namespace {

constexpr int kFewRows = 4;

// Values spread to the lanes where `mask` has ones, zeros elsewhere. They are loaded first: expansion right from memory
// is slower (AMD's Zen 5).
INLINE __m512 expand(__mmask16 mask, const float* values) {
    __m512 loaded = _mm512_loadu_ps(values);
    asm("" : "+v"(loaded));
    return _mm512_maskz_expand_ps(mask, loaded);
}

// sums[j] += values of 64 columns, where `bits` has ones, times x[j].
template <int N, int Sets>
INLINE void add_word(const float* values, uint64_t bits, const float* x, int64_t stride, __m512 (&sums)[N][Sets]) {
    const auto add = [&](int quarter) {
        const int before = __builtin_popcountll(bits & ((uint64_t{1} << 16 * quarter) - 1));
        const uint16_t mask = static_cast<uint16_t>(bits >> 16 * quarter);
        const __m512 weights = expand(mask, values + before);
        for (int j = 0; j < N; ++j) {
            __m512& sum = sums[j][quarter % Sets];
            sum = _mm512_fmadd_ps(weights, _mm512_loadu_ps(x + j * stride + 16 * quarter), sum);
        }
    };
    add(0);
    add(1);
    add(2);
    add(3);
}

// The same for fewer than 64 columns: nothing is read behind the last.
template <int N, int Sets>
INLINE void add_last_word(const float* values, uint64_t bits, const float* x, int64_t stride, __m512 (&sums)[N][Sets]) {
    for (int quarter = 0; bits; ++quarter, bits >>= 16) {
        const __mmask16 mask = static_cast<__mmask16>(bits);
        const __m512 weights = expand(mask, values);
        for (int j = 0; j < N; ++j)
            sums[j][0] =
                _mm512_fmadd_ps(weights, _mm512_maskz_loadu_ps(mask, x + j * stride + 16 * quarter), sums[j][0]);
        values += __builtin_popcount(mask);
    }
}

// sums[j] += a segment times x[j], of which `columns` columns are left.
template <int N>
INLINE void add_expanded_segment(const float* values, const uint64_t* bits, int64_t panel, const float* x,
                                 int64_t stride, int64_t columns, __m512* sums) {
    constexpr int sets = N == 1 ? 4 : 2;
    __m512 parts[N][sets];
    for (int j = 0; j < N; ++j) {
        parts[j][0] = sums[j];
        for (int s = 1; s < sets; ++s) parts[j][s] = _mm512_setzero_ps();
    }
    const int64_t words = panel / 64, whole = columns / 64 < words ? columns / 64 : words;
    for (int64_t word = 0; word < whole; ++word) {
        __builtin_prefetch(values + kPrefetch);
        add_word<N, sets>(values, bits[word], x + 64 * word, stride, parts);
        values += __builtin_popcountll(bits[word]);
    }
    if (whole < words) add_last_word<N, sets>(values, bits[whole], x + 64 * whole, stride, parts);
    for (int j = 0; j < N; ++j) {
        for (int s = 1; s < sets; ++s) parts[j][0] = _mm512_add_ps(parts[j][0], parts[j][s]);
        sums[j] = parts[j][0];
    }
}

template <int N>
void multiply_few_rows(const Matrix& w, int64_t chunk, const float* x, float* y, const float* bias) {
    __m512 sums[kChunkRows * N];
    alignas(64) float out[kChunkRows * N];
    alignas(64) float scratch[kPanelColumns + 2 * kDecodedAtOnce];
    const int64_t first = chunk * kChunkRows, rows = w.rows - first < kChunkRows ? w.rows - first : kChunkRows;
    for (int64_t i = 0; i < rows * N; ++i) sums[i] = _mm512_setzero_ps();
    for (int64_t panel = 0; panel < w.panels(); ++panel)
        for (int64_t row = 0; row < rows; ++row) {
            const int64_t segment = w.segment(chunk, panel, row), before = panel * w.panel;
            const uint64_t* bits = w.bits.data() + segment * (w.panel / 64);
            __builtin_prefetch(bits + kPrefetch / 4);
            add_expanded_segment<N>(segment_values(w, segment, scratch), bits, w.panel, x + before, w.columns,
                                    w.columns - before, sums + row * N);
        }
    for (int64_t i = 0; i < rows * N; ++i) out[i] = _mm512_reduce_add_ps(sums[i]);
    finish_chunk(w, bias, first, rows, N, out);
    for (int j = 0; j < N; ++j)
        for (int64_t row = 0; row < rows; ++row) y[j * w.rows + first + row] = out[row * N + j];
}

void multiply_few(const Matrix& w, int64_t chunk, const float* x, int n, float* y, const float* bias) {
    switch (n) {
        case 1: return multiply_few_rows<1>(w, chunk, x, y, bias);
        case 2: return multiply_few_rows<2>(w, chunk, x, y, bias);
        case 3: return multiply_few_rows<3>(w, chunk, x, y, bias);
        default: return multiply_few_rows<4>(w, chunk, x, y, bias);
    }
}

}  // namespace
}  // namespace sparse
