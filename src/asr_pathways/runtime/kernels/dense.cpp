#include "dense.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

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

// Codes of a row, rounded to the nearest; returns their sum.
int32_t round_row(const float* values, int64_t count, float scale, int8_t* codes) {
    const float by = 1.0f / scale;
    int32_t sum = 0;
    for (int64_t i = 0; i < count; ++i) {
        const float clipped = std::max(-127.0f, std::min(127.0f, values[i] * by));
        const float shifted = clipped + 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
        const auto code = static_cast<int32_t>(shifted - 12582912.0f);
        codes[i] = static_cast<int8_t>(code);
        sum += code;
    }
    return sum;
}

void pack_codes(Strided weight, Dense& dense) {
    const int64_t words = dense.words();
    dense.scales.resize(dense.panels() * kPanelRows);
    dense.sums.resize(dense.panels() * kPanelRows);
    std::fill(dense.scales.begin(), dense.scales.end(), 0.0f);
    std::fill(dense.sums.begin(), dense.sums.end(), 0);
    Aligned<float> values(dense.columns);
    Aligned<uint32_t> codes(words);
    std::fill(codes.begin(), codes.end(), 0u);
    for (int64_t row = 0; row < dense.rows; ++row) {
        const float* const from = weight.start + row * weight.row;
        float largest = 0.0f;
        bool finite = true;
        for (int64_t column = 0; column < dense.columns; ++column) {
            values[column] = from[column * weight.column];
            finite = finite && std::isfinite(values[column]);
            largest = std::max(largest, std::fabs(values[column]));
        }
        if (!finite) {
            dense.scales[row] = std::numeric_limits<float>::quiet_NaN();
            continue;
        }
        const float scale = std::max(largest / 127.0f, std::numeric_limits<float>::min());
        dense.scales[row] = scale;
        dense.sums[row] = round_row(values.data(), dense.columns, scale, reinterpret_cast<int8_t*>(codes.data()));
        uint32_t* const to = dense.packed.data() + row / kPanelRows * words * kPanelRows + row % kPanelRows;
        for (int64_t word = 0; word < words; ++word) to[word * kPanelRows] = codes[word];
    }
}

// Appends the items of a vector that are not zero, and sets the bits of those.
template <typename Stored>
int64_t take_zeros_out(const uint32_t* vector, Stored* to, uint8_t* mask) {
    constexpr int count = 4 * kPanelRows / static_cast<int>(sizeof(Stored));
    constexpr Stored minus_zero =
        sizeof(Stored) > 1 ? Stored{1} << (8 * sizeof(Stored) - 1) : 0;  // what masking leaves
    Stored items[count];
    std::memcpy(items, vector, sizeof items);
    int64_t kept = 0;
    for (int i = 0; i < count; ++i) {
        to[kept] = items[i];  // written in any case: there is room, and no branch
        const bool stays = (items[i] & ~minus_zero) != 0;
        mask[i / 8] |= static_cast<uint8_t>(stays << i % 8);
        kept += stays;
    }
    return kept;
}

template <typename Stored>
void compress_items(Dense& dense) {
    const int64_t vectors = dense.panels() * dense.words(), in_vector = 4 * kPanelRows / sizeof(Stored);
    Aligned<Stored> kept(vectors * in_vector);
    dense.masks.resize(vectors * in_vector / 8);
    std::fill(dense.masks.begin(), dense.masks.end(), uint8_t{0});
    dense.starts.clear();
    int64_t count = 0;
    for (int64_t vector = 0; vector < vectors; ++vector) {
        if (vector % dense.words() == 0) dense.starts.push_back(count);
        count += take_zeros_out(dense.packed.data() + vector * kPanelRows, kept.data() + count,
                                dense.masks.data() + vector * in_vector / 8);
    }
    const std::size_t bytes = count * sizeof(Stored);
    dense.items = Aligned<uint8_t>(bytes + kReadAhead);
    std::memcpy(dense.items.data(), kept.data(), bytes);
    std::memset(dense.items.data() + bytes, 0, kReadAhead);
}

}  // namespace

void pack_dense(Strided weight, int64_t rows, int64_t columns, Item item, Dense& dense) {
    dense.rows = rows;
    dense.columns = columns;
    dense.item = item;
    dense.packed.resize(dense.panels() * dense.words() * kPanelRows);
    std::fill(dense.packed.begin(), dense.packed.end(), 0u);
    dense.items.clear();
    dense.masks.clear();
    dense.starts.clear();
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
    if (dense.item == Item::f32) compress_items<uint32_t>(dense);
    if (dense.item == Item::bf16) compress_items<uint16_t>(dense);
    if (dense.item == Item::i8) compress_items<uint8_t>(dense);
    Aligned<uint32_t>().swap(dense.packed);
}

Dense& room_for(int64_t panels, int64_t columns, Item item) {
    thread_local Dense room;
    room.item = item;
    room.columns = columns;
    room.rows = panels * kPanelRows;
    room.packed.resize(panels * room.words() * kPanelRows);
    return room;
}

}  // namespace sparse
