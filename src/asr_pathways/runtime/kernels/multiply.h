// Products with a sparse matrix: tiles of activations, threads, and the choice of kernels.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace sparse {

// Names of the kernels that this CPU can run, the fastest first.
std::vector<std::string> variants();

// The kernels of a variant, or of the fastest if `name` is empty; null if there are none of that name.
const Kernels* find_kernels(const std::string& name);

struct Runner {
    int threads;
    const Kernels& kernels;
};

// y (n, rows) = x (n, columns) @ w^T + bias (rows,), which may be null; x and y are row-major and contiguous.
void multiply(const Matrix& w, const float* bias, const float* x, int64_t n, float* y, const Runner& runner);

}  // namespace sparse
