// What the steps of an encoder layer need between their products; part of kernel_body.h.
#pragma once

#include "math_body.h"

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

// The sum over all places of what work(place, lanes) gives, a vector of so many lanes.
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

void depthwise(const float* x, int64_t n, int64_t size, const float* weight, const float* bias, int64_t taps, float* y) {
    for (int64_t row = 0; row < n; ++row, x += size, y += size)
        for_floats(size, [&](int64_t i, auto lanes) {
            auto sum = lanes.at(bias + i);
            for (int64_t tap = 0; tap < taps; ++tap) sum += lanes.at(x + tap * size + i) * lanes.at(weight + tap * size + i);
            lanes.put(y + i, sum);
        });
}

// scores[r][j] = sum over k of query[r * stride + k] * keys[k][j] for Rows rows and all j < padded.
template <int Rows>
INLINE void score_rows(const float* query, int64_t stride, const float* keys, int64_t width, int64_t padded, float scale,
                       float* scores) {
    for (int64_t j = 0; j < padded; j += LANES) {
        Vec<LANES> sums[Rows] = {};
        for (int64_t k = 0; k < width; ++k) {
            const Vec<LANES> key = load<LANES>(keys + k * padded + j);
            for (int r = 0; r < Rows; ++r) sums[r] += key * query[r * stride + k];
        }
        for (int r = 0; r < Rows; ++r) store<LANES>(scores + r * padded + j, sums[r] * scale);
    }
}

template <int Count>
INLINE Vec<Count> power(Lanes<Count>, Vec<Count> value) {
    return exponential<Count>(value);
}

INLINE void softmax(float* scores, int64_t count) {
    float largest = scores[0];
    for (int64_t j = 1; j < count; ++j) largest = scores[j] > largest ? scores[j] : largest;
    const float sum = sum_floats(count, [&](int64_t j, auto lanes) {
        const auto value = power(lanes, lanes.at(scores + j) - largest);
        lanes.put(scores + j, value);
        return value;
    });
    for (int64_t j = 0; j < count; ++j) scores[j] /= sum;
}

INLINE int64_t padded_length(const Attention& a) { return (a.length + LANES - 1) / LANES * LANES; }

int64_t attend_scratch(const Attention& a) { return (a.dim / a.heads + a.rows) * padded_length(a); }

void attend(const Attention& a, const float* query, const float* window, const float* unseen, float* scratch, float* out) {
    const int64_t width = a.dim / a.heads, padded = padded_length(a);
    float *const keys = scratch, *const scores = scratch + width * padded;
    const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(width));
    for (int64_t head = 0; head < a.heads; ++head) {
        const float *const q = query + head * width, *const k = window + head * width, *const v = k + a.dim;
        transpose(k, 2 * a.dim, static_cast<int>(a.length), static_cast<int>(padded), 0, width, keys);
        int64_t row = 0;
        for (; row + 4 <= a.rows; row += 4)
            score_rows<4>(q + row * a.dim, a.dim, keys, width, padded, scale, scores + row * padded);
        for (; row < a.rows; ++row)
            score_rows<1>(q + row * a.dim, a.dim, keys, width, padded, scale, scores + row * padded);
        for (row = 0; row < a.rows; ++row) {
            float* const own = scores + row * padded;
            const float* const bias = a.bias + (head * a.rows + row) * a.length;
            for_floats(a.length, [&](int64_t j, auto lanes) {
                lanes.put(own + j, lanes.at(own + j) + lanes.at(bias + j) + lanes.at(unseen + j));
            });
            softmax(own, a.length);
            for_floats(width, [&](int64_t i, auto lanes) {
                auto sum = lanes.at(v + i) * own[0];
                for (int64_t j = 1; j < a.length; ++j) sum += lanes.at(v + j * 2 * a.dim + i) * own[j];
                lanes.put(out + row * a.dim + head * width + i, sum);
            });
        }
    }
}

constexpr StepKernels kSteps = {layer_norm, silu, add, glu, depthwise, attend_scratch, attend};

}  // namespace
}  // namespace sparse
