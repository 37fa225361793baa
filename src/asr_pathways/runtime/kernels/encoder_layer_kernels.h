// Dense operations between the products of an encoder layer; part of multiply_kernels.h.
#pragma once

#include "pointwise_kernels.h"

namespace sparse {
namespace {

template <int Count>
struct Lanes {
    using V = Vec<Count>;
    static INLINE V at(const float* from) { return load<Count>(from); }
    static INLINE void put(float* to, V value) { store<Count>(to, value); }
};

// Calls work(place, lanes) for vectors of LANES floats, then for what is left one by one.
template <typename Work>
INLINE void for_floats(int64_t count, const Work& work) {
    int64_t place = 0;
    for (; place + LANES <= count; place += LANES) work(place, Lanes<LANES>{});
    for (; place < count; ++place) work(place, Lanes<1>{});
}

// The sum over all places of what work(place, lanes) returns, a vector of so many lanes.
template <typename Work>
INLINE float sum_floats(int64_t count, const Work& work) {
    Vec<LANES> sums = {};
    float sum = 0.0f;
    int64_t place = 0;
    for (; place + LANES <= count; place += LANES) sums += work(place, Lanes<LANES>{});
    for (; place < count; ++place) sum += work(place, Lanes<1>{})[0];
    for (int lane = 0; lane < LANES; ++lane) sum += sums[lane];
    return sum;
}

void layer_norm(const float* x, int64_t n, int64_t size, Norm norm, float* y) {
    for (int64_t row = 0; row < n; ++row, x += size, y += size) {
        const float mean = sum_floats(size, [&](int64_t i, auto lanes) { return lanes.at(x + i); }) / size;
        const float squares = sum_floats(size, [&](int64_t i, auto lanes) {
            const auto centred = lanes.at(x + i) - mean;
            return centred * centred;
        });
        const float scale = 1.0f / __builtin_sqrtf(squares / size + norm.epsilon);
        for_floats(size, [&](int64_t i, auto lanes) {
            const auto standard = (lanes.at(x + i) - mean) * scale;
            lanes.put(y + i, standard * lanes.at(norm.weight + i) + lanes.at(norm.bias + i));
        });
    }
}

template <int Count>
INLINE Vec<Count> gate(Lanes<Count>, Vec<Count> value) {
    return sigmoid<Count>(value);
}

void silu(float* x, int64_t count) {
    for_floats(count, [&](int64_t i, auto lanes) {
        const auto value = lanes.at(x + i);
        lanes.put(x + i, value * gate(lanes, value));
    });
}

void add(const float* x, int64_t count, float* y) {
    for_floats(count, [&](int64_t i, auto lanes) { lanes.put(y + i, lanes.at(y + i) + lanes.at(x + i)); });
}

void glu(const float* x, int64_t n, int64_t size, float* y) {
    for (int64_t row = 0; row < n; ++row, x += 2 * size, y += size)
        for_floats(size, [&](int64_t i, auto lanes) {
            lanes.put(y + i, lanes.at(x + i) * gate(lanes, lanes.at(x + size + i)));
        });
}

void depthwise(const float* x, int64_t n, int64_t size, const float* weight, const float* bias, int64_t taps,
               float* y) {
    for (int64_t row = 0; row < n; ++row, x += size, y += size)
        for_floats(size, [&](int64_t i, auto lanes) {
            auto sum = lanes.at(bias + i);
            for (int64_t tap = 0; tap < taps; ++tap)
                sum += lanes.at(x + tap * size + i) * lanes.at(weight + tap * size + i);
            lanes.put(y + i, sum);
        });
}

// A small dense matrix with its floats from row to row.
struct Rows {
    const float* start;
    int64_t stride;
};

// out (Count, n) = a (Count, k) @ b (k, n).
template <int Count>
INLINE void add_rows(Rows a, Rows b, int64_t k, int64_t n, float* out, int64_t stride) {
    for_floats(n, [&](int64_t j, auto lanes) {
        typename decltype(lanes)::V sums[Count] = {};
        for (int64_t i = 0; i < k; ++i) {
            const auto value = lanes.at(b.start + i * b.stride + j);
            for (int r = 0; r < Count; ++r) sums[r] += value * a.start[r * a.stride + i];
        }
        for (int r = 0; r < Count; ++r) lanes.put(out + r * stride + j, sums[r]);
    });
}

// The same for so many rows, at most `Count`.
template <int Count>
void add_last_rows(int64_t rows, Rows a, Rows b, int64_t k, int64_t n, float* out, int64_t stride) {
    if constexpr (Count > 0) {
        if (rows == Count) return add_rows<Count>(a, b, k, n, out, stride);
        add_last_rows<Count - 1>(rows, a, b, k, n, out, stride);
    }
}

// out (rows, n) = a (rows, k) @ b (k, n): as many rows at a time as a multiply-add takes cycles, twice.
void dense_product(Rows a, int64_t rows, Rows b, int64_t k, int64_t n, float* out, int64_t stride) {
    int64_t row = 0;
    for (; row + 8 <= rows; row += 8)
        add_rows<8>({a.start + row * a.stride, a.stride}, b, k, n, out + row * stride, stride);
    add_last_rows<7>(rows - row, {a.start + row * a.stride, a.stride}, b, k, n, out + row * stride, stride);
}

// Softmax of scores * scale + bias + unseen, of which `count` count; zeros, or nearly, up to `padded`.
INLINE void softmax(float* scores, float scale, const float* bias, const float* unseen, int64_t count, int64_t padded) {
    for_floats(count, [&](int64_t j, auto lanes) {
        lanes.put(scores + j, lanes.at(scores + j) * scale + lanes.at(bias + j) + lanes.at(unseen + j));
    });
    for (int64_t j = count; j < padded; ++j) scores[j] = -1e30f;
    Vec<LANES> most = load<LANES>(scores);
    for (int64_t j = LANES; j < padded; j += LANES) {
        const Vec<LANES> here = load<LANES>(scores + j);
        most = here > most ? here : most;
    }
    float largest = most[0];
    for (int lane = 1; lane < LANES; ++lane) largest = most[lane] > largest ? most[lane] : largest;
    Vec<LANES> sums = {};
    for (int64_t j = 0; j < padded; j += LANES) {
        const Vec<LANES> power = exponential<LANES>(load<LANES>(scores + j) - largest);
        store<LANES>(scores + j, power);
        sums += power;
    }
    float sum = 0.0f;
    for (int lane = 0; lane < LANES; ++lane) sum += sums[lane];
    for (int64_t j = 0; j < padded; j += LANES) store<LANES>(scores + j, load<LANES>(scores + j) * (1.0f / sum));
}

INLINE int64_t whole_vectors(int64_t count) { return (count + LANES - 1) / LANES * LANES; }

int64_t attend_scratch(const Attention& a) { return (a.dim / a.heads + a.rows) * whole_vectors(a.length); }

void attend(const Attention& a, const float* query, const float* window, const float* unseen, float* scratch,
            float* out) {
    const int64_t width = a.dim / a.heads, padded = whole_vectors(a.length);
    float *const keys = scratch, *const scores = scratch + width * padded;
    const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(width));
    for (int64_t head = 0; head < a.heads; ++head) {
        const float *const key = window + head * width, *const value = key + a.dim;
        transpose(key, 2 * a.dim, static_cast<int>(a.length), static_cast<int>(padded), 0, width, keys);
        dense_product({query + head * width, a.dim}, a.rows, {keys, padded}, width, padded, scores, padded);
        for (int64_t row = 0; row < a.rows; ++row)
            softmax(scores + row * padded, scale, a.bias + (head * a.rows + row) * a.length, unseen, a.length, padded);
        dense_product({scores, padded}, a.rows, {value, 2 * a.dim}, a.length, width, out + head * width, a.dim);
    }
}

int64_t attend_relative_scratch(const RelativeAttention& a) {
    const int64_t padded = whole_vectors(a.length), distances = whole_vectors(a.length + a.rows - 1);
    return (a.dim / a.heads + a.rows + 1) * padded + a.rows * (distances + 2 * a.dim / a.heads);
}

void attend_relative(const RelativeAttention& a, const float* query, int64_t stride, const KeyValues& window,
                     float* scratch, float* out) {
    const int64_t width = a.dim / a.heads, padded = whole_vectors(a.length);
    const int64_t distances = whole_vectors(a.length + a.rows - 1);
    float *const keys = scratch, *const scores = keys + width * padded, *const all_seen = scores + a.rows * padded;
    float *const near = all_seen + padded, *const content = near + a.rows * distances;
    float* const distance = content + a.rows * width;
    const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(width));
    __builtin_memset(all_seen, 0, sizeof(float) * padded);
    for (int64_t head = 0; head < a.heads; ++head) {
        const float *const key = window.keys + head * window.stride, *const value =
                                                                         window.values + head * window.stride;
        for (int64_t row = 0; row < a.rows; ++row)
            for_floats(width, [&](int64_t i, auto lanes) {
                const auto asked = lanes.at(query + row * stride + head * width + i);
                lanes.put(content + row * width + i, (asked + lanes.at(a.by_content + head * width + i)) * scale);
                lanes.put(distance + row * width + i, (asked + lanes.at(a.by_distance + head * width + i)) * scale);
            });
        transpose(key, width, static_cast<int>(a.length), static_cast<int>(padded), 0, width, keys);
        dense_product({content, width}, a.rows, {keys, padded}, width, padded, scores, padded);
        dense_product({distance, width}, a.rows, {a.positions + head * width * a.stride + a.first, a.stride}, width,
                      distances, near, distances);
        for (int64_t row = 0; row < a.rows; ++row)
            softmax(scores + row * padded, 1.0f, near + row * distances + a.rows - 1 - row, all_seen, a.length, padded);
        dense_product({scores, padded}, a.rows, {value, width}, a.length, width, out + head * width, a.dim);
    }
}

constexpr StepKernels kSteps = {
    layer_norm, silu, add, glu, depthwise, attend_scratch, attend, attend_relative_scratch, attend_relative};

}  // namespace
}  // namespace sparse
