// Sparse matrices from values and masks, and dense ones from these.
#pragma once

#include "matrix.h"

namespace sparse {

// Packs what a mask keeps of a weight of which only the union of several masks is stored: `values` are those of the
// bits that are set in `in_union` (row-major, one after another), and `mask` keeps some of them. Weight i (row-major)
// is kept if bit i % 8 of byte i / 8 is set.
Matrix pack(const float* values, const uint8_t* in_union, const uint8_t* mask, int64_t rows, int64_t columns, int block,
            bool quantize);

// Writes the weight (total,) of the same parts, zeros where the mask keeps nothing; values are float32, or float16 if
// `half`.
void expand(const void* values, bool half, const uint8_t* in_union, const uint8_t* mask, int64_t total, float* dense);

// Writes the dense matrix (rows, columns) that `matrix` multiplies by.
void unpack(const Matrix& matrix, float* dense);

}  // namespace sparse
