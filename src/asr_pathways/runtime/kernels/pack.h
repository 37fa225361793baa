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

// Writes the dense matrix (rows, columns) that `matrix` multiplies by.
void unpack(const Matrix& matrix, float* dense);

}  // namespace sparse
