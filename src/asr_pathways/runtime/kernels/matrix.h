// A sparse matrix: block compressed sparse rows with 16-bit column indices.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <vector>

namespace sparse {

constexpr std::size_t kAlignment = 64;

// Storage aligned to a cache line, so that no vector load crosses one.
template <typename T>
struct AlignedAllocator {
    using value_type = T;
    AlignedAllocator() = default;
    template <typename U>
    AlignedAllocator(const AlignedAllocator<U>&) {}
    T* allocate(std::size_t count) {
        const std::size_t bytes = (count * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
        void* memory = std::aligned_alloc(kAlignment, bytes ? bytes : kAlignment);
        if (!memory) throw std::bad_alloc();
        return static_cast<T*>(memory);
    }
    void deallocate(T* memory, std::size_t) { std::free(memory); }
    // No zeros over memory that is about to be written.
    template <typename U>
    void construct(U* place) {
        ::new (static_cast<void*>(place)) U;
    }
    template <typename U, typename... Arguments>
    void construct(U* place, Arguments&&... arguments) {
        ::new (static_cast<void*>(place)) U(arguments...);
    }
    template <typename U>
    bool operator==(const AlignedAllocator<U>&) const {
        return true;
    }
    template <typename U>
    bool operator!=(const AlignedAllocator<U>&) const {
        return false;
    }
};

template <typename T>
using Aligned = std::vector<T, AlignedAllocator<T>>;

// Rows of one chunk: their sums stay in the first-level cache while the chunk's panels are processed.
constexpr int kChunkRows = 32;
// Most columns of a panel: its activations, 16 floats a column, stay in the first-level cache.
constexpr int64_t kPanelColumns = 512;
// Segments of one row have a multiple of so many blocks.
constexpr int kPadding = 4;

// W (rows, columns) as a list of segments: for each chunk of kChunkRows rows, for each panel of columns, for each
// group of `block` rows of that chunk (groups past the matrix are empty).
//
// The rows of a group share their column indices. Block k of segment s, starts[s] <= k < starts[s + 1], is at column
// indices[k] of its panel and has `block` values at block * k, top row first. Rows past the matrix are zeros. Segments
// of one row are filled up to a multiple of kPadding blocks with zeros, at the column of their last block.
struct Matrix {
    int64_t rows = 0;
    int64_t columns = 0;
    int block = 1;
    int64_t panel = 0;  // columns of every panel but the last, a multiple of 64
    std::vector<int64_t> starts;
    Aligned<uint16_t> indices;
    Aligned<float> values;

    int64_t chunks() const { return (rows + kChunkRows - 1) / kChunkRows; }
    int64_t panels() const { return (columns + panel - 1) / panel; }
    int64_t chunk_groups() const { return kChunkRows / block; }
    int64_t segment(int64_t chunk, int64_t panel_index, int64_t group) const {
        return (chunk * panels() + panel_index) * chunk_groups() + group;
    }
    std::size_t bytes() const {
        return starts.size() * sizeof(int64_t) + indices.size() * sizeof(uint16_t) + values.size() * sizeof(float);
    }
};

}  // namespace sparse
