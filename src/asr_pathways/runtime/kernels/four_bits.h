// Weights of 4 bits, packed for products with single rows of activations.
#pragma once

#include "matrix.h"

namespace sparse {

// W (rows, columns) = (code - 7.5) * scale of its row, codes from 0 to 15.
//
// For each tile of 64 rows, for each eight columns, there is a word of 32 bits for each row of the tile: byte j has the
// code of the jth of the columns in its low half, and that of the (j + 4)th in its high half. Codes of columns past the
// matrix are any: activations are zeros there. Rows past it have scales of 0.
struct FourBits {
    static constexpr int kTileRows = 64, kWordColumns = 8;
    int64_t rows = 0;
    int64_t columns = 0;
    Aligned<uint32_t> packed;
    Aligned<float> scales;  // (padded_rows(),)

    int64_t words() const { return (columns + kWordColumns - 1) / kWordColumns; }
    int64_t tiles() const { return (rows + kTileRows - 1) / kTileRows; }
    int64_t padded_rows() const { return tiles() * kTileRows; }
    std::size_t bytes() const { return 4 * (packed.size() + scales.size()); }
};

// A row of activations as codes: value = code * scale.
struct Codes {
    const uint32_t* words;  // 4 signed bytes in each; two words for each of the weight
    float scale;
    int32_t sum;  // of the codes
};

// What rounding a row of a weight to 4 bits made of it.
struct Rounded {
    float scale;
    float size, error;  // Euclidean norms of the rounded row, and of what it misses; not finite if the row is not
};

// How far each value y[i] may be from the exact one: errors[i] * by_error + sizes[i] * by_size + slack.
struct Bound {
    const float *errors, *sizes;
    float by_error, by_size, slack;
};

}  // namespace sparse
