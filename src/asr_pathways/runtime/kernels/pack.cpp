#include "pack.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace sparse {
namespace {

// IEEE half to single precision: exponents are rebiased by an exact multiplication, infinities and NaN set apart.
float from_half(uint16_t half) {
    const uint32_t magnitude = (half & 0x7fffu) << 13;
    float value;
    std::memcpy(&value, &magnitude, sizeof value);
    value *= 0x1p112f;
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    if ((half & 0x7c00u) == 0x7c00u) bits |= 0x7f800000u;
    bits |= (half & 0x8000u) << 16;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

float as_float(float value) { return value; }
float as_float(uint16_t value) { return from_half(value); }

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

// What a mask keeps of dense values, 64 columns at a time.
template <typename Value>
struct Masked {
    const Value* dense;
    const uint8_t* mask;
    int64_t rows, columns;

    uint64_t kept(int64_t row, int64_t column) const {
        const uint64_t bits = bits_at(mask, row * columns + column, rows * columns);
        const int64_t left = columns - column;
        return left < 64 ? bits & ((uint64_t{1} << left) - 1) : bits;
    }
    float value(int64_t row, int64_t column) const { return as_float(dense[row * columns + column]); }
};

// What is not zero among dense values.
struct Dense {
    const float* dense;
    int64_t rows, columns;

    uint64_t kept(int64_t row, int64_t column) const {
        const float* values = dense + row * columns + column;
        const int count = static_cast<int>(std::min<int64_t>(64, columns - column));
        uint64_t bits = 0;
        if (count == 64) {
            uint8_t flags[64];
            for (int i = 0; i < 64; ++i) flags[i] = values[i] != 0.0f;
            for (int i = 0; i < 8; ++i) {  // eight bytes of 0 or 1 to eight bits by one multiplication
                uint64_t eight;
                std::memcpy(&eight, flags + 8 * i, 8);
                bits |= (eight * 0x0102040810204080ull >> 56) << (8 * i);
            }
        } else {
            for (int i = 0; i < count; ++i) bits |= uint64_t{values[i] != 0.0f} << i;
        }
        return bits;
    }
    float value(int64_t row, int64_t column) const { return dense[row * columns + column]; }
};

// The columns that at least one row of a group keeps: one word for 64 columns.
template <typename Source>
void group_words(const Source& source, int64_t group, int block, uint64_t* words) {
    const int64_t count = (source.columns + 63) / 64;
    std::fill(words, words + count, 0);
    const int64_t end = std::min<int64_t>(source.rows, (group + 1) * block);
    for (int64_t row = group * block; row < end; ++row)
        for (int64_t word = 0; word < count; ++word) words[word] |= source.kept(row, 64 * word);
}

int64_t list_columns(const uint64_t* words, int64_t count, uint16_t* indices) {
    int64_t found = 0;
    for (int64_t word = 0; word < count; ++word)
        for (uint64_t bits = words[word]; bits; bits &= bits - 1)
            indices[found++] = static_cast<uint16_t>(64 * word + __builtin_ctzll(bits));
    return found;
}

// A column that is listed again is padding.
template <typename Source>
void take_values(const Source& source, int64_t row, int block, const uint16_t* indices, int64_t count, float* values) {
    int64_t word = -1;
    uint64_t kept = 0;
    for (int64_t k = 0; k < count; ++k) {
        if (k > 0 && indices[k] == indices[k - 1]) {
            values[k * block] = 0.0f;
            continue;
        }
        if (indices[k] / 64 != word) {
            word = indices[k] / 64;
            kept = source.kept(row, 64 * word);
        }
        values[k * block] = kept >> (indices[k] % 64) & 1 ? source.value(row, indices[k]) : 0.0f;
    }
}

// One row of a group: code = round(weight / scale), scale = largest |weight| / 127.
void quantize_row(const float* values, int64_t count, int block, int8_t* codes, float* scale) {
    float largest = 0.0f;
    for (int64_t k = 0; k < count; ++k) largest = std::max(largest, std::fabs(values[k * block]));
    *scale = largest / 127.0f;
    const float inverse = largest > 0.0f ? 127.0f / largest : 0.0f;
    for (int64_t k = 0; k < count; ++k)
        codes[k * block] = static_cast<int8_t>(std::nearbyintf(values[k * block] * inverse));
}

template <typename Source>
Matrix pack_from(const Source& source, int block, bool quantize) {
    Matrix matrix;
    matrix.rows = source.rows;
    matrix.columns = source.columns;
    matrix.block = block;
    matrix.quantized = quantize;
    const int64_t groups = (source.rows + block - 1) / block, words = (source.columns + 63) / 64;
    std::vector<uint64_t> kept(static_cast<std::size_t>(groups * words));
    matrix.starts.assign(1, 0);
    for (int64_t group = 0; group < groups; ++group) {
        group_words(source, group, block, kept.data() + group * words);
        int64_t count = 0;
        for (int64_t word = 0; word < words; ++word) count += __builtin_popcountll(kept[group * words + word]);
        const int multiple = block == 1 ? kPadding : 1;
        matrix.starts.push_back(matrix.starts.back() + (count + multiple - 1) / multiple * multiple);
    }
    const int64_t blocks = matrix.starts.back();
    matrix.indices.resize(blocks);
    if (quantize) {
        matrix.codes.resize(blocks * block);
        matrix.scales.assign(groups * block, 0.0f);
    } else {
        matrix.values.resize(blocks * block);
    }
    std::vector<float> buffer(quantize ? matrix.longest_group() * block : 0);
    for (int64_t group = 0; group < groups; ++group) {
        const int64_t start = matrix.starts[group];
        uint16_t* indices = matrix.indices.data() + start;
        int64_t count = list_columns(kept.data() + group * words, words, indices);
        for (; count < matrix.starts[group + 1] - start; ++count) indices[count] = indices[count - 1];
        float* values = quantize ? buffer.data() : matrix.values.data() + start * block;
        for (int lane = 0; lane < block; ++lane) {
            const int64_t row = group * block + lane;
            if (row < source.rows) {
                take_values(source, row, block, indices, count, values + lane);
            } else {
                for (int64_t k = 0; k < count; ++k) values[k * block + lane] = 0.0f;
            }
            if (quantize)
                quantize_row(values + lane, count, block, matrix.codes.data() + start * block + lane,
                             &matrix.scales[row]);
        }
        for (int64_t k = 0; k < count * block; ++k) matrix.nonzeros += values[k] != 0.0f;
    }
    return matrix;
}

}  // namespace

Matrix pack(const float* dense, int64_t rows, int64_t columns, int block, bool quantize) {
    return pack_from(Dense{dense, rows, columns}, block, quantize);
}

Matrix pack_masked(const float* dense, const uint8_t* mask, int64_t rows, int64_t columns, int block, bool quantize) {
    return pack_from(Masked<float>{dense, mask, rows, columns}, block, quantize);
}

Matrix pack_masked_half(const uint16_t* dense, const uint8_t* mask, int64_t rows, int64_t columns, int block,
                        bool quantize) {
    return pack_from(Masked<uint16_t>{dense, mask, rows, columns}, block, quantize);
}

void unpack(const Matrix& matrix, float* dense) {
    std::fill(dense, dense + matrix.rows * matrix.columns, 0.0f);
    for (int64_t group = 0; group < matrix.groups(); ++group)
        for (int64_t k = matrix.starts[group]; k < matrix.starts[group + 1]; ++k)
            for (int lane = 0; lane < matrix.block; ++lane) {
                const int64_t row = group * matrix.block + lane, place = k * matrix.block + lane;
                if (row >= matrix.rows) break;
                dense[row * matrix.columns + matrix.indices[k]] +=  // padding adds zero
                    matrix.quantized ? matrix.codes[place] * matrix.scales[row] : matrix.values[place];
            }
}

}  // namespace sparse
