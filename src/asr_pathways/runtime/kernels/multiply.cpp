#include "multiply.h"

#include <algorithm>

#include "pool.h"

namespace sparse {
namespace {

// Weights that stay in the second-level cache while several tiles pass over them.
constexpr int64_t kChunkBytes = 256 * 1024;
// Rows of activations that are transposed at once: bounds the scratch memory.
constexpr int64_t kRowsAtOnce = 64;

struct Tile {
    int first, n, width;
    int64_t offset;  // floats
};

std::vector<Tile> make_tiles(int64_t n, int64_t columns, int widest) {
    std::vector<Tile> tiles;
    int64_t offset = 0;
    for (int first = 0; first < n; first += widest) {
        const int here = static_cast<int>(std::min<int64_t>(n - first, widest));
        int width = 4;
        while (width < here) width *= 2;
        tiles.push_back({first, here, width, offset});
        offset += columns * width;
    }
    return tiles;
}

// The first group of part `index` of `count`, all of about as many stored blocks.
int64_t split(const Matrix& w, int index, int count) {
    if (index == count) return w.groups();
    const int64_t target = w.starts.back() * index / count;
    return std::lower_bound(w.starts.begin(), w.starts.end() - 1, target) - w.starts.begin();
}

// Calls work(first, last) for stretches of groups [first, last) whose weights fit the cache.
template <typename Work>
void in_chunks(const Matrix& w, int64_t first, int64_t last, const Work& work) {
    const int64_t blocks = kChunkBytes / (2 + w.block * (w.quantized ? 1 : 4));
    while (first < last) {
        const auto end = std::upper_bound(w.starts.begin() + first + 1, w.starts.begin() + last, w.starts[first] + blocks);
        const int64_t stop = end - w.starts.begin();
        work(first, stop);
        first = stop;
    }
}

float* scratch_for(const Matrix& w) {
    thread_local Aligned<float> scratch;
    const std::size_t needed = w.quantized ? w.longest_group() * w.block : 0;
    if (scratch.size() < needed) scratch.resize(needed);
    return scratch.data();
}

void multiply_one(const Matrix& w, const float* x, float* y, Epilogue epilogue, int threads, const Kernels& kernels) {
    run_parallel(threads, [&](int part) {
        const int64_t first = split(w, part, threads), last = split(w, part + 1, threads);
        kernels.multiply_vector(w, x, y, epilogue, first, last, scratch_for(w));
    });
}

void multiply_some(const Matrix& w, const float* x, int64_t n, float* y, Epilogue epilogue, int threads,
                   const Kernels& kernels) {
    thread_local Aligned<float> transposed;
    const auto tiles = make_tiles(n, w.columns, kernels.widest_tile(w.block));
    const std::size_t needed = tiles.back().offset + tiles.back().width * w.columns;
    if (transposed.size() < needed) transposed.resize(needed);
    float* const activations = transposed.data();
    run_parallel(threads, [&](int part) {
        const int64_t quads = (w.columns + 3) / 4;
        const int64_t first = 4 * (quads * part / threads);
        const int64_t last = std::min(w.columns, 4 * (quads * (part + 1) / threads));
        for (const Tile& tile : tiles)
            kernels.transpose(x + tile.first * w.columns, w.columns, tile.n, tile.width, first, last,
                              activations + tile.offset);
    });
    run_parallel(threads, [&](int part) {
        float* const scratch = scratch_for(w);
        in_chunks(w, split(w, part, threads), split(w, part + 1, threads), [&](int64_t first, int64_t last) {
            for (const Tile& tile : tiles)
                kernels.multiply(w, activations + tile.offset, tile.width, tile.n, y + tile.first * w.rows, epilogue,
                                 first, last, scratch);
        });
    });
}

std::vector<const Kernels*> supported() {
    std::vector<const Kernels*> found;
    for (const Kernels* kernels : {avx512_kernels(), avx2_kernels(), portable_kernels()})
        if (kernels) found.push_back(kernels);
    return found;
}

}  // namespace

std::vector<std::string> variants() {
    std::vector<std::string> names;
    for (const Kernels* kernels : supported()) names.push_back(kernels->name);
    return names;
}

const Kernels* find_kernels(const std::string& name) {
    static const std::vector<const Kernels*> found = supported();
    for (const Kernels* kernels : found)
        if (name.empty() || name == kernels->name) return kernels;
    return nullptr;
}

void multiply(const Matrix& w, const float* x, int64_t n, float* y, Epilogue epilogue, int threads,
              const Kernels& kernels) {
    threads = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(threads, w.groups())));
    for (int64_t first = 0; first < n; first += kRowsAtOnce) {
        const int64_t here = std::min(n - first, kRowsAtOnce);
        const float* const from = x + first * w.columns;
        float* const to = y + first * w.rows;
        here == 1 ? multiply_one(w, from, to, epilogue, threads, kernels)
                  : multiply_some(w, from, here, to, epilogue, threads, kernels);
    }
}

}  // namespace sparse
