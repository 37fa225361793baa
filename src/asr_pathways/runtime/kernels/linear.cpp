#include "linear.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "pool.h"

namespace sparse {
namespace {

// Rows of activations that are converted at once: bounds the scratch memory.
constexpr int64_t kRowsAtOnce = 480;

// Codes of `count` rows of x, and after them codes of what those leave of x: 16 bits together.
void convert_finely(const float* x, int64_t count, int64_t columns, const Runner& runner, uint32_t* words,
                    float* scales) {
    thread_local Aligned<float> rest;
    const int64_t row_words = (columns + 3) / 4;
    if (static_cast<int64_t>(rest.size()) < count * columns) rest.resize(count * columns);
    const DenseKernels& kernels = runner.kernels.dense;
    kernels.convert(Item::i8, x, columns, count, columns, words, scales);
    for (int64_t row = 0; row < count; ++row) {
        const auto* const codes = reinterpret_cast<const uint8_t*>(words + row * row_words);
        for (int64_t i = 0; i < columns; ++i) {
            const auto code = static_cast<int8_t>(codes[i] - runner.kernels.code_offset);
            rest[row * columns + i] = x[row * columns + i] - scales[row] * code;
        }
    }
    kernels.convert(Item::i8, rest.data(), columns, count, columns, words + count * row_words, scales + count);
}

// y[j, row] = both[j, row] + both[count + j, row] + bias[row], for rows [first, last).
void add_parts(const float* both, int64_t count, int64_t rows, int64_t first, int64_t last, const float* bias, float* y,
               int64_t stride) {
    for (int64_t j = 0; j < count; ++j)
        for (int64_t row = first; row < last; ++row)
            y[j * stride + row] = both[j * rows + row] + both[(count + j) * rows + row] + (bias ? bias[row] : 0.0f);
}

}  // namespace

void multiply(const Dense& w, const float* bias, bool fine, const float* x, int64_t n, float* y, int64_t stride,
              const Runner& runner) {
    thread_local Aligned<uint32_t> words;
    thread_local Aligned<float> scales, both;
    const DenseKernels& kernels = runner.kernels.dense;
    if (w.compressed() && !kernels.expands(w.item))
        throw std::invalid_argument(std::string("kernels ") + runner.kernels.name + " need weights with their zeros");
    fine = fine && w.item == Item::i8;
    const int64_t most = std::min(n, kRowsAtOnce), codes = fine ? 2 * most : most;
    if (static_cast<int64_t>(words.size()) < codes * w.words()) words.resize(codes * w.words());
    if (static_cast<int64_t>(scales.size()) < codes) scales.resize(codes);
    if (fine && static_cast<int64_t>(both.size()) < codes * w.rows) both.resize(codes * w.rows);
    const int threads = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(runner.threads, w.panels() / 8)));
    for (int64_t first = 0; first < n; first += most) {
        const int64_t count = std::min(most, n - first);
        const float* const rows = x + first * w.columns;
        float* const out = y + first * stride;
        const auto* converted = reinterpret_cast<const uint32_t*>(rows);
        if (w.item != Item::f32) {
            if (fine)
                convert_finely(rows, count, w.columns, runner, words.data(), scales.data());
            else
                kernels.convert(w.item, rows, w.columns, count, w.columns, words.data(), scales.data());
            converted = words.data();
        }
        const float* const row_scales = scales.data();
        float* const parts = both.data();
        run_parallel(threads, [&](int part) {
            const int64_t blocks = (w.panels() + 7) / 8;
            const int64_t begin = 8 * (blocks * part / threads);
            const int64_t end = std::min(w.panels(), 8 * (blocks * (part + 1) / threads));
            kernels.multiply(w, begin, end, converted, row_scales, fine ? 2 * count : count, fine ? parts : out,
                             fine ? w.rows : stride, fine ? nullptr : bias);
            if (fine)
                add_parts(parts, count, w.rows, begin * kPanelRows, std::min(w.rows, end * kPanelRows), bias, out,
                          stride);
        });
    }
}

void multiply(const Gathered& w, const float* bias, bool fine, const float* x, int64_t n, float* y,
              const Runner& runner) {
    thread_local Aligned<uint32_t> words;
    thread_local Aligned<float> scales, both;
    const DenseKernels& kernels = runner.kernels.dense;
    if (!kernels.multiply_gathered)
        throw std::invalid_argument(std::string("kernels ") + runner.kernels.name + " gather no activations");
    const int64_t most = std::min(n, kRowsAtOnce), codes = fine ? 2 * most : most, row_words = (w.columns + 3) / 4;
    const int64_t needed = codes * row_words + Gathered::kGroup / 4;
    if (static_cast<int64_t>(words.size()) < needed) words.resize(needed);
    if (static_cast<int64_t>(scales.size()) < codes) scales.resize(codes);
    if (fine && static_cast<int64_t>(both.size()) < codes * w.rows) both.resize(codes * w.rows);
    const int threads = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(runner.threads, w.panels() / 8)));
    for (int64_t first = 0; first < n; first += most) {
        const int64_t count = std::min(most, n - first);
        const float* const rows = x + first * w.columns;
        float* const out = y + first * w.rows;
        if (fine)
            convert_finely(rows, count, w.columns, runner, words.data(), scales.data());
        else
            kernels.convert(Item::i8, rows, w.columns, count, w.columns, words.data(), scales.data());
        const auto* const converted = reinterpret_cast<const uint8_t*>(words.data());
        const float* const row_scales = scales.data();
        float* const parts = both.data();
        run_parallel(threads, [&](int part) {
            const int64_t begin = w.panels() * part / threads, end = w.panels() * (part + 1) / threads;
            kernels.multiply_gathered(w, begin, end, converted, 4 * row_words, row_scales, fine ? 2 * count : count,
                                      fine ? parts : out, w.rows, fine ? nullptr : bias);
            if (fine)
                add_parts(parts, count, w.rows, begin * kPanelRows, std::min(w.rows, end * kPanelRows), bias, out,
                          w.rows);
        });
    }
}

void multiply(const Linear& by, const float* x, int64_t n, float* y, const Runner& runner) {
    if (by.dense)
        multiply(*by.dense, by.bias, by.fine, x, n, y, by.dense->rows, runner);
    else if (by.gathered)
        multiply(*by.gathered, by.bias, by.fine, x, n, y, runner);
    else
        multiply(*by.sparse, by.bias, x, n, y, runner);
}

}  // namespace sparse
