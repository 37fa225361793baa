// The kernels, written once with the compiler's vector extensions and included once per instruction set.
//
// The including file defines LANES, the floats of a native vector, and turns the instruction set on before.
// A product walks over the blocks of a group of rows; per block it loads `width` activations of one column and
// multiplies them by each of the block's weights, into accumulators that stay in registers.
#pragma once

#include "math_body.h"
#include "peak_body.h"
#include "vectors.h"

namespace sparse {
namespace {

// Groups of rows are collected in a buffer (kRowsAtOnce, width), then transposed to y.
constexpr int kRowsAtOnce = 32;

constexpr int vector_lanes(int width) { return width < LANES ? width : LANES; }

// Accumulators that are in flight at once: a multiply-add takes four cycles, and two start in each.
constexpr int kAccumulators = 8;
// How far ahead of their use weights are asked for, in floats: the next group's lie right behind this one's.
constexpr int kPrefetch = 512;

// What is done to the sums of a group before they are stored; rows are those of the group.
struct Finish {
    const float* scale;  // or null
    const float* bias;   // or null
    bool relu;

    template <int Lanes>
    INLINE Vec<Lanes> operator()(Vec<Lanes> sum, int row) const {
        if (scale) sum *= scale[row];
        if (bias) sum += bias[row];
        return relu ? (sum < 0.0f ? Vec<Lanes>{} : sum) : sum;
    }
};

// Unstructured: four non-zeros at a time, their indices and their values each from one load.
template <int Width, int Sets>
INLINE void add_four(const float* values, const uint16_t* indices, const float* tile, int first,
                     Vec<vector_lanes(Width)> (&sums)[Sets][Width / vector_lanes(Width)]) {
    constexpr int lanes = vector_lanes(Width), parts = Width / lanes;
    uint64_t four;
    __builtin_memcpy(&four, indices, sizeof four);
    const Quad<lanes> weights(values);
    const auto add = [&](int s, Vec<lanes> weight) {
        const float* activations = tile + ((four >> 16 * s) & 0xffff) * Width;
        for (int p = 0; p < parts; ++p) sums[(first + s) % Sets][p] += load<lanes>(activations + p * lanes) * weight;
    };
    add(0, weights.template all<0>());
    add(1, weights.template all<1>());
    add(2, weights.template all<2>());
    add(3, weights.template all<3>());
}

// Blocks of four rows, or the upper or lower half of eight.
template <int Parts, int Lanes>
INLINE void add_block(const float* values, const Vec<Lanes> (&x)[Parts], Vec<Lanes> (*sums)[Parts]) {
    const Quad<Lanes> weights(values);
    const Vec<Lanes> last = Vec<Lanes>{} + values[3];  // by a load: shuffles are as scarce as loads
    for (int p = 0; p < Parts; ++p) sums[0][p] += x[p] * weights.template all<0>();
    for (int p = 0; p < Parts; ++p) sums[1][p] += x[p] * weights.template all<1>();
    for (int p = 0; p < Parts; ++p) sums[2][p] += x[p] * weights.template all<2>();
    for (int p = 0; p < Parts; ++p) sums[3][p] += x[p] * last;
}

// out[r][j] = finish(sum over k of values[k][r] * tile[indices[k]][j]), for r < Block and j < Width.
template <int Block, int Width>
INLINE void multiply_group(const float* values, const uint16_t* indices, int64_t count, const float* tile,
                           const Finish& finish, float* out) {
    constexpr int lanes = vector_lanes(Width), parts = Width / lanes;
    constexpr int sets = Block * parts < kAccumulators ? 2 : 1;
    Vec<lanes> sums[sets][Block][parts] = {};
    int64_t k = 0;
    for (; k + sets <= count; k += sets) {
        __builtin_prefetch(values + k * Block + kPrefetch);
#pragma GCC unroll 2
        for (int s = 0; s < sets; ++s) {
            const float* activations = tile + static_cast<int64_t>(indices[k + s]) * Width;
            Vec<lanes> x[parts];
            for (int p = 0; p < parts; ++p) x[p] = load<lanes>(activations + p * lanes);
#pragma GCC unroll 2
            for (int r = 0; r < Block; r += 4)
                add_block<parts, lanes>(values + (k + s) * Block + r, x, &sums[s][r]);
        }
    }
    if (sets > 1 && k < count) {
        const float* activations = tile + static_cast<int64_t>(indices[k]) * Width;
        Vec<lanes> x[parts];
        for (int p = 0; p < parts; ++p) x[p] = load<lanes>(activations + p * lanes);
        for (int r = 0; r < Block; r += 4) add_block<parts, lanes>(values + k * Block + r, x, &sums[0][r]);
    }
    for (int r = 0; r < Block; ++r)
        for (int p = 0; p < parts; ++p) {
            if (sets > 1) sums[0][r][p] += sums[sets - 1][r][p];
            store<lanes>(out + r * Width + p * lanes, finish.template operator()<lanes>(sums[0][r][p], r));
        }
}

template <int Width>
INLINE void multiply_row(const float* values, const uint16_t* indices, int64_t count, const float* tile,
                         const Finish& finish, float* out) {
    constexpr int lanes = vector_lanes(Width), parts = Width / lanes;
    constexpr int sets = kAccumulators / parts > 1 ? kAccumulators / parts : 1;
    Vec<lanes> sums[sets][parts] = {};
    int64_t k = 0;
    for (; k + 8 <= count; k += 8) {
        __builtin_prefetch(values + k + kPrefetch);
        add_four<Width, sets>(values + k, indices + k, tile, 0, sums);
        add_four<Width, sets>(values + k + 4, indices + k + 4, tile, 4, sums);
    }
    if (k < count) add_four<Width, sets>(values + k, indices + k, tile, 0, sums);
    for (int p = 0; p < parts; ++p) {
        for (int s = 1; s < sets; ++s) sums[0][p] += sums[s][p];
        store<lanes>(out + p * lanes, finish.template operator()<lanes>(sums[0][p], 0));
    }
}

// Values of a group as floats: where they are, or decoded into scratch.
INLINE const float* group_values(const Matrix& w, int64_t group, float* scratch) {
    const int64_t start = w.starts[group] * w.block, count = w.starts[group + 1] * w.block - start;
    if (!w.quantized) return w.values.data() + start;
    const int8_t* codes = w.codes.data() + start;
    for (int64_t i = 0; i < count; ++i) scratch[i] = static_cast<float>(codes[i]);
    return scratch;
}

INLINE Finish finish_of(const Matrix& w, Epilogue epilogue, int64_t row) {
    return {w.quantized ? w.scales.data() + row : nullptr, epilogue.bias ? epilogue.bias + row : nullptr, epilogue.relu};
}

// y[j, r] = buffer[r][j] for r < rows, j < n; y has `stride` floats a row.
template <int Width>
INLINE void store_transposed(const float* buffer, int64_t rows, int n, float* y, int64_t stride) {
    const int64_t whole_rows = rows / 4 * 4;
    const int whole = n / 4 * 4;
    for (int j = 0; j < whole; j += 4)  // whole cache lines: rows of y are often a power of two apart
        for (int64_t r = 0; r < whole_rows; r += 4)
            transpose4(buffer + r * Width + j, Width, y + j * stride + r, stride);
    for (int j = 0; j < n; ++j)
        for (int64_t r = j < whole ? whole_rows : 0; r < rows; ++r) y[j * stride + r] = buffer[r * Width + j];
}

template <int Block, int Width>
void multiply_tile(const Matrix& w, const float* tile, int n, float* y, Epilogue epilogue, int64_t first, int64_t last,
                   float* scratch) {
    alignas(64) float buffer[kRowsAtOnce * Width];
    constexpr int groups_at_once = kRowsAtOnce / Block;
    for (int64_t group = first; group < last; group += groups_at_once) {
        const int64_t row = group * Block;
        const int64_t end = last < group + groups_at_once ? last : group + groups_at_once;
        for (int64_t g = group; g < end; ++g) {
            const int64_t start = w.starts[g], count = w.starts[g + 1] - start;
            const float* values = group_values(w, g, scratch);
            const uint16_t* indices = w.indices.data() + start;
            float* out = buffer + (g - group) * Block * Width;
            const Finish finish = finish_of(w, epilogue, g * Block);
            if constexpr (Block == 1)
                multiply_row<Width>(values, indices, count, tile, finish, out);
            else
                multiply_group<Block, Width>(values, indices, count, tile, finish, out);
        }
        const int64_t rows = (end * Block < w.rows ? end * Block : w.rows) - row;
        store_transposed<Width>(buffer, rows, n, y + row, w.rows);
    }
}

template <int Block>
void multiply_block(const Matrix& w, const float* tile, int width, int n, float* y, Epilogue epilogue, int64_t first,
                    int64_t last, float* scratch) {
    switch (width) {
        case 4: return multiply_tile<Block, 4>(w, tile, n, y, epilogue, first, last, scratch);
        case 8: return multiply_tile<Block, 8>(w, tile, n, y, epilogue, first, last, scratch);
        case 16: return multiply_tile<Block, 16>(w, tile, n, y, epilogue, first, last, scratch);
        default: return multiply_tile<Block, 32>(w, tile, n, y, epilogue, first, last, scratch);
    }
}

void multiply(const Matrix& w, const float* tile, int width, int n, float* y, Epilogue epilogue, int64_t first,
              int64_t last, float* scratch) {
    switch (w.block) {
        case 1: return multiply_block<1>(w, tile, width, n, y, epilogue, first, last, scratch);
        case 4: return multiply_block<4>(w, tile, width, n, y, epilogue, first, last, scratch);
        default: return multiply_block<8>(w, tile, width, n, y, epilogue, first, last, scratch);
    }
}

// out[r] = sum over k of values[k][r] * x[indices[k]]: the lanes of a vector are the rows of a block.
template <int Block>
INLINE void multiply_group_vector(const float* values, const uint16_t* indices, int64_t count, const float* x,
                                  float* out) {
    constexpr int lanes = vector_lanes(Block), parts = Block / lanes, sets = 8;
    Vec<lanes> sums[sets][parts];
    for (int s = 0; s < sets; ++s)
        for (int p = 0; p < parts; ++p) sums[s][p] = Vec<lanes>{};
    int64_t k = 0;
    for (; k + sets <= count; k += sets)
#pragma GCC unroll 8
        for (int s = 0; s < sets; ++s)
            for (int p = 0; p < parts; ++p)
                sums[s][p] += load<lanes>(values + (k + s) * Block + p * lanes) * x[indices[k + s]];
    for (; k < count; ++k)
        for (int p = 0; p < parts; ++p) sums[0][p] += load<lanes>(values + k * Block + p * lanes) * x[indices[k]];
    for (int p = 0; p < parts; ++p) {
        for (int s = 1; s < sets; ++s) sums[0][p] += sums[s][p];
        store<lanes>(out + p * lanes, sums[0][p]);
    }
}

template <>
INLINE void multiply_group_vector<1>(const float* values, const uint16_t* indices, int64_t count, const float* x,
                                     float* out) {
    float sums[8] = {};
    int64_t k = 0;
    for (; k + 8 <= count; k += 8)
#pragma GCC unroll 8
        for (int s = 0; s < 8; ++s) sums[s] += values[k + s] * x[indices[k + s]];
    for (; k < count; ++k) sums[0] += values[k] * x[indices[k]];
    *out = ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

template <int Block>
void multiply_vector_block(const Matrix& w, const float* x, float* y, Epilogue epilogue, int64_t first, int64_t last,
                           float* scratch) {
    for (int64_t g = first; g < last; ++g) {
        alignas(64) float sums[Block];
        const int64_t start = w.starts[g];
        multiply_group_vector<Block>(group_values(w, g, scratch), w.indices.data() + start, w.starts[g + 1] - start, x,
                                     sums);
        const Finish finish = finish_of(w, epilogue, g * Block);
        for (int r = 0; r < Block && g * Block + r < w.rows; ++r)
            y[g * Block + r] = finish.operator()<1>(Vec<1>{sums[r]}, r)[0];
    }
}

void multiply_vector(const Matrix& w, const float* x, float* y, Epilogue epilogue, int64_t first, int64_t last,
                     float* scratch) {
    switch (w.block) {
        case 1: return multiply_vector_block<1>(w, x, y, epilogue, first, last, scratch);
        case 4: return multiply_vector_block<4>(w, x, y, epilogue, first, last, scratch);
        default: return multiply_vector_block<8>(w, x, y, epilogue, first, last, scratch);
    }
}

void transpose(const float* x, int64_t columns, int n, int width, int64_t first, int64_t last, float* tile) {
    const int whole = n / 4 * 4;
    for (int64_t start = first; start < last; start += 16) {  // a cache line of each row of x
        const int64_t end = start + 16 < last ? start + 16 : last, whole_end = start + (end - start) / 4 * 4;
        for (int j = 0; j < whole; j += 4) {
            for (int64_t i = start; i < whole_end; i += 4)
                transpose4(x + j * columns + i, columns, tile + i * width + j, width);
            for (int64_t i = whole_end; i < end; ++i)
                for (int lane = j; lane < j + 4; ++lane) tile[i * width + lane] = x[lane * columns + i];
        }
    }
    for (int64_t i = first; i < last && whole < width; ++i)
        for (int j = whole; j < width; ++j) tile[i * width + j] = j < n ? x[j * columns + i] : 0.0f;
}

// Accumulators and operands fit the registers: 16 of 4 or 8 lanes, 32 of 16 lanes.
int widest_tile(int block) {
    if (LANES == 16) return 32;
    if (LANES == 8) return block == 8 ? 8 : block == 4 ? 16 : 32;
    return block == 8 ? 4 : block == 4 ? 8 : 16;
}

}  // namespace
}  // namespace sparse
