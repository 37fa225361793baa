#include "dense.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "multiply.h"

namespace sparse {
namespace {

// To the nearest, ties to even; NaN stays NaN. Without branches, so that loops over it become vectors.
uint32_t to_bf16(uint32_t bits) {
    const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16, broken = bits >> 16 | 0x40;
    return (bits & 0x7fffffff) > 0x7f800000 ? broken : rounded;
}

// Of weights whose columns are contiguous: word by word, for all rows of a panel.
void pack_columns(Strided weight, Dense& dense) {
    const int64_t items = items_a_word(dense.item);
    uint32_t* to = dense.packed.data();
    for (int64_t row = 0; row < dense.rows; row += kPanelRows) {
        const int64_t count = std::min<int64_t>(kPanelRows, dense.rows - row);
        for (int64_t column = 0; column < dense.columns; column += items, to += kPanelRows) {
            uint32_t bits[2][kPanelRows] = {};
            for (int64_t item = 0; item < std::min(items, dense.columns - column); ++item) {
                const float* const from = weight.start + row + (column + item) * weight.column;
                if (count == kPanelRows)
                    std::memcpy(bits[item], from, sizeof bits[item]);
                else
                    std::memcpy(bits[item], from, sizeof(float) * count);
            }
            for (int lane = 0; lane < kPanelRows; ++lane)
                to[lane] = items == 1 ? bits[0][lane] : to_bf16(bits[0][lane]) | to_bf16(bits[1][lane]) << 16;
        }
    }
}

// Of weights whose rows are contiguous: 16 rows at a time, as activations are converted.
void pack_rows(Strided weight, Dense& dense) {
    const Kernels& kernels = *find_kernels("");
    const bool codes = dense.item == Item::i8;
    const int64_t words = dense.words();
    const uint32_t offset = 0x01010101u * static_cast<uint32_t>(kernels.code_offset);
    if (codes) {
        dense.scales.resize(dense.panels() * kPanelRows);
        dense.sums.resize(dense.panels() * kPanelRows);
        std::fill(dense.scales.end() - kPanelRows, dense.scales.end(), 0.0f);
        std::fill(dense.sums.end() - kPanelRows, dense.sums.end(), 0);
    }
    thread_local Aligned<uint32_t> converted;
    if (dense.item != Item::f32) converted.resize(kPanelRows * words);
    for (int64_t row = 0; row < dense.rows; row += kPanelRows) {
        const int count = static_cast<int>(std::min<int64_t>(kPanelRows, dense.rows - row));
        const float* from = weight.start + row * weight.row;
        int64_t stride = weight.row;
        if (dense.item != Item::f32) {
            kernels.dense.convert(dense.item, from, stride, count, dense.columns, converted.data(),
                                  codes ? dense.scales.data() + row : nullptr);
            from = reinterpret_cast<const float*>(converted.data());
            stride = words;
        }
        for (int i = 0; codes && i < count; ++i) {
            uint32_t* const line = converted.data() + i * words;
            for (int64_t word = 0; word < words; ++word) line[word] ^= offset;  // what is added is 128 or nothing
            const auto* const items = reinterpret_cast<const int8_t*>(line);
            int32_t sum = 0;
            for (int64_t item = 0; item < 4 * words; ++item) sum += items[item];
            dense.sums[row + i] = sum;
        }
        kernels.transpose(from, stride, count, kPanelRows, 0, words,
                          reinterpret_cast<float*>(dense.packed.data() + row * words));
    }
}

}  // namespace

void pack_dense(Strided weight, int64_t rows, int64_t columns, Item item, Dense& dense) {
    dense.rows = rows;
    dense.columns = columns;
    dense.item = item;
    dense.packed.resize(dense.panels() * dense.words() * kPanelRows);
    dense.items.clear();
    dense.masks.clear();
    dense.starts.clear();
    if (weight.column == 1) return pack_rows(weight, dense);
    if (item == Item::i8) throw std::invalid_argument("weights of int8 have contiguous rows");
    if (weight.row != 1) throw std::invalid_argument("weights have contiguous rows or columns");
    pack_columns(weight, dense);
}

void compress(Dense& dense) {
    const DenseKernels& kernels = find_kernels("")->dense;
    if (!kernels.expands(dense.item)) throw std::invalid_argument("this CPU reads no such weights without their zeros");
    const int64_t words = dense.words(), mask_bytes = 2 * items_a_word(dense.item);
    Aligned<uint8_t> kept(4 * dense.packed.size() + kReadAhead);
    dense.masks.resize(dense.panels() * words * mask_bytes);
    int64_t bytes = 0;
    for (int64_t panel = 0; panel < dense.panels(); ++panel) {
        dense.starts.push_back(bytes * items_a_word(dense.item) / 4);
        bytes += kernels.compress(dense.item, dense.packed.data() + panel * words * kPanelRows, words,
                                  kept.data() + bytes, dense.masks.data() + panel * words * mask_bytes);
    }
    dense.items = Aligned<uint8_t>(bytes + kReadAhead);
    std::memcpy(dense.items.data(), kept.data(), bytes);
    std::memset(dense.items.data() + bytes, 0, kReadAhead);
    Aligned<uint32_t>().swap(dense.packed);
}

void gather(Dense& dense, Gathered& gathered) {
    gathered.rows = dense.rows;
    gathered.columns = dense.columns;
    gathered.scales = std::move(dense.scales);
    gathered.sums = std::move(dense.sums);
    const int64_t words = dense.words(), in_group = Gathered::kGroup / 4;
    for (int64_t panel = 0; panel < dense.panels(); ++panel) {
        gathered.starts.push_back(static_cast<int64_t>(gathered.items.size()) / Gathered::kPairBytes);
        for (int64_t first = 0; first < words; first += in_group) {
            uint8_t columns[kPanelRows][Gathered::kGroup] = {}, codes[kPanelRows][Gathered::kGroup] = {};
            int most = 0;
            for (int64_t row = 0; row < kPanelRows; ++row) {
                int count = 0;
                for (int64_t word = first; word < std::min(words, first + in_group); ++word) {
                    uint8_t items[4];
                    std::memcpy(items, &dense.packed[(panel * words + word) * kPanelRows + row], sizeof items);
                    for (int64_t i = 0; i < 4; ++i) {
                        if (!items[i]) continue;
                        columns[row][count] = static_cast<uint8_t>(4 * (word - first) + i);
                        codes[row][count++] = items[i];
                    }
                }
                most = std::max(most, (count + 3) / 4);
            }
            gathered.counts.push_back(static_cast<uint8_t>(most));
            for (int four = 0; four < most; ++four)
                for (const auto& part : {columns, codes})
                    for (int64_t row = 0; row < kPanelRows; ++row)
                        gathered.items.insert(gathered.items.end(), part[row] + 4 * four, part[row] + 4 * four + 4);
        }
    }
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
