// A packed sparse matrix: block compressed sparse rows with 16-bit column indices.
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
    template <typename U>
    void construct(U* place) { ::new (static_cast<void*>(place)) U; }  // no zeros over what is about to be written
    template <typename U, typename... Arguments>
    void construct(U* place, Arguments&&... arguments) { ::new (static_cast<void*>(place)) U(arguments...); }
    template <typename U>
    bool operator==(const AlignedAllocator<U>&) const { return true; }
    template <typename U>
    bool operator!=(const AlignedAllocator<U>&) const { return false; }
};

template <typename T>
using Aligned = std::vector<T, AlignedAllocator<T>>;

// W (rows, columns) in groups of `block` consecutive rows that share their column indices. Block k of group g,
// starts[g] <= k < starts[g + 1], has column indices[k] and the `block` values at block * k, top row first.
// Rows past the matrix, in the last group, are zeros. Groups of one row are filled up to a multiple of kPadding blocks
// with zeros, at the column of their last block.
constexpr int kPadding = 4;

struct Matrix {
    int64_t rows = 0;
    int64_t columns = 0;
    int block = 1;
    bool quantized = false;
    int64_t nonzeros = 0;
    std::vector<int64_t> starts;
    Aligned<uint16_t> indices;
    Aligned<float> values;   // empty if quantized
    Aligned<int8_t> codes;   // empty unless quantized: weight = code * scale of its row
    Aligned<float> scales;   // (groups * block,), likewise

    int64_t groups() const { return static_cast<int64_t>(starts.size()) - 1; }
    int64_t longest_group() const {
        int64_t longest = 0;
        for (int64_t g = 0; g < groups(); ++g) {
            const int64_t length = starts[g + 1] - starts[g];
            longest = length > longest ? length : longest;
        }
        return longest;
    }
    std::size_t bytes() const {
        return starts.size() * sizeof(int64_t) + indices.size() * sizeof(uint16_t) + values.size() * sizeof(float) +
               codes.size() + scales.size() * sizeof(float);
    }
};

}  // namespace sparse
