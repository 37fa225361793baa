// Products with weights of 4 bits, and the search among what they give; part of multiply_kernels.h.
#pragma once

#include "dense_kernels.h"
#include "encoder_layer_kernels.h"

namespace sparse {
namespace {

// Scales that are tried for a row, as shares of the one that clips nothing.
constexpr float kClips[] = {1.0f, 0.8f, 0.64f};

template <int Count>
INLINE IntVec<Count> nearest_codes(Lanes<Count>, Vec<Count> value, float by) {
    const Vec<Count> place = value * by + 8.0f, low = {}, high = low + 15.5f;
    const Vec<Count> above = place > low ? place : low;
    return __builtin_convertvector(above < high ? above : high, IntVec<Count>);
}

template <int Count>
INLINE Vec<Count> centred(Lanes<Count>, IntVec<Count> codes) {
    return __builtin_convertvector(codes, Vec<Count>) - 7.5f;
}

template <int Count>
INLINE void put_codes(Lanes<Count>, IntVec<Count> codes, uint8_t* to) {
    for (int lane = 0; lane < Count; ++lane) to[lane] = static_cast<uint8_t>(codes[lane]);
}

#if LANES == 16
INLINE void put_codes(Lanes<16>, IntVec<16> codes, uint8_t* to) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8((__m512i)codes));
}
#endif

Rounded pack_four_bits(const float* row, int64_t columns, uint8_t* scratch, uint32_t* words, int64_t stride) {
    const float largest = largest_size(row, columns) / 7.5f;
    Rounded rounded = {0.0f, 0.0f, __builtin_inff()};
    for (const float clip : kClips) {
        const float scale = clip * largest > __FLT_MIN__ ? clip * largest : __FLT_MIN__, by = 1.0f / scale;
        const float error = sum_floats(columns, [&](int64_t i, auto lanes) {
            const auto value = lanes.at(row + i);
            const auto missed = value - centred(lanes, nearest_codes(lanes, value, by)) * scale;
            return missed * missed;
        });
        if (error < rounded.error) rounded = {scale, 0.0f, error};
    }
    const float by = 1.0f / rounded.scale;
    for_floats(columns, [&](int64_t i, auto lanes) {
        put_codes(lanes, nearest_codes(lanes, lanes.at(row + i), by), scratch + i);
    });
    const float squares = sum_floats(columns, [&](int64_t i, auto lanes) {
        const auto code = centred(lanes, nearest_codes(lanes, lanes.at(row + i), by));
        return code * code;
    });
    for (int64_t i = columns; i % FourBits::kWordColumns; ++i) scratch[i] = 0;
    for (int64_t i = 0; i < columns; i += FourBits::kWordColumns, words += stride) {
        uint32_t halves[2];
        __builtin_memcpy(halves, scratch + i, sizeof halves);
        *words = halves[0] | halves[1] << 4;
    }
    rounded.size = __builtin_sqrtf(squares) * rounded.scale;
    rounded.error = __builtin_sqrtf(rounded.error);
    return rounded;
}

// sums += the products of 8 columns of LANES rows: the low halves by the word `low` of activations, the high by `high`.
INLINE void add_eight(IntVec<LANES>& sums, IntVec<LANES>& more, IntVec<LANES> words, uint32_t low, uint32_t high) {
    const IntVec<LANES> half = all_lanes(0x0f0f0f0fu), first = words & half, second = (words >> 4) & half;
#if defined(INT8_PRODUCTS)
    sums = (IntVec<LANES>)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)first, (__m512i)all_lanes(low));
    more = (IntVec<LANES>)_mm512_dpbusd_epi32((__m512i)more, (__m512i)second, (__m512i)all_lanes(high));
#elif LANES == 16
    const __m512i pairs = _mm512_add_epi16(_mm512_maddubs_epi16((__m512i)first, (__m512i)all_lanes(low)),
                                           _mm512_maddubs_epi16((__m512i)second, (__m512i)all_lanes(high)));
    sums += (IntVec<LANES>)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
    (void)more;
#elif LANES == 8
    const __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16((__m256i)first, (__m256i)all_lanes(low)),
                                           _mm256_maddubs_epi16((__m256i)second, (__m256i)all_lanes(high)));
    sums += (IntVec<LANES>)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    (void)more;
#else
    for (int shift = 0; shift < 32; shift += 8) {
        sums += ((first >> shift) & 15) * static_cast<int32_t>(static_cast<int8_t>(low >> shift));
        more += ((second >> shift) & 15) * static_cast<int32_t>(static_cast<int8_t>(high >> shift));
    }
#endif
}

void multiply_four_bits(const FourBits& w, int64_t first, int64_t last, const Codes& x, float added, float* y) {
    constexpr int at_once = 4, rows = at_once * LANES;  // vectors whose sums are in flight
    const int64_t words = w.words();
    const float scale = 0.5f * x.scale;
    for (int64_t row = first * FourBits::kTileRows; row < last * FourBits::kTileRows; row += rows) {
        const uint32_t* from =
            w.packed.data() + row / FourBits::kTileRows * words * FourBits::kTileRows + row % FourBits::kTileRows;
        IntVec<LANES> sums[at_once] = {}, more[at_once] = {};
        for (int64_t word = 0; word < words; ++word, from += FourBits::kTileRows)
#pragma GCC unroll 4
            for (int v = 0; v < at_once; ++v)
                add_eight(sums[v], more[v], load_words(from + v * LANES), x.words[2 * word], x.words[2 * word + 1]);
        for (int v = 0; v < at_once; ++v) {
            const IntVec<LANES> twice = (sums[v] + more[v]) * 2 - 15 * x.sum;
            const Vec<LANES> by = load<LANES>(w.scales.data() + row + v * LANES) * scale;
            store<LANES>(y + row + v * LANES, __builtin_convertvector(twice, Vec<LANES>) * by + added);
        }
    }
}

int64_t next_in_reach(const float* y, const Bound& bound, int64_t from, int64_t count, float least) {
    for (; from + LANES <= count; from += LANES) {
        const Vec<LANES> most = load<LANES>(y + from) + load<LANES>(bound.errors + from) * bound.by_error +
                                load<LANES>(bound.sizes + from) * bound.by_size + bound.slack;
#if LANES == 16
        if (_mm512_cmp_ps_mask((__m512)most, _mm512_set1_ps(least), _CMP_GE_OQ)) break;
#elif LANES == 8
        if (_mm256_movemask_ps(_mm256_cmp_ps((__m256)most, _mm256_set1_ps(least), _CMP_GE_OQ))) break;
#else
        bool any = false;
        for (int lane = 0; lane < LANES; ++lane) any |= most[lane] >= least;
        if (any) break;
#endif
    }
    for (; from < count; ++from)
        if (y[from] + bound.errors[from] * bound.by_error + bound.sizes[from] * bound.by_size + bound.slack >= least)
            break;
    return from;
}

constexpr FourBitsKernels kFourBits = {pack_four_bits, multiply_four_bits, next_in_reach};

}  // namespace
}  // namespace sparse
