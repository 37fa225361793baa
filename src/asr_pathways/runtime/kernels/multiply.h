// Products with a packed matrix: tiles of activations, threads, and the choice of kernels.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace sparse {

// Names of what this CPU can run, the fastest first.
std::vector<std::string> variants();

// The kernels of a variant, or of the fastest if `name` is empty; null if there are none of that name.
const Kernels* find_kernels(const std::string& name);

// y (n, rows) = x (n, columns) @ w^T, then the epilogue; both row-major and contiguous.
void multiply(const Matrix& w, const float* x, int64_t n, float* y, Epilogue epilogue, int threads,
              const Kernels& kernels);

}  // namespace sparse
