#include "pack.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "multiply.h"

namespace sparse {
namespace {

using Float = std::numeric_limits<float>;

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

// What a mask keeps of the values of a union of masks: a value's place is the number of bits before its own.
struct Source {
    Source(const float* values, const uint8_t* in_union, const uint8_t* mask, int64_t rows, int64_t columns)
        : rows(rows), columns(columns), values_(values), mask_(mask) {
        const int64_t total = rows * columns;
        int64_t before = 0;
        for (int64_t first = 0; first < total; first += 64) {
            const uint64_t bits = bits_at(in_union, first, total);
            words_.push_back({bits, before});
            before += __builtin_popcountll(bits);
        }
    }

    // Of 64 columns, those that the mask keeps.
    uint64_t kept(int64_t row, int64_t column) const {
        const uint64_t bits = bits_at(mask_, row * columns + column, rows * columns);
        const int64_t left = columns - column;
        return left < 64 ? bits & ((uint64_t{1} << left) - 1) : bits;
    }
    float value(int64_t row, int64_t column) const {
        const int64_t index = row * columns + column;
        const Word& word = words_[static_cast<std::size_t>(index / 64)];
        const uint64_t below = (uint64_t{1} << (index % 64)) - 1;
        return values_[word.before + __builtin_popcountll(word.bits & below)];
    }

    int64_t rows, columns;

private:
    struct Word {
        uint64_t bits;
        int64_t before;
    };
    const float* values_;
    const uint8_t* mask_;
    std::vector<Word> words_;
};

class Packer {
public:
    Packer(const Source& source, int block, bool quantize, bool bits)
        : source_(source), bits_(bits), words_((source.columns + 63) / 64), inverse_scales_(kChunkRows) {
        matrix_.rows = source.rows;
        matrix_.columns = source.columns;
        matrix_.block = block;
        matrix_.quantized = quantize;
        const int64_t panels = (source.columns + kPanelColumns - 1) / kPanelColumns;
        matrix_.panel = 64 * ((words_ + panels - 1) / panels);
        kept_.resize(matrix_.chunks() * kChunkRows * words_);
    }

    Matrix run() {
        find_kept();
        lay_out();
        for (int64_t chunk = 0; chunk < matrix_.chunks(); ++chunk) {
            if (matrix_.quantized) find_scales(chunk);
            for (int64_t panel = 0; panel < matrix_.panels(); ++panel)
                for (int64_t group = 0; group < matrix_.chunk_groups(); ++group) fill(chunk, panel, group);
        }
        return std::move(matrix_);
    }

private:
    const uint64_t* kept(int64_t row) const { return kept_.data() + row * words_; }

    void find_kept() {
        for (int64_t row = 0; row < source_.rows; ++row)
            for (int64_t word = 0; word < words_; ++word) {
                const uint64_t bits = source_.kept(row, 64 * word);
                kept_[row * words_ + word] = bits;
                matrix_.nonzeros += __builtin_popcountll(bits);
            }
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
        if (matrix_.block == 1 && bits_) matrix_.bits.assign((matrix_.starts.size() - 1) * matrix_.panel / 64, 0);
        if (matrix_.quantized) {
            matrix_.codes.resize(blocks * matrix_.block + kDecodedAtOnce);
            std::fill(matrix_.codes.end() - kDecodedAtOnce, matrix_.codes.end(), int8_t{0});
            matrix_.scales.assign(matrix_.chunks() * kChunkRows, 0.0f);
        } else {
            matrix_.values.resize(blocks * matrix_.block + kDecodedAtOnce);
            std::fill(matrix_.values.end() - kDecodedAtOnce, matrix_.values.end(), 0.0f);
        }
    }

    // scale = largest |weight| of the row / 127, or the smallest float above zero; a row too small for a normal scale
    // is divided by the scale as it was rounded.
    void find_scales(int64_t chunk) {
        const int64_t end = std::min(source_.rows, (chunk + 1) * kChunkRows);
        for (int64_t row = chunk * kChunkRows; row < end; ++row) {
            float largest = 0.0f;
            for (int64_t word = 0; word < words_; ++word)
                for (uint64_t bits = kept(row)[word]; bits; bits &= bits - 1)
                    largest = std::max(largest, std::fabs(source_.value(row, 64 * word + __builtin_ctzll(bits))));
            const float scale = largest > 0.0f ? std::max(largest / 127.0f, Float::denorm_min()) : 0.0f;
            matrix_.scales[row] = scale;
            inverse_scales_[row % kChunkRows] = scale == 0.0f           ? 0.0
                                                : scale >= Float::min() ? 127.0f / largest
                                                                        : 1.0 / scale;
        }
    }

