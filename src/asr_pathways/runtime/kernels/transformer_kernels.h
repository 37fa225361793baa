// Dense operations of a transformer; part of multiply_kernels.h.
#pragma once

#include "encoder_layer_kernels.h"

namespace sparse {
namespace {

// erf to 1.5e-7 (Abramowitz and Stegun 1964, 7.1.26).
template <int Lanes>
INLINE Vec<Lanes> error_function(Vec<Lanes> x) {
    using V = Vec<Lanes>;
    const V size = x < 0.0f ? -x : x, t = 1.0f / (size * 0.3275911f + 1.0f);
    V p = V{} + 1.061405429f;
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    const V positive = 1.0f - p * t * exponential<Lanes>(-size * size);
    return x < 0.0f ? -positive : positive;
}

template <int Count>
INLINE Vec<Count> gaussian_gate(Lanes<Count>, Vec<Count> value) {
    return (error_function<Count>(value * 0.70710678118654752f) + 1.0f) * 0.5f;
}

void gelu(float* x, int64_t count) {
    for_floats(count, [&](int64_t i, auto lanes) {
        const auto value = lanes.at(x + i);
        lanes.put(x + i, value * gaussian_gate(lanes, value));
    });
}

template <int Count>
INLINE Vec<Count> exponential_of(Lanes<Count>, Vec<Count> value) {
    return exponential<Count>(value);
}

void softmax_row(float* scores, int64_t count, int64_t padded) {
    float largest = scores[0];
    Vec<LANES> most = Vec<LANES>{} + largest;
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        const Vec<LANES> here = load<LANES>(scores + i);
        most = here > most ? here : most;
    }
    for (int lane = 0; lane < LANES; ++lane) largest = most[lane] > largest ? most[lane] : largest;
    for (; i < count; ++i) largest = scores[i] > largest ? scores[i] : largest;
    for_floats(count, [&](int64_t j, auto lanes) {
        lanes.put(scores + j, exponential_of(lanes, lanes.at(scores + j) - largest));
    });
    const float scale = 1.0f / sum_floats(count, [&](int64_t j, auto lanes) { return lanes.at(scores + j); });
    for_floats(count, [&](int64_t j, auto lanes) { lanes.put(scores + j, lanes.at(scores + j) * scale); });
    for (int64_t j = count; j < padded; ++j) scores[j] = 0.0f;
}

void attend_cached(const float* query, const float* keys, const float* values, int64_t width, int64_t capacity,
                   int64_t count, float* scores, float* out) {
    const int64_t vectors = (count + LANES - 1) / LANES * LANES;  // the capacity is a multiple of 16
    for (int64_t j = 0; j < vectors; j += LANES) {
        Vec<LANES> sums[4] = {};
        for (int64_t d = 0; d < width; d += 4)
            for (int s = 0; s < 4; ++s) sums[s] += load<LANES>(keys + (d + s) * capacity + j) * query[d + s];
        store<LANES>(scores + j, (sums[0] + sums[1]) + (sums[2] + sums[3]));
    }
    softmax_row(scores, count, count);
    for_floats(width, [&](int64_t d, auto lanes) {
        typename decltype(lanes)::V sum = {};
        for (int64_t j = 0; j < count; ++j) sum += lanes.at(values + j * width + d) * scores[j];
        lanes.put(out + d, sum);
    });
}

INLINE float half_to_float(uint16_t half) {
    const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16, exponent = half >> 10 & 31,
                   fraction = half & 1023;
    uint32_t bits;
    if (exponent == 31) {
        bits = sign | 0x7f800000 | fraction << 13;
    } else if (exponent) {
        bits = sign | (exponent + 112) << 23 | fraction << 13;
    } else {  // a subnormal number, or zero
        const float value = static_cast<float>(fraction) * 5.9604644775390625e-8f;
        __builtin_memcpy(&bits, &value, sizeof bits);
        bits |= sign;
    }
    float value;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}

INLINE Vec<LANES> load_halves(const uint16_t* from) {
#if LANES == 16
    return (Vec<LANES>)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#elif LANES == 8
    return (Vec<LANES>)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#else
    Vec<LANES> values;
    for (int lane = 0; lane < LANES; ++lane) values[lane] = half_to_float(from[lane]);
    return values;
#endif
}

float dot(const void* row, bool half, const float* x, int64_t count) {
    const auto* const halves = static_cast<const uint16_t*>(row);
    const auto* const whole = static_cast<const float*>(row);
    Vec<LANES> sums = {};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        sums += (half ? load_halves(halves + i) : load<LANES>(whole + i)) * load<LANES>(x + i);
    float sum = 0.0f;
    for (int lane = 0; lane < LANES; ++lane) sum += sums[lane];
    for (; i < count; ++i) sum += (half ? half_to_float(halves[i]) : whole[i]) * x[i];
    return sum;
}

void widen(const void* row, bool half, int64_t count, float* y) {
    if (!half) {
        __builtin_memcpy(y, row, sizeof(float) * count);
        return;
    }
    const auto* const halves = static_cast<const uint16_t*>(row);
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) store<LANES>(y + i, load_halves(halves + i));
    for (; i < count; ++i) y[i] = half_to_float(halves[i]);
}

void spread(const float* values, uint64_t bits, uint64_t kept, float* y) {
#if LANES == 16
    for (int i = 0; i < 4; ++i, bits >>= 16, y += 16) {
        const auto mask = static_cast<__mmask16>(bits);
        const __m512 next = _mm512_maskz_mov_ps(static_cast<__mmask16>(kept), _mm512_loadu_ps(values));
        _mm512_storeu_ps(y, _mm512_maskz_expand_ps(mask, next));
        values += __builtin_popcount(mask);
        kept >>= __builtin_popcount(mask);
    }
#else
    for (int i = 0; i < 64; ++i) y[i] = 0.0f;
    for (; bits; bits &= bits - 1, kept >>= 1, ++values)
        if (kept & 1) y[__builtin_ctzll(bits)] = *values;
#endif
}

float sum_exponentials(const float* x, int64_t count, float largest) {
    return sum_floats(count, [&](int64_t i, auto lanes) { return exponential_of(lanes, lanes.at(x + i) - largest); });
}

constexpr TransformerKernels kTransformer = {gelu, softmax_row, attend_cached, dot, widen, spread, sum_exponentials};

}  // namespace
}  // namespace sparse
