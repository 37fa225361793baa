// A linear layer: its weight sparse, dense or both, whichever is faster for so many rows of activations.
#pragma once

#include "dense.h"
#include "multiply.h"

namespace sparse {

struct Linear {
    const Matrix* sparse;  // may be null if there is a dense weight
    const Dense* dense;    // may be null if there is a sparse one
    int64_t dense_from;    // the fewest rows of activations for which the dense weight is used
    const float* bias;     // (rows,) or null

    int64_t rows() const { return sparse ? sparse->rows : dense->rows; }
    int64_t columns() const { return sparse ? sparse->columns : dense->columns; }
};

// y (n, rows) = x (n, columns) @ weight^T + bias; x and y are row-major and contiguous.
void multiply(const Linear& by, const float* x, int64_t n, float* y, const Runner& runner);

// The same by a dense weight; y has `stride` floats from row to row.
void multiply(const Dense& w, const float* bias, const float* x, int64_t n, float* y, int64_t stride,
              const Runner& runner);

}  // namespace sparse
