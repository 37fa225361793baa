// The kernels of one instruction set, as a table of functions.
#pragma once

#include "matrix.h"

namespace sparse {

// What happens to a product before it is stored.
struct Epilogue {
    const float* bias;  // (rows,) or null
    bool relu;
};

struct Kernels {
    const char* name;
    // Columns of activations (the n of X) that one pass over the weights takes; for a smaller n, the smallest
    // of 4, 8, 16 and 32 that holds it.
    int (*widest_tile)(int block);
    // Copies rows [0, n) and columns [first, last) of x (n, columns) to tile (columns, width), zeros from n to width.
    void (*transpose)(const float* x, int64_t columns, int n, int width, int64_t first, int64_t last, float* tile);
    // y[j, row] = epilogue(sum over i of W[row, i] * tile[i, j]) for the rows of a chunk and j < n; a tile of width 1
    // is a row of activations as it comes.
    void (*multiply)(const Matrix& w, int64_t chunk, const float* tile, int width, int n, float* y, Epilogue epilogue);
    // The same for unstructured weights with bits and few rows of activations, x (n, columns) as they come; may be null.
    void (*multiply_few)(const Matrix& w, int64_t chunk, const float* x, int n, float* y, Epilogue epilogue);
    int few;  // the largest such n
    // The pointwise part of an LSTM: gates (n, 4 * hidden) in the order i, f, g, o; h and c are written.
    void (*lstm)(const float* input_gates, const float* hidden_gates, const float* c, int64_t n, int64_t hidden,
                 float* h_next, float* c_next);
    // For benchmarks: 24 vector multiply-adds, `repeats` times (returns the floats of a vector), and a read in order.
    int (*multiply_adds)(int64_t repeats, float* sink);
    float (*read_floats)(const float* from, int64_t count);
};

const Kernels* portable_kernels();
const Kernels* avx2_kernels();    // null where not compiled in or not supported by this CPU
const Kernels* avx512_kernels();  // likewise

}  // namespace sparse
