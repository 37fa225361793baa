#include "transformer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
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

Output::Output(Table table, std::vector<int32_t> ids, const Runner& runner) : table_(table), ids_(std::move(ids)) {
    const int64_t rows = ids_.empty() ? table.rows : static_cast<int64_t>(ids_.size()), columns = table.columns;
    codes_.rows = rows;
    codes_.columns = columns;
    codes_.item = Item::i8;
    codes_.packed.resize(codes_.panels() * codes_.words() * kPanelRows);
    codes_.scales.resize(codes_.panels() * kPanelRows);
    codes_.sums.resize(codes_.panels() * kPanelRows);
    Buffer panel;
    Dense packed;
    float* const floats = panel.of(kPanelRows * columns);
    for (int64_t first = 0; first < rows; first += kPanelRows) {  // a panel at a time: the table may be of float16
        const int64_t count = std::min<int64_t>(kPanelRows, rows - first);
        for (int64_t i = 0; i < count; ++i)
            runner.kernels.transformer.widen(table.row(ids_.empty() ? first + i : ids_[first + i]), table.half, columns,
                                             floats + i * columns);
        pack_dense({floats, columns, 1}, count, columns, Item::i8, packed);
        std::copy(packed.packed.begin(), packed.packed.end(), codes_.packed.begin() + first * codes_.words());
        std::copy(packed.scales.begin(), packed.scales.end(), codes_.scales.begin() + first);
        std::copy(packed.sums.begin(), packed.sums.end(), codes_.sums.begin() + first);
        for (int64_t i = 0; i < count; ++i) {
            double size = 0.0, error = 0.0;
            for (int64_t column = 0; column < columns; ++column) {
                const auto* const word = reinterpret_cast<const int8_t*>(&packed.packed[column / 4 * kPanelRows + i]);
                const double rounded = static_cast<double>(word[column % 4]) * packed.scales[i];
                size += rounded * rounded;
                error += (floats[i * columns + column] - rounded) * (floats[i * columns + column] - rounded);
            }
            sizes_.push_back(static_cast<float>(std::sqrt(size)));
            errors_.push_back(static_cast<float>(std::sqrt(error)));
            largest_ = std::max(largest_, std::sqrt(size) + std::sqrt(error));
            if (!std::isfinite(packed.scales[i])) throw std::invalid_argument("the output layer is not finite");
        }
    }
}

Output::Best Output::best(const float* hidden, int64_t n, int64_t count, const uint8_t* banned,
                          const Runner& runner) const {
    const int64_t dim = codes_.columns, rows = codes_.rows, words = codes_.words();
    const DenseKernels& dense = runner.kernels.dense;
    thread_local Buffer scores, rests;
    thread_local Words converted;
    float* const logits = scores.of(2 * rows);
    float* const rest = rests.of(2 * dim);
    uint32_t* const codes = converted.of(2 * words);
    const int unsigned_offset = runner.kernels.code_offset;
    Best best;
    std::vector<std::pair<float, int32_t>> found;
    for (int64_t row = 0; row < n; ++row) {
        const float* const x = hidden + row * dim;
        double squares = 0.0;
        for (int64_t i = 0; i < dim; ++i) squares += static_cast<double>(x[i]) * x[i];
        if (!(largest_ * std::sqrt(squares) <= std::numeric_limits<float>::max()))
            throw std::invalid_argument("logits are not finite");
        const auto size = static_cast<float>(std::sqrt(squares));
        // x as two rows of codes: what the first misses is the second
        float scales[2];
        const auto round = [&](const float* from, int which) {
            dense.convert(Item::i8, from, dim, 1, dim, codes + which * words, scales + which);
            const auto* const bytes = reinterpret_cast<const uint8_t*>(codes + which * words);
            double missed = 0.0;
            for (int64_t i = 0; i < dim; ++i) {
                const int code = unsigned_offset ? bytes[i] - unsigned_offset : static_cast<int8_t>(bytes[i]);
                rest[i] = from[i] - static_cast<float>(code) * scales[which];
                missed += static_cast<double>(rest[i]) * rest[i];
            }
            return std::sqrt(missed);
        };
        round(x, 0);
        const auto missed = static_cast<float>(round(rest, 1));
        const int threads =
            static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(runner.threads, codes_.panels() / 64)));
        run_parallel(threads, [&](int part) {
            const int64_t blocks = (codes_.panels() + 7) / 8;
            dense.multiply(codes_, 8 * (blocks * part / threads),
                           std::min(codes_.panels(), 8 * (blocks * (part + 1) / threads)), codes, scales, 2, logits,
                           rows, nullptr);
        });
        // |exact - approximate| <= |error| |x| + |codes| |missed|, and what rounding in sums of `dim` floats can be
        const float rounding = static_cast<float>(dim + 16) * std::numeric_limits<float>::epsilon();
        const auto bound = [&](int64_t index) {
            return 1.0001f * (errors_[index] * size + sizes_[index] * missed) +
                   rounding * (sizes_[index] + errors_[index]) * size;
        };
        const auto token_of = [&](int64_t index) { return ids_.empty() ? static_cast<int32_t>(index) : ids_[index]; };
        std::vector<float> lowest;  // a heap of the `count` largest lower bounds
        for (int64_t index = 0; index < rows; ++index) {
            logits[index] += logits[rows + index];
            if (banned && banned[token_of(index)]) {
                logits[index] = -std::numeric_limits<float>::infinity();
                continue;
            }
            const float low = logits[index] - bound(index);
            if (static_cast<int64_t>(lowest.size()) < count) {
                lowest.push_back(low);
                std::push_heap(lowest.begin(), lowest.end(), std::greater<>());
            } else if (low > lowest.front()) {
                std::pop_heap(lowest.begin(), lowest.end(), std::greater<>());
                lowest.back() = low;
                std::push_heap(lowest.begin(), lowest.end(), std::greater<>());
            }
        }
        found.clear();
        for (int64_t index = 0; index < rows; ++index)
            if (!lowest.empty() && logits[index] + bound(index) >= lowest.front() &&
                logits[index] > -std::numeric_limits<float>::infinity()) {
                const int32_t token = token_of(index);
                logits[index] = runner.kernels.transformer.dot(table_.row(token), table_.half, x, dim);
                found.emplace_back(logits[index], token);
            }
        best.rescored += static_cast<int64_t>(found.size());
        std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) {
            return a.first != b.first ? a.first > b.first : a.second < b.second;
        });
        const float largest = found.empty() ? -std::numeric_limits<float>::infinity() : found.front().first;
        const float sum = runner.kernels.transformer.sum_exponentials(logits, rows, largest);
        best.log_sums.push_back(largest + std::log(sum));
        for (int64_t k = 0; k < count; ++k) {
            const bool there = k < static_cast<int64_t>(found.size());
            best.tokens.push_back(there ? found[k].second : -1);
            best.logits.push_back(there ? found[k].first : -std::numeric_limits<float>::infinity());
        }
    }
    return best;
}

}  // namespace sparse
