// What the machine can do at best, for benchmarks to compare with; part of kernel_body.h.
#pragma once

#include "vectors.h"

namespace sparse {
namespace {

// Runs `repeats` times 24 independent multiply-adds of vectors; returns how many floats each multiply-add has.
int multiply_adds(int64_t repeats, float* sink) {
    constexpr int chains = 24 / (LANES == 16 ? 1 : 2);
    Vec<LANES> sums[chains];
    for (int c = 0; c < chains; ++c) sums[c] = Vec<LANES>{} + static_cast<float>(c);
    const Vec<LANES> factor = Vec<LANES>{} + *sink, term = Vec<LANES>{} + 2.0f * *sink;
    for (int64_t r = 0; r < repeats * 24 / chains; ++r)
#pragma GCC unroll 24
        for (int c = 0; c < chains; ++c) sums[c] = sums[c] * factor + term;
    for (int c = 1; c < chains; ++c) sums[0] += sums[c];
    *sink = sums[0][0];
    return LANES;
}

// Reads `count` floats (a multiple of 8 vectors), in order; returns their sum.
float read_floats(const float* from, int64_t count) {
    Vec<LANES> sums[8] = {};
    for (int64_t i = 0; i + 8 * LANES <= count; i += 8 * LANES)
#pragma GCC unroll 8
        for (int s = 0; s < 8; ++s) sums[s] += load<LANES>(from + i + s * LANES);
    for (int s = 1; s < 8; ++s) sums[0] += sums[s];
    float sum = 0.0f;
    for (int lane = 0; lane < LANES; ++lane) sum += sums[0][lane];
    return sum;
}

}  // namespace
}  // namespace sparse
