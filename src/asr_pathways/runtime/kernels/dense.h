// Weights packed for products with rows of activations, whole or without their zeros.
#pragma once

#include "matrix.h"

namespace sparse {

// What a weight is stored as, and activations with it. Products sum in float32, those of i8 in int32.
enum class Item { f32, bf16, i8 };

// Items are read in words of 32 bits: 1, 2 or 4 consecutive columns.
constexpr int items_a_word(Item item) { return item == Item::f32 ? 1 : item == Item::bf16 ? 2 : 4; }

// Rows of a weight that lie side by side.
constexpr int kPanelRows = 16;

// Bytes that may be read after the last item of a weight that is stored without its zeros.
constexpr int64_t kReadAhead = 64;

// W (rows, columns): word g of row r is packed[((r / 16) * words + g) * 16 + r % 16]. Rows and columns past the matrix
// are zeros. Of i8, weight = code * scale of its row.
//
// Without its zeros, the items that are left follow each other in that order, from items[starts[panel] * size] on, and
// each 16 words of a panel have a mask of 16, 32 or 64 bits, one an item: 1 where it is stored.
struct Dense {
    int64_t rows = 0;
    int64_t columns = 0;
    Item item = Item::f32;
    Aligned<uint32_t> packed;  // empty if stored without zeros
    Aligned<uint8_t> items, masks;
    std::vector<int64_t> starts;
    Aligned<float> scales;  // i8: (panels * 16,)
    Aligned<int32_t> sums;  // i8: of the codes of each row

    int64_t words() const { return (columns + items_a_word(item) - 1) / items_a_word(item); }
    int64_t panels() const { return (rows + kPanelRows - 1) / kPanelRows; }
    bool compressed() const { return packed.empty(); }
    std::size_t bytes() const {
        return 4 * (packed.size() + scales.size() + sums.size()) + items.size() + masks.size() + 8 * starts.size();
    }
};

// A weight of i8 whose rows have about as many nonzeros in each 64 columns, as n:m masks leave them. Products fetch the
// activations of nonzeros by their columns, and multiply nothing else.
//
// For each panel, for each 64 columns: `counts` pairs of vectors, of which byte 4 * r + j is of row r of the panel: the
// columns of its next four nonzeros within the 64, and their codes. Codes past the last of a row are zeros.
struct Gathered {
    int64_t rows = 0;
    int64_t columns = 0;
    std::vector<uint8_t> counts;  // (panels, groups)
    std::vector<int64_t> starts;  // of the pairs of each panel
    Aligned<uint8_t> items;
    Aligned<float> scales;  // as of Dense
    Aligned<int32_t> sums;

    int64_t panels() const { return (rows + kPanelRows - 1) / kPanelRows; }
    int64_t groups() const { return (columns + kGroup - 1) / kGroup; }
    std::size_t bytes() const {
        return items.size() + counts.size() + 8 * starts.size() + 4 * (scales.size() + sums.size());
    }
    static constexpr int64_t kGroup = 64, kPairBytes = 128;
};

// A matrix in memory, by the floats from row to row and from column to column.
struct Strided {
    const float* start;
    int64_t row, column;
};

// The largest columns of i8: products sum in int32.
constexpr int64_t kMostCodes = int64_t{1} << 17;

// Packs into `dense`, whose memory is used again. Of i8, scale = largest |weight| of the row / 127, at least the
// smallest normal float; NaN, as are then all products of the row, if one of them is not finite. Its rows are
// contiguous, or else, but of i8, its columns.
void pack_dense(Strided weight, int64_t rows, int64_t columns, Item item, Dense& dense);

// Takes the zeros out of a packed weight. Throws std::invalid_argument if this CPU's kernels do not expand it.
void compress(Dense& dense);

// Of a packed weight of i8 with its zeros; its scales and sums move.
void gather(Dense& dense, Gathered& gathered);

// Room of this thread for some panels of a weight of so many columns; valid until the next call. Not inline: kernels
// call it, whose instruction sets code that must run anywhere may not share.
Dense& room_for(int64_t panels, int64_t columns, Item item);

}  // namespace sparse
