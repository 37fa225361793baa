// The kernels of one instruction set, as a table of functions.
#pragma once

#include "matrix.h"

namespace sparse {

// A layer norm over so many numbers as weight and bias have.
struct Norm {
    const float* weight;
    const float* bias;
    float epsilon;
};

// Attention of `rows` frames to a window of `length`, with what is added to the scores: bias (heads, rows, length).
struct Attention {
    int64_t dim, heads, rows, length;
    const float* bias;
};

// What the steps of an encoder layer need between their products.
struct StepKernels {
    void (*layer_norm)(const float* x, int64_t n, int64_t size, Norm norm, float* y);
    void (*silu)(float* x, int64_t count);
    void (*add)(const float* x, int64_t count, float* y);  // y += x
    // y (n, size) = the first halves of the rows of x (n, 2 * size), gated by the second.
    void (*glu)(const float* x, int64_t n, int64_t size, float* y);
    // y (n, size) = sums of `taps` rows of x (n + taps - 1, size) each, weighted by weight (taps, size), plus bias.
    void (*depthwise)(const float* x, int64_t n, int64_t size, const float* weight, const float* bias, int64_t taps,
                      float* y);
    int64_t (*attend_scratch)(const Attention& a);  // floats that attend needs
    // out (rows, dim) for query (rows, dim), keys and values of the window (length, 2 * dim), and what is added to the
    // scores of each key (length,).
    void (*attend)(const Attention& a, const float* query, const float* window, const float* unseen, float* scratch,
                   float* out);
};

struct Kernels {
    const char* name;
    // Columns of activations (the n of X) that one pass over the weights takes; for a smaller n, the smallest
    // of 4, 8, 16 and 32 that holds it.
    int (*widest_tile)(int block);
    // Copies rows [0, n) and columns [first, last) of x (n, columns) to tile (columns, width), zeros from n to width.
    void (*transpose)(const float* x, int64_t columns, int n, int width, int64_t first, int64_t last, float* tile);
    // y[j, row] = sum over i of W[row, i] * tile[i, j], plus bias[row], for the rows of a chunk and j < n; a tile of
    // width 1 is a row of activations as it comes. The bias may be null.
    void (*multiply)(const Matrix& w, int64_t chunk, const float* tile, int width, int n, float* y, const float* bias);
    // The same for unstructured weights with bits and few rows of activations, x (n, columns) as they come; may be
    // null.
    void (*multiply_few)(const Matrix& w, int64_t chunk, const float* x, int n, float* y, const float* bias);
    int few;  // the largest such n
    // The pointwise part of an LSTM: gates (n, 4 * hidden) in the order i, f, g, o; h and c are written.
    void (*lstm)(const float* input_gates, const float* hidden_gates, const float* c, int64_t n, int64_t hidden,
                 float* h_next, float* c_next);
    StepKernels steps;
};

const Kernels* portable_kernels();
const Kernels* avx2_kernels();    // null where not compiled in or not supported by this CPU
const Kernels* avx512_kernels();  // likewise

}  // namespace sparse
