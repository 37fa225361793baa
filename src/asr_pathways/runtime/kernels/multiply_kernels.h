// The kernels, written once with the compiler's vector extensions and included once per instruction set.
//
// The including file defines LANES, the floats of a native vector, and turns the instruction set on before.
// A product walks over the blocks of a group of rows; per block it loads `width` activations of one column and
// multiplies them by each of the block's weights, into accumulators that stay in registers.
#pragma once

#include "multiply_narrow_blocks.h"
#include "pointwise_kernels.h"
#include "vectors.h"

namespace sparse {
namespace {

constexpr int vector_lanes(int width) { return width < LANES ? width : LANES; }

// Accumulators that are in flight at once: a multiply-add takes four cycles, and two start in each.
constexpr int kAccumulators = 8;

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
    for (int p = 0; p < Parts; ++p) sums[0][p] += x[p] * weights.template all<0>();
    for (int p = 0; p < Parts; ++p) sums[1][p] += x[p] * weights.template all<1>();
    for (int p = 0; p < Parts; ++p) sums[2][p] += x[p] * weights.template all<2>();
    for (int p = 0; p < Parts; ++p) sums[3][p] += x[p] * values[3];  // loaded: shuffles are scarce too
}

// out[r][j] += sum over k of values[k][r] * tile[indices[k]][j], for r < Block and j < Width.
template <int Block, int Width>
INLINE void add_segment(const float* values, const uint16_t* indices, int64_t count, const float* tile, float* out) {
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
            for (int r = 0; r < Block; r += 4) add_block<parts, lanes>(values + (k + s) * Block + r, x, &sums[s][r]);
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
            float* place = out + r * Width + p * lanes;
            store<lanes>(place, load<lanes>(place) + sums[0][r][p]);
        }
}

template <int Width>
INLINE void add_row_segment(const float* values, const uint16_t* indices, int64_t count, const float* tile,
                            float* out) {
    constexpr int lanes = vector_lanes(Width), parts = Width / lanes;
    constexpr int sets = kAccumulators / parts > 1 ? kAccumulators / parts : 1;
    Vec<lanes> sums[sets][parts] = {};
    int64_t k = 0;
    for (; k + 8 <= count; k += 8) {
        __builtin_prefetch(values + k + kPrefetch);
        __builtin_prefetch(indices + k + kPrefetch);
        add_four<Width, sets>(values + k, indices + k, tile, 0, sums);
        add_four<Width, sets>(values + k + 4, indices + k + 4, tile, 4, sums);
    }
    if (k < count) add_four<Width, sets>(values + k, indices + k, tile, 0, sums);
    for (int p = 0; p < parts; ++p) {
        for (int s = 1; s < sets; ++s) sums[0][p] += sums[s][p];
        store<lanes>(out + p * lanes, load<lanes>(out + p * lanes) + sums[0][p]);
    }
}

// out[r] += sum over k of values[k][r] * x[indices[k]]: the lanes of a vector are the rows of a block.
template <int Block>
INLINE void add_vector_segment(const float* values, const uint16_t* indices, int64_t count, const float* x,
                               float* out) {
    if constexpr (Block == 1) {
        float sums[8] = {};
        int64_t k = 0;
        for (; k + 8 <= count; k += 8) {
            __builtin_prefetch(values + k + kPrefetch);
            __builtin_prefetch(indices + k + kPrefetch);
#pragma GCC unroll 8
            for (int s = 0; s < 8; ++s) sums[s] += values[k + s] * x[indices[k + s]];
        }
        for (; k < count; ++k) sums[k % 4] += values[k] * x[indices[k]];
        *out += ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
    } else {
        constexpr int lanes = vector_lanes(Block), parts = Block / lanes, sets = 4;
        Vec<lanes> sums[sets][parts] = {};
        int64_t k = 0;
        for (; k + sets <= count; k += sets) {
            __builtin_prefetch(values + k * Block + kPrefetch);
#pragma GCC unroll 4
            for (int s = 0; s < sets; ++s)
                for (int p = 0; p < parts; ++p)
                    sums[s][p] += load<lanes>(values + (k + s) * Block + p * lanes) * x[indices[k + s]];
        }
        for (; k < count; ++k)
            for (int p = 0; p < parts; ++p) sums[0][p] += load<lanes>(values + k * Block + p * lanes) * x[indices[k]];
        for (int p = 0; p < parts; ++p) {
            for (int s = 1; s < sets; ++s) sums[0][p] += sums[s][p];
            store<lanes>(out + p * lanes, load<lanes>(out + p * lanes) + sums[0][p]);
        }
    }
}

// Biases on the sums (rows, width) of a chunk.
INLINE void add_biases(const float* bias, int64_t first_row, int64_t rows, int width, float* sums) {
    for (int64_t r = 0; bias && r < rows; ++r)
        for (int j = 0; j < width; ++j) sums[r * width + j] += bias[first_row + r];
}

