#include "multiply.h"

#include <algorithm>

#include "pool.h"

namespace sparse {
namespace {

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
        int width = here == 1 ? 1 : 4;
        while (width < here) width *= 2;
        tiles.push_back({first, here, width, offset});
        offset += columns * width;
    }
    return tiles;
}

// The first chunk of part `index` of `count`, all with about as many stored blocks.
int64_t split(const Matrix& w, int index, int count) {
    const int64_t segments = w.segment(1, 0, 0), target = w.starts.back() * index / count;
    int64_t low = 0, high = w.chunks();
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (w.starts[middle * segments] < target)
            low = middle + 1;
        else
            high = middle;
    }
    return index == count ? w.chunks() : low;
}

// Activations as the kernels read them: transposed, or x itself if its only tile is one row.
const float* arrange(const Matrix& w, const float* x, const std::vector<Tile>& tiles, int threads,
                     const Kernels& kernels) {
    if (tiles.size() == 1 && tiles[0].width == 1) return x;
    thread_local Aligned<float> transposed;
    const std::size_t needed = tiles.back().offset + tiles.back().width * w.columns;
    if (transposed.size() < needed) transposed.resize(needed);
    float* const activations = transposed.data();
    run_parallel(threads, [&](int part) {
        const int64_t lines = (w.columns + 15) / 16;
        const int64_t first = 16 * (lines * part / threads);
        const int64_t last = std::min(w.columns, 16 * (lines * (part + 1) / threads));
        for (const Tile& tile : tiles)
            kernels.transpose(x + tile.first * w.columns, w.columns, tile.n, tile.width, first, last,
                              activations + tile.offset);
    });
    return activations;
}

// Calls work(chunk) for all chunks, in threads.
template <typename Work>
void for_chunks(const Matrix& w, int threads, const Work& work) {
    run_parallel(threads, [&](int part) {
        const int64_t last = split(w, part + 1, threads);
        for (int64_t chunk = split(w, part, threads); chunk < last; ++chunk) work(chunk);
    });
}

void multiply_some(const Matrix& w, const float* bias, const float* x, int64_t n, float* y, int threads,
                   const Kernels& kernels) {
    const auto tiles = make_tiles(n, w.columns, kernels.widest_tile(w.block));
    const float* const activations = arrange(w, x, tiles, threads, kernels);
    for_chunks(w, threads, [&](int64_t chunk) {
        for (const Tile& tile : tiles)  // within a chunk: its weights are in a cache after the first
            kernels.multiply(w, chunk, activations + tile.offset, tile.width, tile.n, y + tile.first * w.rows, bias);
    });
}

std::vector<const Kernels*> supported() {
    std::vector<const Kernels*> tables;
    for (const Kernels* kernels : {avx512_bf16_kernels(), avx512_kernels(), avx2_kernels(), portable_kernels()})
        if (kernels) tables.push_back(kernels);
    return tables;
}

}  // namespace

std::vector<std::string> variants() {
    std::vector<std::string> names;
    for (const Kernels* kernels : supported()) names.push_back(kernels->name);
    return names;
}

const Kernels* find_kernels(const std::string& name) {
    static const std::vector<const Kernels*> tables = supported();
    for (const Kernels* kernels : tables)
        if (name.empty() || name == kernels->name) return kernels;
    return nullptr;
}

void multiply(const Matrix& w, const float* bias, const float* x, int64_t n, float* y, const Runner& runner) {
    const int threads = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(runner.threads, w.chunks())));
    for (int64_t first = 0; first < n; first += kRowsAtOnce)
        multiply_some(w, bias, x + first * w.columns, std::min(n - first, kRowsAtOnce), y + first * w.rows, threads,
                      runner.kernels);
}

}  // namespace sparse
