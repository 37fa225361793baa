#include "transformer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "pool.h"

namespace sparse {
namespace {

constexpr int64_t kQueriesAtOnce = 48;

int64_t rounded_up(int64_t count, int64_t multiple) { return (count + multiple - 1) / multiple * multiple; }

// Calls work(head) for all heads, in threads.
template <typename Work>
void for_heads(int64_t heads, int threads, const Work& work) {
    threads = static_cast<int>(std::min<int64_t>(threads, heads));
    run_parallel(threads, [&](int part) {
        for (int64_t head = heads * part / threads; head < heads * (part + 1) / threads; ++head) work(head);
    });
}

struct Buffer {
    Aligned<float> floats;
    float* of(int64_t count) {
        if (static_cast<int64_t>(floats.size()) < count) floats.resize(count);
        return floats.data();
    }
};

struct Words {
    Aligned<uint32_t> words;
    uint32_t* of(int64_t count) {
        if (static_cast<int64_t>(words.size()) < count) words.resize(count);
        return words.data();
    }
};

void scale(float* x, int64_t count, float by) {
    for (int64_t i = 0; i < count; ++i) x[i] *= by;
}

// Attention of each of n frames to all of them.
void attend_all(const Encoder& encoder, const float* query, const float* key, const float* value, int64_t n, float* out,
                const Runner& runner) {
    const int64_t dim = encoder.dim, width = dim / encoder.heads, padded = rounded_up(n, kPanelRows);
    for_heads(encoder.heads, runner.threads, [&](int64_t head) {
        thread_local Dense keys, values;
        thread_local Buffer scores;
        thread_local Words words;
        const DenseKernels& dense = runner.kernels.dense;
        const int64_t place = head * width;
        pack_dense({key + place, dim, 1}, n, width, encoder.attention, keys);
        pack_dense({value + place, 1, dim}, width, n, encoder.attention, values);
        float* const rows = scores.of(kQueriesAtOnce * padded);
        uint32_t* const converted = words.of(kQueriesAtOnce * std::max(keys.words(), values.words()));
        for (int64_t first = 0; first < n; first += kQueriesAtOnce) {
            const int64_t count = std::min(kQueriesAtOnce, n - first);
            dense.convert(encoder.attention, query + first * dim + place, dim, count, width, converted, nullptr);
            dense.multiply(keys, 0, keys.panels(), converted, nullptr, count, rows, padded, nullptr);
            for (int64_t row = 0; row < count; ++row)
                runner.kernels.transformer.softmax(rows + row * padded, n, padded);
            dense.convert(encoder.attention, rows, padded, count, n, converted, nullptr);
            dense.multiply(values, 0, values.panels(), converted, nullptr, count, out + first * dim + place, dim,
                           nullptr);
        }
    });
}

// x += the feed-forward layers of norm(x).
void feed_forward(float* x, int64_t n, const Norm& norm, const Linear& inwards, const Linear& outwards,
                  const Runner& runner) {
    thread_local Buffer normed, inner;
    const int64_t dim = inwards.columns(), hidden = inwards.rows();
    float *const a = normed.of(n * dim), *const b = inner.of(n * hidden);
    runner.kernels.steps.layer_norm(x, n, dim, norm, a);
    multiply(inwards, a, n, b, runner);
    runner.kernels.transformer.gelu(b, n * hidden);
    multiply(outwards, b, n, a, runner);
    runner.kernels.steps.add(a, n * dim, x);
}

float head_scale(int64_t dim, int64_t heads) { return 1.0f / std::sqrt(static_cast<float>(dim / heads)); }

}  // namespace

void encode(const Encoder& encoder, float* x, int64_t n, const Runner& runner) {
    const int64_t dim = encoder.dim, size = n * dim;
    const StepKernels& steps = runner.kernels.steps;
    Buffer buffer;
    float *const normed = buffer.of(5 * size), *const query = normed + size, *const key = query + size;
    float *const value = key + size, *const mixed = value + size;
    for (const EncoderLayer& layer : encoder.layers) {
        steps.layer_norm(x, n, dim, layer.attention_norm, normed);
        multiply(layer.query, normed, n, query, runner);
        scale(query, size, head_scale(dim, encoder.heads));
        multiply(layer.key, normed, n, key, runner);
        multiply(layer.value, normed, n, value, runner);
        attend_all(encoder, query, key, value, n, mixed, runner);
        multiply(layer.out, mixed, n, normed, runner);
        steps.add(normed, size, x);
        feed_forward(x, n, layer.feed_forward_norm, layer.inwards, layer.outwards, runner);
    }
    steps.layer_norm(x, n, dim, encoder.norm, normed);
    std::memcpy(x, normed, sizeof(float) * size);
}

Cross cross_of(const Decoder& decoder, const float* encodings, int64_t frames, const Runner& runner) {
    const int64_t dim = decoder.dim, heads = decoder.heads, width = dim / heads;
    Cross cross;
    cross.frames = frames;
    cross.keys.resize(decoder.layers.size() * heads);
    cross.values.resize(decoder.layers.size() * heads);
    Buffer keys, values;
    float *const key = keys.of(frames * dim), *const value = values.of(frames * dim);
    for (std::size_t layer = 0; layer < decoder.layers.size(); ++layer) {
        multiply(decoder.layers[layer].cross_key, encodings, frames, key, runner);
        multiply(decoder.layers[layer].cross_value, encodings, frames, value, runner);
        for_heads(heads, runner.threads, [&](int64_t head) {
            pack_dense({key + head * width, dim, 1}, frames, width, decoder.attention,
                       cross.keys[layer * heads + head]);
            pack_dense({value + head * width, 1, dim}, width, frames, decoder.attention,
                       cross.values[layer * heads + head]);
        });
    }
    return cross;
}

bool fits(const Cross& cross, const Decoder& decoder) {
    const int64_t width = decoder.dim / decoder.heads;
    const auto count = decoder.layers.size() * decoder.heads;
    return cross.keys.size() == count && std::all_of(cross.keys.begin(), cross.keys.end(), [&](const Dense& keys) {
               return keys.columns == width && keys.item == decoder.attention;
           });
}

Hypotheses::Hypotheses(const Decoder& decoder, std::vector<std::shared_ptr<const Cross>> utterances)
    : decoder_(decoder), utterances_(std::move(utterances)), caches_(utterances_.size()) {}

int64_t Hypotheses::longest() const {
    int64_t frames = 0;
    for (const auto& utterance : utterances_) frames = std::max(frames, utterance->frames);
    return frames;
}

void Hypotheses::grow(int64_t room) {
    const int64_t layers = static_cast<int64_t>(decoder_.layers.size()), heads = decoder_.heads;
    const int64_t width = decoder_.dim / heads, before = room_;
    for (Aligned<float>& cache : caches_) {
        Aligned<float> larger(2 * layers * decoder_.dim * room);
        std::fill(larger.begin(), larger.end(), 0.0f);
        for (int64_t layer = 0; layer < layers && before; ++layer) {
            const float* const from = cache.data() + 2 * layer * decoder_.dim * before;
            float* const to = larger.data() + 2 * layer * decoder_.dim * room;
            for (int64_t line = 0; line < decoder_.dim; ++line)
                std::memcpy(to + line * room, from + line * before, sizeof(float) * length_);
            for (int64_t head = 0; head < heads; ++head)
                std::memcpy(to + decoder_.dim * room + head * room * width,
                            from + decoder_.dim * before + head * before * width, sizeof(float) * length_ * width);
        }
        cache = std::move(larger);
    }
    room_ = room;
}

void Hypotheses::attend_self(int64_t layer, int64_t n, const float* query, const float* key, const float* value,
                             float* out, const Runner& runner) {
    const int64_t dim = decoder_.dim, width = dim / decoder_.heads;
    thread_local Buffer scores;
    float* const scratch = scores.of(room_ + kPanelRows);
    for (int64_t row = 0; row < count(); ++row)
        for (int64_t i = 0; i < n; ++i) {
            const int64_t place = length_ + i, from = (row * n + i) * dim;
            for (int64_t d = 0; d < dim; ++d) keys(row, layer)[d * room_ + place] = key[from + d];
            for (int64_t head = 0; head < decoder_.heads; ++head)
                std::memcpy(values(row, layer) + (head * room_ + place) * width, value + from + head * width,
                            sizeof(float) * width);
            for (int64_t head = 0; head < decoder_.heads; ++head)
                runner.kernels.transformer.attend_cached(query + from + head * width,
                                                         keys(row, layer) + head * width * room_,
                                                         values(row, layer) + head * width * room_, width, room_,
                                                         place + 1, scratch, out + from + head * width);
        }
}

void Hypotheses::attend_cross(int64_t layer, int64_t n, const float* query, float* out, float* attention,
                              const Runner& runner) {
    const int64_t dim = decoder_.dim, heads = decoder_.heads, width = dim / heads;
    const auto recorded = static_cast<int64_t>(decoder_.recorded.size()), stride = longest();
    for_heads(heads, runner.threads, [&](int64_t head) {
        thread_local Buffer scores;
        thread_local Words words;
        const DenseKernels& dense = runner.kernels.dense;
        for (int64_t row = 0; row < count(); ++row) {
            // hypotheses of one utterance, next to each other, in one product
            int64_t same = 1;
            while (row + same < count() && utterances_[row + same] == utterances_[row]) ++same;
            const Cross& cross = *utterances_[row];
            const Dense &keys = cross.keys[layer * heads + head], &values = cross.values[layer * heads + head];
            const int64_t total = same * n, padded = rounded_up(cross.frames, kPanelRows);
            float* const rows = scores.of(total * padded);
            uint32_t* const converted = words.of(total * std::max(keys.words(), values.words()));
            const int64_t place = row * n * dim + head * width;
            dense.convert(decoder_.attention, query + place, dim, total, width, converted, nullptr);
            dense.multiply(keys, 0, keys.panels(), converted, nullptr, total, rows, padded, nullptr);
            for (int64_t i = 0; i < total; ++i)
                runner.kernels.transformer.softmax(rows + i * padded, cross.frames, padded);
            for (int64_t pair = 0; attention && pair < recorded; ++pair)
                if (decoder_.recorded[pair] == std::make_pair(static_cast<int>(layer), static_cast<int>(head)))
                    for (int64_t i = 0; i < same; ++i)
                        std::memcpy(attention + ((row + i) * recorded + pair) * stride, rows + (i * n + n - 1) * padded,
                                    sizeof(float) * cross.frames);
            dense.convert(decoder_.attention, rows, padded, total, cross.frames, converted, nullptr);
            dense.multiply(values, 0, values.panels(), converted, nullptr, total, out + place, dim, nullptr);
            row += same - 1;
        }
    });
}

void Hypotheses::step(const int32_t* tokens, int64_t n, float* hidden, float* attention, const Runner& runner) {
    const int64_t dim = decoder_.dim, rows = count() * n, size = rows * dim;
    if (length_ + n > room_) grow(std::min(rounded_up(decoder_.capacity, 16), rounded_up(2 * (length_ + n), 64)));
    const StepKernels& steps = runner.kernels.steps;
    thread_local Buffer buffer;
    float *const x = buffer.of(6 * size), *const normed = x + size, *const query = normed + size;
    float *const key = query + size, *const value = key + size, *const mixed = value + size;
    for (int64_t row = 0; row < rows; ++row) {
        const void* const from = decoder_.embedding.row(tokens[row]);
        const float* const position = decoder_.positions + (length_ + row % n) * dim;
        runner.kernels.transformer.widen(from, decoder_.embedding.half, dim, x + row * dim);
        steps.add(position, dim, x + row * dim);
    }
    const float by = head_scale(dim, decoder_.heads);
    for (std::size_t index = 0; index < decoder_.layers.size(); ++index) {
        const DecoderLayer& layer = decoder_.layers[index];
        steps.layer_norm(x, rows, dim, layer.self_norm, normed);
        multiply(layer.query, normed, rows, query, runner);
        scale(query, size, by);
        multiply(layer.key, normed, rows, key, runner);
        multiply(layer.value, normed, rows, value, runner);
        attend_self(index, n, query, key, value, mixed, runner);
        multiply(layer.out, mixed, rows, normed, runner);
        steps.add(normed, size, x);
        steps.layer_norm(x, rows, dim, layer.cross_norm, normed);
        multiply(layer.cross_query, normed, rows, query, runner);
        scale(query, size, by);
        attend_cross(index, n, query, mixed, attention, runner);
        multiply(layer.cross_out, mixed, rows, normed, runner);
        steps.add(normed, size, x);
        feed_forward(x, rows, layer.feed_forward_norm, layer.inwards, layer.outwards, runner);
    }
    length_ += n;
    for (int64_t row = 0; row < count(); ++row)
        steps.layer_norm(x + (row * n + n - 1) * dim, 1, dim, decoder_.norm, hidden + row * dim);
}

void Hypotheses::keep(const std::vector<int64_t>& places) {
    std::vector<std::shared_ptr<const Cross>> utterances;
    std::vector<Aligned<float>> caches;
    std::vector<int64_t> left(caches_.size(), 0);
    for (const int64_t place : places) ++left[place];
    for (const int64_t place : places) {
        utterances.push_back(utterances_[place]);
        caches.push_back(--left[place] ? caches_[place] : std::move(caches_[place]));
    }
    utterances_ = std::move(utterances);
    caches_ = std::move(caches);
}

}  // namespace sparse
