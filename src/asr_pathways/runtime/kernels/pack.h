// Packing of dense weights, with zeros in them or beside a bit mask, and the way back.
#pragma once

#include "matrix.h"

namespace sparse {

// Packs what is not zero in `dense` (rows, columns), row-major.
Matrix pack(const float* dense, int64_t rows, int64_t columns, int block, bool quantize);

// Packs what a mask keeps of `dense`; weight i (row-major) is kept if bit i % 8 of byte i / 8 is set.
Matrix pack_masked(const float* dense, const uint8_t* mask, int64_t rows, int64_t columns, int block, bool quantize);
Matrix pack_masked_half(const uint16_t* dense, const uint8_t* mask, int64_t rows, int64_t columns, int block,
                        bool quantize);

// Packs what a mask keeps of a weight of which only the union of several masks is there: `values` are those of the bits
// that are set in `held` (row-major, one after another), and `mask` keeps some of them.
Matrix pack_union(const float* values, const uint8_t* held, const uint8_t* mask, int64_t rows, int64_t columns,
                  int block, bool quantize);
Matrix pack_union_half(const uint16_t* values, const uint8_t* held, const uint8_t* mask, int64_t rows,
                       int64_t columns, int block, bool quantize);

// Writes the dense matrix (rows, columns) that `matrix` multiplies by.
void unpack(const Matrix& matrix, float* dense);

}  // namespace sparse
