// What one thread of this machine can do at best, with vectors of LANES floats: see roofline.py.
#include <algorithm>
#include <chrono>
#include <cstdint>

namespace {

typedef float Vec __attribute__((vector_size(4 * LANES)));

volatile float sink = 1e-3f;

// The best rate of `rounds` calls of work(), which has to do with `count` of something.
template <typename Work>
double best_rate(int rounds, double count, const Work& work) {
    double best = 0.0;
    for (int round = 0; round < rounds; ++round) {
        const auto started = std::chrono::steady_clock::now();
        const Vec sum = work();
        const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - started;
        sink = sum[0];
        best = std::max(best, count / taken.count());
    }
    return best;
}

}  // namespace

// Multiply-adds of floats a second, in registers: of so many independent vectors that their latency is hidden.
extern "C" double multiply_add_rate() {
    constexpr int chains = LANES == 16 ? 24 : 12, repeats = 20000;
    const Vec factor = Vec{} + 1e-3f * sink, term = Vec{} + 2e-3f * sink;
    return best_rate(50, 1.0 * repeats * chains * LANES, [&] {
        Vec sums[chains];
        for (int c = 0; c < chains; ++c) sums[c] = Vec{} + static_cast<float>(c);
        for (int r = 0; r < repeats; ++r)
#pragma GCC unroll 24
            for (int c = 0; c < chains; ++c) sums[c] = sums[c] * factor + term;
        for (int c = 1; c < chains; ++c) sums[0] += sums[c];
        return sums[0];
    });
}

// Bytes a second at which `count` floats are read in order, again and again.
extern "C" double read_rate(const float* from, int64_t count, int rounds) {
    return best_rate(rounds, sizeof(float) * static_cast<double>(count), [&] {
        Vec sums[8] = {};
        for (int64_t i = 0; i + 8 * LANES <= count; i += 8 * LANES)
#pragma GCC unroll 8
            for (int s = 0; s < 8; ++s) {
                Vec next;
                __builtin_memcpy(&next, from + i + s * LANES, sizeof next);
                sums[s] += next;
            }
        for (int s = 1; s < 8; ++s) sums[0] += sums[s];
        return sums[0];
    });
}
