#include "encoder_layer.h"

#include <cstring>

namespace sparse {
namespace {

void copy(const float* from, int64_t count, float* to) { std::memcpy(to, from, sizeof(float) * count); }

// `floats` floats of scratch in one piece, each part on a new cache line; valid until the next call.
class Scratch {
public:
    explicit Scratch(int64_t floats, int parts) {
        const std::size_t needed = static_cast<std::size_t>(floats + parts * kLine);
        if (buffer().size() < needed) buffer().resize(needed);
        next_ = buffer().data();
    }
    float* take(int64_t floats) {
        float* const part = next_;
        next_ += (floats + kLine - 1) / kLine * kLine;
        return part;
    }

private:
    static constexpr int64_t kLine = kAlignment / sizeof(float);
    static Aligned<float>& buffer() {
        thread_local Aligned<float> floats;
        return floats;
    }
    float* next_;
};

}  // namespace

void feed_forward(const float* x, int64_t n, Norm norm, const Linear& inwards, const Linear& outwards, float* out,
                  const Runner& runner) {
    const int64_t dim = inwards.columns(), hidden = inwards.rows();
    const StepKernels& steps = runner.kernels.steps;
    Scratch scratch(n * (dim + hidden), 2);
    float *const normed = scratch.take(n * dim), *const inner = scratch.take(n * hidden);
    steps.layer_norm(x, n, dim, norm, normed);
    multiply(inwards, normed, n, inner, runner);
    steps.silu(inner, n * hidden);
    multiply(outwards, inner, n, out, runner);
    steps.add(x, n * dim, out);
}

void attention(const float* x, int64_t streams, const float* past, const float* unseen, Norm norm, const Linear& query,
               const Linear& key_value, const Linear& outwards, const Attention& a, float* windows, float* out,
               const Runner& runner) {
    const int64_t n = streams * a.rows, left = a.length - a.rows;
    const StepKernels& steps = runner.kernels.steps;
    const int64_t workspace = steps.attend_scratch(a);
    Scratch scratch(n * a.dim * 4 + workspace, 4);
    float *const normed = scratch.take(n * a.dim), *const queries = scratch.take(n * a.dim);
    float *const fresh = scratch.take(n * a.dim * 2), *const work = scratch.take(workspace);
    steps.layer_norm(x, n, a.dim, norm, normed);
    multiply(query, normed, n, queries, runner);
    multiply(key_value, normed, n, fresh, runner);
    float* const mixed = normed;  // not needed any more
    for (int64_t stream = 0; stream < streams; ++stream) {
        float* const window = windows + stream * a.length * 2 * a.dim;
        const int64_t first = stream * a.rows * a.dim;
        copy(past + stream * left * 2 * a.dim, left * 2 * a.dim, window);
        copy(fresh + 2 * first, a.rows * 2 * a.dim, window + left * 2 * a.dim);
        steps.attend(a, queries + first, window, unseen + stream * a.length, work, mixed + first);
    }
    multiply(outwards, mixed, n, out, runner);
    steps.add(x, n * a.dim, out);
}

void relative_attention(const float* x, Norm norm, const Linear& query_key_value, const Linear& outwards,
                        const RelativeAttention& a, const KeyValues& window, float* out, const Runner& runner) {
    const int64_t n = a.rows, dim = a.dim;
    const StepKernels& steps = runner.kernels.steps;
    const int64_t workspace = steps.attend_relative_scratch(a);
    Scratch scratch(n * dim * 4 + workspace, 3);
    float *const normed = scratch.take(n * dim), *const fused = scratch.take(n * dim * 3);
    float* const work = scratch.take(workspace);
    steps.layer_norm(x, n, dim, norm, normed);
    multiply(query_key_value, normed, n, fused, runner);
    const int64_t width = dim / a.heads;
    for (int64_t head = 0; head < a.heads; ++head)
        for (int64_t row = 0; row < n; ++row) {
            const float* const fresh = fused + row * 3 * dim + dim + head * width;
            const int64_t place = head * window.stride + (a.length - n + row) * width;
            copy(fresh, width, window.keys + place);
            copy(fresh + dim, width, window.values + place);
        }
    float* const mixed = normed;  // not needed any more
    steps.attend_relative(a, fused, 3 * dim, window, work, mixed);
    multiply(outwards, mixed, n, out, runner);
    steps.add(x, n * dim, out);
}

void convolution(const float* x, int64_t streams, int64_t rows, const float* past, Norm norm, const Linear& inwards,
                 const Convolution& conv, const Linear& outwards, float* windows, float* out, const Runner& runner) {
    const int64_t dim = inwards.columns(), n = streams * rows, kept = conv.taps - 1;
    const StepKernels& steps = runner.kernels.steps;
    Scratch scratch(n * dim * 3, 2);
    float *const normed = scratch.take(n * dim), *const gates = scratch.take(n * dim * 2);
    steps.layer_norm(x, n, dim, norm, normed);
    multiply(inwards, normed, n, gates, runner);
    float* const convolved = normed;  // not needed any more
    for (int64_t stream = 0; stream < streams; ++stream) {
        float* const window = windows + stream * (kept + rows) * dim;
        copy(past + stream * kept * dim, kept * dim, window);
        steps.glu(gates + stream * rows * 2 * dim, rows, dim, window + kept * dim);
        steps.depthwise(window, rows, dim, conv.weight, conv.bias, conv.taps, convolved + stream * rows * dim);
    }
    steps.layer_norm(convolved, n, dim, conv.norm, gates);
    steps.silu(gates, n * dim);
    multiply(outwards, gates, n, out, runner);
    steps.add(x, n * dim, out);
}

}  // namespace sparse
