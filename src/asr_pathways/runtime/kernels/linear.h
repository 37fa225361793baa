// A linear layer, its weight in any of the formats.
#pragma once

#include "dense.h"
#include "multiply.h"

namespace sparse {

struct Linear {
    const Matrix* sparse;  // one of the three is not null
    const Dense* dense;
    const Gathered* gathered;
    const float* bias;  // (rows,) or null
    bool fine;          // weights of i8 are multiplied by activations of 16 bits, the sum of two codes

    int64_t rows() const { return sparse ? sparse->rows : dense ? dense->rows : gathered->rows; }
    int64_t columns() const { return sparse ? sparse->columns : dense ? dense->columns : gathered->columns; }
};

// y (n, rows) = x (n, columns) @ weight^T + bias; x and y are row-major and contiguous.
void multiply(const Linear& by, const float* x, int64_t n, float* y, const Runner& runner);

// The same by a gathered weight; `fine` as in Linear. Throws std::invalid_argument if the kernels do not read it.
void multiply(const Gathered& w, const float* bias, bool fine, const float* x, int64_t n, float* y,
              const Runner& runner);

// The same by a dense weight; y has `stride` floats from row to row. Throws std::invalid_argument if it is stored
// without its zeros and the kernels do not expand it.
void multiply(const Dense& w, const float* bias, bool fine, const float* x, int64_t n, float* y, int64_t stride,
              const Runner& runner);

}  // namespace sparse
