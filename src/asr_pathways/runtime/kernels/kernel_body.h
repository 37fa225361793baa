// The kernels, written once with the compiler's vector extensions and included once per instruction set.
//
// The including file defines LANES, the floats of a native vector, and turns the instruction set on before.
// A product walks over the blocks of a group of rows; per block it loads `width` activations of one column and
// multiplies them by each of the block's weights, into accumulators that stay in registers.
#pragma once

#include "math_body.h"
#include "vectors.h"

namespace sparse {
namespace {

// Groups of rows are collected in a buffer (kRowsAtOnce, width), then transposed to y.
constexpr int kRowsAtOnce = 16;

constexpr int vector_lanes(int width) { return width < LANES ? width : LANES; }

// Accumulator sets that are kept apart: each waits for its last multiply-add only, and there must be enough of them.
constexpr int unrolled(int accumulators) { return accumulators >= 8 ? 1 : accumulators >= 4 ? 2 : 4; }

// out[r][j] = sum over k of values[k][r] * tile[indices[k]][j], for r < Block and j < Width.
template <int Block, int Width>
INLINE void multiply_group(const float* values, const uint16_t* indices, int64_t count, const float* tile, float* out) {
    constexpr int lanes = vector_lanes(Width), parts = Width / lanes, sets = unrolled(Block * parts);
    using V = Vec<lanes>;
    V sums[sets][Block][parts];
    for (int s = 0; s < sets; ++s)
        for (int r = 0; r < Block; ++r)
            for (int p = 0; p < parts; ++p) sums[s][r][p] = V{};
    int64_t k = 0;
    for (; k + sets <= count; k += sets) {
#pragma GCC unroll 4
        for (int s = 0; s < sets; ++s) {
            const float* activations = tile + static_cast<int64_t>(indices[k + s]) * Width;
            V x[parts];
            for (int p = 0; p < parts; ++p) x[p] = load<lanes>(activations + p * lanes);
#pragma GCC unroll 8
            for (int r = 0; r < Block; ++r)
                for (int p = 0; p < parts; ++p) sums[s][r][p] += x[p] * values[(k + s) * Block + r];
        }
    }
    for (; k < count; ++k) {
        const float* activations = tile + static_cast<int64_t>(indices[k]) * Width;
        for (int p = 0; p < parts; ++p) {
            const V x = load<lanes>(activations + p * lanes);
#pragma GCC unroll 8
            for (int r = 0; r < Block; ++r) sums[0][r][p] += x * values[k * Block + r];
        }
    }
    for (int r = 0; r < Block; ++r)
        for (int p = 0; p < parts; ++p) {
            V sum = sums[0][r][p];
            for (int s = 1; s < sets; ++s) sum += sums[s][r][p];
            store<lanes>(out + r * Width + p * lanes, sum);
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

INLINE void finish_row(float* sums, int width, const Matrix& w, Epilogue epilogue, int64_t row) {
    const float scale = w.quantized ? w.scales[row] : 1.0f;
    const float bias = epilogue.bias ? epilogue.bias[row] : 0.0f;
    for (int j = 0; j < width; ++j) {
        const float sum = sums[j] * scale + bias;
        sums[j] = epilogue.relu && sum < 0.0f ? 0.0f : sum;
    }
}

// y[j, r] = buffer[r][j] for r < rows, j < n; y has `stride` floats a row.
template <int Width>
INLINE void store_transposed(const float* buffer, int64_t rows, int n, float* y, int64_t stride) {
    const int64_t whole_rows = rows / 4 * 4;
    const int whole = n / 4 * 4;
    for (int64_t r = 0; r < whole_rows; r += 4)
        for (int j = 0; j < whole; j += 4) transpose4(buffer + r * Width + j, Width, y + j * stride + r, stride);
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
            const int64_t start = w.starts[g];
            multiply_group<Block, Width>(group_values(w, g, scratch), w.indices.data() + start, w.starts[g + 1] - start,
                                         tile, buffer + (g - group) * Block * Width);
        }
        const int64_t rows = (end * Block < w.rows ? end * Block : w.rows) - row;
        for (int64_t r = 0; r < rows; ++r) finish_row(buffer + r * Width, Width, w, epilogue, row + r);
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
        for (int64_t row = g * Block; row < (g + 1) * Block && row < w.rows; ++row) {
            finish_row(sums + row - g * Block, 1, w, epilogue, row);
            y[row] = sums[row - g * Block];
        }
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
    const int64_t whole_last = first + (last - first) / 4 * 4;
    for (int j = 0; j < whole; j += 4) {
        for (int64_t i = first; i < whole_last; i += 4)
            transpose4(x + j * columns + i, columns, tile + i * width + j, width);
        for (int64_t i = whole_last; i < last; ++i)
            for (int lane = j; lane < j + 4; ++lane) tile[i * width + lane] = x[lane * columns + i];
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
