// The kernels of one instruction set, as a table of functions.
#pragma once

#include "dense.h"
#include "four_bits.h"
#include "matrix.h"

namespace sparse {

// A layer norm over as many numbers as weight and bias have.
struct Norm {
    const float* weight;
    const float* bias;
    float epsilon;
};

// Attention of `rows` frames to a window of `length`; bias (heads, rows, length) is added to the scores.
struct Attention {
    int64_t dim, heads, rows, length;
    const float* bias;
};

// The same with scores by content and by distance (Dai et al. 2019, arXiv 1901.02860): two biases (dim,) of the
// queries, and positions (dim, stride), whose column `first` + rows - 1 - i + j is of the distance of key j to query i;
// after the last of these columns 16 floats more are read at most.
struct RelativeAttention {
    int64_t dim, heads, rows, length;
    const float *by_content, *by_distance, *positions;
    int64_t stride, first;
};

// Keys and values of the frames of a window: for each head (length, width), the heads `stride` floats apart.
struct KeyValues {
    float *keys, *values;
    int64_t stride;
};

// Dense operations between the products of an encoder layer.
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
    // out (rows, dim) for query (rows, dim), keys and values of the window (length, 2 * dim); unseen (length,) is added
    // to the scores of each key.
    void (*attend)(const Attention& a, const float* query, const float* window, const float* unseen, float* scratch,
                   float* out);
    int64_t (*attend_relative_scratch)(const RelativeAttention& a);
    // out (rows, dim) for queries, `stride` floats from row to row.
    void (*attend_relative)(const RelativeAttention& a, const float* query, int64_t stride, const KeyValues& window,
                            float* scratch, float* out);
};

// Products with packed weights.
struct DenseKernels {
    bool (*expands)(Item item);  // whether weights may be stored without their zeros
    // Takes the zeros out of `count` vectors of 16 words; returns how many bytes of items are left. `items` has room
    // for all. Only of items that are expanded.
    int64_t (*compress)(Item item, const uint32_t* vectors, int64_t count, uint8_t* items, uint8_t* masks);
    // x (n, columns), `stride` floats from row to row, as rows of words of an item; of i8 with the scale of each row.
    void (*convert)(Item item, const float* x, int64_t stride, int64_t n, int64_t columns, uint32_t* out,
                    float* scales);
    // y[j, row] = sum over i of W[row, i] * x[j, i], plus bias[row], for the rows of panels [first, last) and j < n; x
    // is converted, y has `stride` floats from row to row. The bias may be null.
    void (*multiply)(const Dense& w, int64_t first, int64_t last, const uint32_t* x, const float* scales, int64_t n,
                     float* y, int64_t stride, const float* bias);
    // The same of gathered weights, x of i8 with `x_stride` bytes from row to row, of which 64 may be read after the
    // last; null where no kernel reads them.
    void (*multiply_gathered)(const Gathered& w, int64_t first, int64_t last, const uint8_t* x, int64_t x_stride,
                              const float* scales, int64_t n, float* y, int64_t stride, const float* bias);
};

// Products with weights of 4 bits, and the search among what they give.
struct FourBitsKernels {
    // Rounds a row (columns,) to codes, and writes its words `stride` apart; scratch has a byte for each column, up to
    // a multiple of eight.
    Rounded (*pack)(const float* row, int64_t columns, uint8_t* scratch, uint32_t* words, int64_t stride);
    // y[row] = sum over i of W[row, i] * x[i], plus `added`, for all rows of the tiles [first, last).
    void (*multiply)(const FourBits& w, int64_t first, int64_t last, const Codes& x, float added, float* y);
    // The first place from `from` on where y may be `least` or more by the bound; `count` if there is none.
    int64_t (*next)(const float* y, const Bound& bound, int64_t from, int64_t count, float least);
};

// Dense operations of a transformer.
struct TransformerKernels {
    void (*gelu)(float* x, int64_t count);  // x * (1 + erf(x / sqrt(2))) / 2
    // Softmax of `count` scores, in place; zeros from there up to `padded`.
    void (*softmax)(float* scores, int64_t count, int64_t padded);
    // out (width,) of one head's query (width,): keys (width, capacity) and values (capacity, width), of which `count`
    // are there; scores (capacity up to a multiple of 16,) is scratch.
    void (*attend_cached)(const float* query, const float* keys, const float* values, int64_t width, int64_t capacity,
                          int64_t count, float* scores, float* out);
    // Sum over i of row[i] * x[i]; the row is of float32, or of float16 if `half`.
    float (*dot)(const void* row, bool half, const float* x, int64_t count);
    // y = such a row, as float32.
    void (*widen)(const void* row, bool half, int64_t count, float* y);
    // 64 numbers: the next of `values` where `bits` has a one, if the next bit of `kept` is one; zeros elsewhere. As
    // many as 16 floats may be read after the last.
    void (*spread)(const float* values, uint64_t bits, uint64_t kept, float* y);
    // Sum of e^(x - largest).
    float (*sum_exponentials)(const float* x, int64_t count, float largest);
};

struct Kernels {
    const char* name;
    // Rows of activations that one pass over the weights processes; for fewer, the smallest of 4, 8, 16 and 32 that is
    // not less.
    int (*widest_tile)(int block);
    // Copies rows [0, n) and columns [first, last) of x (n, columns) to tile (columns, width), zeros from n to width.
    void (*transpose)(const float* x, int64_t columns, int n, int width, int64_t first, int64_t last, float* tile);
    // y[j, row] = sum over i of W[row, i] * tile[i, j], plus bias[row], for the rows of a chunk and j < n; a tile of
    // width 1 is a row of activations as it is. The bias may be null.
    void (*multiply)(const Matrix& w, int64_t chunk, const float* tile, int width, int n, float* y, const float* bias);
    // The pointwise part of an LSTM: gates (n, 4 * hidden) in the order i, f, g, o; h and c are written.
    void (*lstm)(const float* input_gates, const float* hidden_gates, const float* c, int64_t n, int64_t hidden,
                 float* h_next, float* c_next);
    StepKernels steps;
    DenseKernels dense;
    int code_offset;  // what is added to codes of activations, since some products take them unsigned
    TransformerKernels transformer;
    FourBitsKernels four_bits;
};

const Kernels* portable_kernels();
const Kernels* avx2_kernels();         // null where not compiled in or not supported by this CPU
const Kernels* avx512_kernels();       // likewise
const Kernels* avx512_bf16_kernels();  // likewise: with products of bfloat16 and of int8

}  // namespace sparse