// y[j, r] = buffer[r][j] for r < rows, j < n; y has `stride` floats a row.
template <int Width>
INLINE void store_transposed(const float* buffer, int64_t rows, int n, float* y, int64_t stride) {
    const int64_t whole_rows = rows / 4 * 4;
    const int whole = n / 4 * 4;
    for (int j = 0; j < whole; j += 4)  // whole cache lines: rows of y are often a power of two apart
        for (int64_t r = 0; r < whole_rows; r += 4)
            transpose4(buffer + r * Width + j, Width, 4, y + j * stride + r, stride, 4);
    if constexpr (Width >= 4)
        for (int64_t r = 0; whole < n && r < whole_rows; r += 4)
            transpose4(buffer + r * Width + whole, Width, 4, y + whole * stride + r, stride, n - whole);
    for (int j = 0; j < n; ++j)
        for (int64_t r = Width >= 4 ? whole_rows : 0; r < rows; ++r) y[j * stride + r] = buffer[r * Width + j];
}

template <int Block, int Width>
void multiply_tile(const Matrix& w, int64_t chunk, const float* tile, int n, float* y, const float* bias) {
    alignas(64) float sums[kChunkRows * Width] = {};
    for (int64_t panel = 0; panel < w.panels(); ++panel) {
        const float* activations = tile + panel * w.panel * Width;
        for (int64_t group = 0; group < kChunkRows / Block; ++group) {
            const int64_t segment = w.segment(chunk, panel, group);
            const int64_t start = w.starts[segment], count = w.starts[segment + 1] - start;
            const float* values = w.values.data() + start * Block;
            const uint16_t* indices = w.indices.data() + start;
            float* out = sums + group * Block * Width;
            if constexpr (Width == 1)
                add_vector_segment<Block>(values, indices, count, activations, out);
            else if constexpr (Block > 1 && LANES > Width && LANES >= 8)
                add_folded_segment<Block, Width>(values, indices, count, activations, out);
            else if constexpr (Block == 1)
                add_row_segment<Width>(values, indices, count, activations, out);
            else
                add_segment<Block, Width>(values, indices, count, activations, out);
        }
    }
    const int64_t first = chunk * kChunkRows, rows = w.rows - first < kChunkRows ? w.rows - first : kChunkRows;
    add_biases(bias, first, rows, Width, sums);
    store_transposed<Width>(sums, rows, n, y + first, w.rows);
}

template <int Block>
void multiply_block(const Matrix& w, int64_t chunk, const float* tile, int width, int n, float* y, const float* bias) {
    switch (width) {
        case 1: return multiply_tile<Block, 1>(w, chunk, tile, n, y, bias);
        case 4: return multiply_tile<Block, 4>(w, chunk, tile, n, y, bias);
        case 8: return multiply_tile<Block, 8>(w, chunk, tile, n, y, bias);
        case 16: return multiply_tile<Block, 16>(w, chunk, tile, n, y, bias);
        default: return multiply_tile<Block, 32>(w, chunk, tile, n, y, bias);
    }
}

void multiply(const Matrix& w, int64_t chunk, const float* tile, int width, int n, float* y, const float* bias) {
    switch (w.block) {
        case 1: return multiply_block<1>(w, chunk, tile, width, n, y, bias);
        case 4: return multiply_block<4>(w, chunk, tile, width, n, y, bias);
        default: return multiply_block<8>(w, chunk, tile, width, n, y, bias);
    }
}

void transpose(const float* x, int64_t columns, int n, int width, int64_t first, int64_t last, float* tile) {
    if (width == 1) {
        __builtin_memcpy(tile + first, x + first, sizeof(float) * (last - first));
        return;
    }
    for (int64_t start = first; start < last; start += 16) {  // a cache line of each row of x
        const int64_t end = start + 16 < last ? start + 16 : last, whole_end = start + (end - start) / 4 * 4;
        for (int j = 0; j < width; j += 4) {
            const int filled = n - j < 4 ? n - j : 4;
            for (int64_t i = start; i < whole_end; i += 4)
                transpose4(x + j * columns + i, columns, filled, tile + i * width + j, width, 4);
            for (int64_t i = whole_end; i < end; ++i)
                for (int lane = j; lane < j + 4; ++lane)
                    tile[i * width + lane] = lane < n ? x[lane * columns + i] : 0.0f;
        }
    }
}

// Accumulators and operands fit the registers: 16 of 4 or 8 lanes, 32 of 16 lanes; and the tile of a panel the cache.
int widest_tile(int block) {
    if (LANES == 16) return block == 1 ? 16 : 32;
    if (LANES == 8) return block == 8 ? 8 : 16;
    return block == 8 ? 4 : block == 4 ? 8 : 16;
}

}  // namespace
}  // namespace sparse

#include "dense_kernels.h"
#include "encoder_layer_kernels.h"
#include "four_bits_kernels.h"
#include "transformer_kernels.h"
