// Pointwise functions, vectorised, and those of an LSTM; part of multiply_kernels.h.
#pragma once

#include "vectors.h"

namespace sparse {
namespace {

// e^x to about 2e-7 of its value; x is held to [-87, 87]. Cody-Waite reduction and a polynomial of degree 5
// (coefficients of Cephes' expf).
template <int Lanes>
INLINE Vec<Lanes> exponential(Vec<Lanes> x) {
    using V = Vec<Lanes>;
    const V low = V{} - 87.0f, high = V{} + 87.0f;
    x = x < low ? low : x;
    x = x > high ? high : x;
    const V magic = V{} + 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, in the low bits
    const V shifted = x * 1.44269504088896341f + magic;
    const V k = shifted - magic;
    const V r = (x - k * 0.693359375f) - k * -2.12194440e-4f;
    V p = V{} + 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    const V mantissa = p * (r * r) + r + 1.0f;
    const IntVec<Lanes> power = ((IntVec<Lanes>)shifted - (IntVec<Lanes>)magic + 127) << 23;
    return mantissa * (V)power;
}

template <int Lanes>
INLINE Vec<Lanes> sigmoid(Vec<Lanes> x) {
    return 1.0f / (exponential<Lanes>(-x) + 1.0f);
}

template <int Lanes>
INLINE Vec<Lanes> hyperbolic_tangent(Vec<Lanes> x) {
    return 2.0f / (exponential<Lanes>(x * -2.0f) + 1.0f) - 1.0f;
}

template <int Lanes>
INLINE void lstm_units(const float* a, const float* b, const float* c, int64_t hidden, float* h_next, float* c_next) {
    const auto gate = [&](int which) { return load<Lanes>(a + which * hidden) + load<Lanes>(b + which * hidden); };
    const Vec<Lanes> kept = sigmoid<Lanes>(gate(1)) * load<Lanes>(c);
    const Vec<Lanes> cell = kept + sigmoid<Lanes>(gate(0)) * hyperbolic_tangent<Lanes>(gate(2));
    store<Lanes>(c_next, cell);
    store<Lanes>(h_next, sigmoid<Lanes>(gate(3)) * hyperbolic_tangent<Lanes>(cell));
}

void lstm(const float* input_gates, const float* hidden_gates, const float* c, int64_t n, int64_t hidden, float* h_next,
          float* c_next) {
    for (int64_t row = 0; row < n; ++row) {
        const float* a = input_gates + row * 4 * hidden;
        const float* b = hidden_gates + row * 4 * hidden;
        int64_t unit = 0;
        for (; unit + LANES <= hidden; unit += LANES)
            lstm_units<LANES>(a + unit, b + unit, c + row * hidden + unit, hidden, h_next + row * hidden + unit,
                              c_next + row * hidden + unit);
        for (; unit < hidden; ++unit)
            lstm_units<1>(a + unit, b + unit, c + row * hidden + unit, hidden, h_next + row * hidden + unit,
                          c_next + row * hidden + unit);
    }
}

}  // namespace
}  // namespace sparse
