#include "pack.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "multiply.h"

namespace sparse {
namespace {

// 64 bits of a mask of `total` bits, from bit `first` on; zeros past its end.
uint64_t bits_at(const uint8_t* mask, int64_t first, int64_t total) {
    const int64_t byte = first / 8, last = (total + 7) / 8;
    const int shift = static_cast<int>(first % 8);
    uint64_t low = 0, high = 0;
    if (byte + 8 <= last) {
        std::memcpy(&low, mask + byte, 8);  // little-endian, as every CPU that this is built for
    } else if (byte < last) {
        std::memcpy(&low, mask + byte, static_cast<std::size_t>(last - byte));
    }
    if (shift && byte + 8 < last) high = mask[byte + 8];
    return shift ? (low >> shift) | (high << (64 - shift)) : low;
}

class Packer {
public:
    Packer(const float* weight, int64_t rows, int64_t columns, int block)
        : weight_(weight), words_((columns + 63) / 64) {
        matrix_.rows = rows;
        matrix_.columns = columns;
        matrix_.block = block;
        const int64_t panels = (columns + kPanelColumns - 1) / kPanelColumns;
        matrix_.panel = 64 * ((words_ + panels - 1) / panels);
        kept_.assign(matrix_.chunks() * kChunkRows * words_, 0);
    }

    Matrix run() {
        find_kept();
        lay_out();
        for (int64_t chunk = 0; chunk < matrix_.chunks(); ++chunk)
            for (int64_t panel = 0; panel < matrix_.panels(); ++panel)
                for (int64_t group = 0; group < matrix_.chunk_groups(); ++group) fill(chunk, panel, group);
        return std::move(matrix_);
    }

private:
    const uint64_t* kept(int64_t row) const { return kept_.data() + row * words_; }

    void find_kept() {
        const float* value = weight_;
        for (int64_t row = 0; row < matrix_.rows; ++row)
            for (int64_t column = 0; column < matrix_.columns; ++column)
                kept_[row * words_ + column / 64] |= uint64_t{*value++ != 0.0f} << column % 64;
    }

    // The columns, of 64, that at least one row of a group keeps.
    uint64_t group_word(int64_t first_row, int64_t word) const {
        uint64_t bits = 0;
        for (int lane = 0; lane < matrix_.block; ++lane) bits |= kept(first_row + lane)[word];
        return bits;
    }

    // Calls work(word) for the words of a panel.
    template <typename Work>
    void for_words(int64_t panel, const Work& work) const {
        const int64_t first = panel * matrix_.panel / 64, last = std::min(words_, first + matrix_.panel / 64);
        for (int64_t word = first; word < last; ++word) work(word);
    }

    int64_t first_row(int64_t chunk, int64_t group) const { return chunk * kChunkRows + group * matrix_.block; }

    void lay_out() {
        const int64_t multiple = matrix_.block == 1 ? kPadding : 1;
        int64_t blocks = 0;
        matrix_.starts.reserve(matrix_.segment(matrix_.chunks(), 0, 0) + 1);
        for (int64_t chunk = 0; chunk < matrix_.chunks(); ++chunk)
            for (int64_t panel = 0; panel < matrix_.panels(); ++panel)
                for (int64_t group = 0; group < matrix_.chunk_groups(); ++group) {
                    matrix_.starts.push_back(blocks);
                    int64_t count = 0;
                    for_words(panel, [&](int64_t word) {
                        count += __builtin_popcountll(group_word(first_row(chunk, group), word));
                    });
                    blocks += (count + multiple - 1) / multiple * multiple;
                }
        matrix_.starts.push_back(blocks);
        matrix_.indices.resize(blocks);
        matrix_.values.resize(blocks * matrix_.block);
    }

    void fill(int64_t chunk, int64_t panel, int64_t group) {
        const int64_t start = matrix_.starts[matrix_.segment(chunk, panel, group)];
        const int64_t end = matrix_.starts[matrix_.segment(chunk, panel, group) + 1];
        const int64_t row = first_row(chunk, group), first_column = panel * matrix_.panel;
        int64_t place = start;
        for_words(panel, [&](int64_t word) {
            for (uint64_t bits = group_word(row, word); bits; bits &= bits - 1, ++place) {
                const int bit = __builtin_ctzll(bits);
                const int64_t column = 64 * word + bit;
                matrix_.indices[place] = static_cast<uint16_t>(column - first_column);
                for (int lane = 0; lane < matrix_.block; ++lane) {
                    const bool stays = kept(row + lane)[word] >> bit & 1;  // rows past the matrix do not
                    matrix_.values[place * matrix_.block + lane] =
                        stays ? weight_[(row + lane) * matrix_.columns + column] : 0.0f;
                }
            }
        });
        for (; place < end; ++place) {
            matrix_.indices[place] = matrix_.indices[place - 1];
            std::fill_n(matrix_.values.begin() + place * matrix_.block, matrix_.block, 0.0f);
        }
    }

    const float* const weight_;
    const int64_t words_;
    Matrix matrix_;
    std::vector<uint64_t> kept_;  // (rows up to a whole chunk, words): bit c % 64 of word c / 64
};

}  // namespace

Matrix pack(const float* weight, int64_t rows, int64_t columns, int block) {
    return Packer(weight, rows, columns, block).run();
}

void expand(const void* values, bool half, int64_t count, const uint8_t* in_union, const uint8_t* within, int64_t total,
            float* dense) {
    const TransformerKernels& kernels = find_kernels("")->transformer;
    const auto* const from = static_cast<const char*>(values);
    float floats[64 + 16] = {}, last[64];
    int64_t place = 0;
    for (int64_t first = 0; first < total; first += 64) {
        const int64_t left = total - first;
        const uint64_t rest = left < 64 ? (uint64_t{1} << left) - 1 : ~uint64_t{0};
        const uint64_t bits = bits_at(in_union, first, total) & rest;
        const int here = __builtin_popcountll(bits);
        kernels.widen(from + place * (half ? 2 : 4), half, here, floats);
        kernels.spread(floats, bits, bits_at(within, place, count), left < 64 ? last : dense + first);
        if (left < 64) std::copy(last, last + left, dense + first);
        place += here;
    }
}

}  // namespace sparse
