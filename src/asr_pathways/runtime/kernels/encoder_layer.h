// Steps of a streaming encoder layer: sparse products and what is between them, without a way back into Python.
//
// All take x (n, dim) and write out (n, dim): x and what the step makes of its layer norm.
#pragma once

#include "multiply.h"

namespace sparse {

// Two products with a SiLU between them.
void feed_forward(const float* x, int64_t n, Norm norm, Product inwards, Product outwards, float* out, Runner runner);

// `streams` streams of a.rows frames each: n = streams * a.rows. Of each, windows (streams, a.length, 2 * dim) takes up
// the past keys and values (streams, a.length - a.rows, 2 * dim), then those of its frames. unseen: (streams,
// a.length).
void attention(const float* x, int64_t streams, const float* past, const float* unseen, Norm norm, Product query,
               Product key_value, Product outwards, const Attention& a, float* windows, float* out, Runner runner);

// A depthwise convolution with its norm, between products.
struct Convolution {
    const float* weight;  // (taps, dim)
    const float* bias;    // (dim,)
    int64_t taps;
    Norm norm;
};

// `streams` streams of `rows` frames each. Of each, windows (streams, taps - 1 + rows, dim) takes up what the
// convolution saw before (streams, taps - 1, dim), then what it sees of its frames.
void convolution(const float* x, int64_t streams, int64_t rows, const float* past, Norm norm, Product inwards,
                 const Convolution& conv, Product outwards, float* windows, float* out, Runner runner);

}  // namespace sparse
