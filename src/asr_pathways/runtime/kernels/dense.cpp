#include "dense.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace sparse {
namespace {

// To the nearest, ties to even; NaN stays NaN.
uint16_t to_bf16(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>(bits >> 16 | 0x40);
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Calls store(row, column, value, place of its word).
template <typename Store>
void for_weights(Strided weight, const Dense& dense, const Store& store) {
    const int64_t words = dense.words(), items = items_a_word(dense.item);
    for (int64_t row = 0; row < dense.rows; ++row) {
        const float* const from = weight.start + row * weight.row;
        const int64_t first = row / kPanelRows * words * kPanelRows + row % kPanelRows;
        for (int64_t column = 0; column < dense.columns; ++column)
            store(row, column % items, from[column * weight.column], first + column / items * kPanelRows);
    }
}

void pack_codes(Strided weight, Dense& dense) {
    dense.scales.resize(dense.panels() * kPanelRows);
    dense.sums.resize(dense.panels() * kPanelRows);
    std::fill(dense.scales.begin(), dense.scales.end(), 0.0f);
    std::fill(dense.sums.begin(), dense.sums.end(), 0);
    for (int64_t row = 0; row < dense.rows; ++row) {
        float largest = 0.0f;
        for (int64_t column = 0; column < dense.columns; ++column)
            largest = std::max(largest, std::fabs(weight.start[row * weight.row + column * weight.column]));
        dense.scales[row] = largest / 127.0f;
    }
    for_weights(weight, dense, [&](int64_t row, int64_t item, float value, int64_t place) {
        const float scale = dense.scales[row];
        const float code = scale > 0.0f ? std::nearbyintf(value / scale) : 0.0f;
        const auto clipped = static_cast<int8_t>(std::max(-127.0f, std::min(127.0f, code)));
        dense.sums[row] += clipped;
        reinterpret_cast<int8_t*>(&dense.packed[place])[item] = clipped;
    });
}

}  // namespace

void pack_dense(Strided weight, int64_t rows, int64_t columns, Item item, Dense& dense) {
    dense.rows = rows;
    dense.columns = columns;
    dense.item = item;
    dense.packed.resize(dense.panels() * dense.words() * kPanelRows);
    std::fill(dense.packed.begin(), dense.packed.end(), 0u);
    if (item == Item::i8) return pack_codes(weight, dense);
    if (item == Item::bf16)
        for_weights(weight, dense, [&](int64_t, int64_t place_in_word, float value, int64_t place) {
            reinterpret_cast<uint16_t*>(&dense.packed[place])[place_in_word] = to_bf16(value);
        });
    else
        for_weights(weight, dense, [&](int64_t, int64_t, float value, int64_t place) {
            std::memcpy(&dense.packed[place], &value, sizeof value);
        });
}

void compress(Dense& dense) {
    const int64_t size = 4 / items_a_word(dense.item), in_vector = 4 * kPanelRows / size;
    const auto* const bytes = reinterpret_cast<const uint8_t*>(dense.packed.data());
    const int64_t vectors = dense.panels() * dense.words();
    std::vector<uint8_t> kept;
    dense.masks.resize(vectors * in_vector / 8);
    std::fill(dense.masks.begin(), dense.masks.end(), uint8_t{0});
    dense.starts.clear();
    for (int64_t vector = 0; vector < vectors; ++vector) {
        if (vector % dense.words() == 0) dense.starts.push_back(static_cast<int64_t>(kept.size()) / size);
        for (int64_t i = 0; i < in_vector; ++i) {
            const uint8_t* const from = bytes + (vector * in_vector + i) * size;
            bool zero = true;
            for (int64_t byte = 0; byte < size; ++byte) zero = zero && from[byte] == 0;
            if (zero) continue;
            dense.masks[(vector * in_vector + i) / 8] |= static_cast<uint8_t>(1 << i % 8);
            kept.insert(kept.end(), from, from + size);
        }
    }
    dense.items.resize(kept.size() + kReadAhead);
    std::copy(kept.begin(), kept.end(), dense.items.begin());
    std::fill(dense.items.end() - kReadAhead, dense.items.end(), uint8_t{0});
    Aligned<uint32_t>().swap(dense.packed);
}

}  // namespace sparse