    void fill(int64_t chunk, int64_t panel, int64_t group) {
        const int64_t start = matrix_.starts[matrix_.segment(chunk, panel, group)];
        const int64_t end = matrix_.starts[matrix_.segment(chunk, panel, group) + 1];
        const int64_t row = first_row(chunk, group), first_column = panel * matrix_.panel;
        int64_t place = start;
        if (!matrix_.bits.empty()) {
            const int64_t words = matrix_.panel / 64;
            uint64_t* const bits = matrix_.bits.data() + matrix_.segment(chunk, panel, group) * words;
            for_words(panel, [&](int64_t word) { bits[word - panel * words] = kept(row)[word]; });
        }
        for_words(panel, [&](int64_t word) {
            for (uint64_t bits = group_word(row, word); bits; bits &= bits - 1) {
                const int bit = __builtin_ctzll(bits);
                matrix_.indices[place] = static_cast<uint16_t>(64 * word + bit - first_column);
                for (int lane = 0; lane < matrix_.block; ++lane) {
                    const bool stays = kept(row + lane)[word] >> bit & 1;
                    put(place, row, lane, stays ? source_.value(row + lane, 64 * word + bit) : 0.0f);
                }
                ++place;
            }
        });
        for (; place < end; ++place) {
            matrix_.indices[place] = matrix_.indices[place - 1];
            for (int lane = 0; lane < matrix_.block; ++lane) put(place, row, lane, 0.0f);
        }
    }

    void put(int64_t place, int64_t row, int lane, float value) {
        const int64_t at = place * matrix_.block + lane;
        if (matrix_.quantized) {
            const float code = static_cast<float>(value * inverse_scales_[(row + lane) % kChunkRows]);
            matrix_.codes[at] = static_cast<int8_t>(std::nearbyintf(std::clamp(code, -127.0f, 127.0f)));
        } else
            matrix_.values[at] = value;
    }

    const Source& source_;
    const bool bits_;
    const int64_t words_;
    Matrix matrix_;
    std::vector<uint64_t> kept_;          // (rows up to a whole chunk, words): bit c % 64 of word c / 64
    std::vector<double> inverse_scales_;  // of this chunk's rows
};

}  // namespace

Matrix pack(const float* values, const uint8_t* in_union, const uint8_t* mask, int64_t rows, int64_t columns, int block,
            bool quantize) {
    const bool bits = find_kernels("")->multiply_few != nullptr;
    return Packer(Source(values, in_union, mask, rows, columns), block, quantize, bits).run();
}

void expand(const void* values, bool half, const uint8_t* in_union, const uint8_t* mask, int64_t total, float* dense) {
    const Kernels& kernels = *find_kernels("");
    std::fill(dense, dense + total, 0.0f);
    const auto* next = static_cast<const char*>(values);
    float floats[64];
    for (int64_t first = 0; first < total; first += 64) {
        const uint64_t rest = total - first < 64 ? (uint64_t{1} << (total - first)) - 1 : ~uint64_t{0};
        const uint64_t bits = bits_at(in_union, first, total) & rest, kept = bits_at(mask, first, total);
        const int count = __builtin_popcountll(bits);
        kernels.transformer.widen(next, half, count, floats);
        next += count * (half ? 2 : 4);
        int place = 0;
        for (uint64_t left = bits; left; left &= left - 1, ++place) {
            const int bit = __builtin_ctzll(left);
            if (kept >> bit & 1) dense[first + bit] = floats[place];
        }
    }
}

void unpack(const Matrix& matrix, float* dense) {
    std::fill(dense, dense + matrix.rows * matrix.columns, 0.0f);
    for (int64_t chunk = 0; chunk < matrix.chunks(); ++chunk)
        for (int64_t panel = 0; panel < matrix.panels(); ++panel)
            for (int64_t group = 0; group < matrix.chunk_groups(); ++group) {
                const int64_t segment = matrix.segment(chunk, panel, group);
                const int64_t first = chunk * kChunkRows + group * matrix.block;
                const int64_t lanes = std::min<int64_t>(matrix.block, matrix.rows - first);
                for (int64_t k = matrix.starts[segment]; k < matrix.starts[segment + 1]; ++k)
                    for (int64_t lane = 0; lane < lanes; ++lane) {
                        const int64_t row = first + lane, place = k * matrix.block + lane;
                        dense[row * matrix.columns + panel * matrix.panel + matrix.indices[k]] +=  // padding adds zero
                            matrix.quantized ? matrix.codes[place] * matrix.scales[row] : matrix.values[place];
                    }
            }
}

}  // namespace sparse
