#include "linear.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "pool.h"

namespace sparse {
namespace {

// Rows of activations that are converted at once: bounds the scratch memory.
constexpr int64_t kRowsAtOnce = 480;

}  // namespace

void multiply(const Dense& w, const float* bias, const float* x, int64_t n, float* y, int64_t stride,
              const Runner& runner) {
    thread_local Aligned<uint32_t> words;
    thread_local Aligned<float> scales;
    const DenseKernels& kernels = runner.kernels.dense;
    if (w.compressed() && !kernels.expands(w.item))
        throw std::invalid_argument(std::string("kernels ") + runner.kernels.name + " need weights with their zeros");
    const int64_t most = std::min(n, kRowsAtOnce);
    if (static_cast<int64_t>(words.size()) < most * w.words()) words.resize(most * w.words());
    if (static_cast<int64_t>(scales.size()) < most) scales.resize(most);
    const int threads = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(runner.threads, w.panels() / 8)));
    for (int64_t first = 0; first < n; first += most) {
        const int64_t count = std::min(most, n - first);
        const float* const rows = x + first * w.columns;
        const auto* converted = reinterpret_cast<const uint32_t*>(rows);
        if (w.item != Item::f32) {
            kernels.convert(w.item, rows, w.columns, count, w.columns, words.data(), scales.data());
            converted = words.data();
        }
        const float* const row_scales = scales.data();
        run_parallel(threads, [&](int part) {
            const int64_t blocks = (w.panels() + 7) / 8;
            const int64_t begin = 8 * (blocks * part / threads);
            const int64_t end = std::min(w.panels(), 8 * (blocks * (part + 1) / threads));
            kernels.multiply(w, begin, end, converted, row_scales, count, y + first * stride, stride, bias);
        });
    }
}

void multiply(const Gathered& w, const float* bias, const float* x, int64_t n, float* y, const Runner& runner) {
    thread_local Aligned<uint32_t> words;
    thread_local Aligned<float> scales;
    const DenseKernels& kernels = runner.kernels.dense;
    if (!kernels.multiply_gathered)
        throw std::invalid_argument(std::string("kernels ") + runner.kernels.name + " gather no activations");
    const int64_t most = std::min(n, kRowsAtOnce), row_words = (w.columns + 3) / 4;
    const int64_t needed = most * row_words + Gathered::kGroup / 4;
    if (static_cast<int64_t>(words.size()) < needed) words.resize(needed);
    if (static_cast<int64_t>(scales.size()) < most) scales.resize(most);
    const int threads = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(runner.threads, w.panels() / 8)));
    for (int64_t first = 0; first < n; first += most) {
        const int64_t count = std::min(most, n - first);
        kernels.convert(Item::i8, x + first * w.columns, w.columns, count, w.columns, words.data(), scales.data());
        const auto* const codes = reinterpret_cast<const uint8_t*>(words.data());
        const float* const row_scales = scales.data();
        run_parallel(threads, [&](int part) {
            kernels.multiply_gathered(w, w.panels() * part / threads, w.panels() * (part + 1) / threads, codes,
                                      4 * row_words, row_scales, count, y + first * w.rows, w.rows, bias);
        });
    }
}

void multiply(const Linear& by, const float* x, int64_t n, float* y, const Runner& runner) {
    if (by.dense)
        multiply(*by.dense, by.bias, x, n, y, by.dense->rows, runner);
    else if (by.gathered)
        multiply(*by.gathered, by.bias, x, n, y, runner);
    else
        multiply(*by.sparse, by.bias, x, n, y, runner);
}

}  // namespace sparse
