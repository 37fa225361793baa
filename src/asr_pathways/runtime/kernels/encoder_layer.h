// Steps of a streaming encoder layer: products and what is between them, without calls of Python.
//
// All read x (n, dim) and write out (n, dim): x and the step's output for the layer norm of x.
#pragma once

#include "linear.h"

namespace sparse {

// Two products with a SiLU between them.
void feed_forward(const float* x, int64_t n, Norm norm, const Linear& inwards, const Linear& outwards, float* out,
                  const Runner& runner);

// `streams` streams of a.rows frames each: n = streams * a.rows. windows (streams, a.length, 2 * dim) is written: past
// keys and values (streams, a.length - a.rows, 2 * dim), then those of the frames. unseen: (streams, a.length).
void attention(const float* x, int64_t streams, const float* past, const float* unseen, Norm norm, const Linear& query,
               const Linear& key_value, const Linear& outwards, const Attention& a, float* windows, float* out,
               const Runner& runner);

// Attention with relative positions: the window begins with past keys and values, and those of the frames are written
// after them.
void relative_attention(const float* x, Norm norm, const Linear& query_key_value, const Linear& outwards,
                        const RelativeAttention& a, const KeyValues& window, float* out, const Runner& runner);

// A depthwise convolution with its norm, between products.
struct Convolution {
    const float* weight;  // (taps, dim)
    const float* bias;    // (dim,)
    int64_t taps;
    Norm norm;
};

// `streams` streams of `rows` frames each. windows (streams, taps - 1 + rows, dim) is written: past inputs of the
// depthwise convolution (streams, taps - 1, dim), then those of the frames.
void convolution(const float* x, int64_t streams, int64_t rows, const float* past, Norm norm, const Linear& inwards,
                 const Convolution& conv, const Linear& outwards, float* windows, float* out, const Runner& runner);

}  // namespace sparse
