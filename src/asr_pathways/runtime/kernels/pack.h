// Sparse matrices from dense ones, and dense ones from values and masks.
#pragma once

#include "matrix.h"

namespace sparse {

// Packs a weight (rows, columns), row-major, without its zeros; `block` is 1, 4 or 8.
Matrix pack(const float* weight, int64_t rows, int64_t columns, int block);

// Writes what a mask keeps of a weight of which only the union of several masks is stored, zeros elsewhere. The `count`
// values are those of the bits that are set in `in_union` (one for each of `total` weights, row-major): float32, or
// float16 if `half`. `within` has a bit for each value: whether the mask keeps it. Bit i is bit i % 8 of byte i / 8.
void expand(const void* values, bool half, int64_t count, const uint8_t* in_union, const uint8_t* within, int64_t total,
            float* dense);

}  // namespace sparse
