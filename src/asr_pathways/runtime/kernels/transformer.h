// An encoder and a decoder of transformer layers (pre-norm, GELU), each in one call: Whisper's (arXiv 2212.04356).
#pragma once

#include <memory>
#include <vector>

#include "linear.h"

namespace sparse {

struct EncoderLayer {
    Norm attention_norm;
    Linear query, key, value, out;
    Norm feed_forward_norm;
    Linear inwards, outwards;
};

struct Encoder {
    int64_t dim, heads;
    Item attention;  // what keys, values and weights of attention are rounded to
    std::vector<EncoderLayer> layers;
    Norm norm;
};

// x (n, dim) is overwritten by the encodings.
void encode(const Encoder& encoder, float* x, int64_t n, const Runner& runner);

struct DecoderLayer {
    Norm self_norm;
    Linear query, key, value, out;
    Norm cross_norm;
    Linear cross_query, cross_key, cross_value, cross_out;
    Norm feed_forward_norm;
    Linear inwards, outwards;
};

// Rows of a table in memory, of float32 or of float16.
struct Table {
    const void* start;
    bool half;
    int64_t rows, columns;
    const void* row(int64_t index) const { return static_cast<const char*>(start) + index * columns * (half ? 2 : 4); }
};

struct Decoder {
    int64_t dim, heads;
    Item attention;
    Table embedding;
    const float* positions;  // (capacity, dim)
    int64_t capacity;
    std::vector<DecoderLayer> layers;
    Norm norm;
    std::vector<std::pair<int, int>> recorded;  // layers and heads whose attention to the audio is asked for
};

// Keys and values of the encodings of one utterance, of all layers and heads.
struct Cross {
    int64_t frames = 0;
    std::vector<Dense> keys, values;
};

// Whether they are of a decoder of the same sizes.
bool fits(const Cross& cross, const Decoder& decoder);

Cross cross_of(const Decoder& decoder, const float* encodings, int64_t frames, const Runner& runner);

// Hypotheses side by side, with what the decoder keeps of their tokens. Each is of an utterance.
class Hypotheses {
public:
    Hypotheses(const Decoder& decoder, std::vector<std::shared_ptr<const Cross>> utterances);

    int64_t count() const { return static_cast<int64_t>(utterances_.size()); }
    int64_t length() const { return length_; }
    int64_t longest() const;  // frames of the longest utterance

    // Decodes `n` more tokens of each, tokens (count, n). Writes hidden (count, dim), the decoder's output for the last
    // token of each, and attention (count, recorded, longest()) of that token, unless null.
    void step(const int32_t* tokens, int64_t n, float* hidden, float* attention, const Runner& runner);

    // Keeps those at the given places, in that order; a place may be there more than once.
    void keep(const std::vector<int64_t>& places);

private:
    void attend_self(int64_t layer, int64_t n, const float* query, const float* key, const float* value, float* out,
                     const Runner& runner);
    void attend_cross(int64_t layer, int64_t n, const float* query, float* out, float* attention, const Runner& runner);
    int64_t cache_size() const { return decoder_.dim * room_; }
    float* keys(int64_t row, int64_t layer) { return caches_[row].data() + 2 * layer * cache_size(); }
    float* values(int64_t row, int64_t layer) { return keys(row, layer) + cache_size(); }
    void grow(int64_t room);

    const Decoder& decoder_;
    std::vector<std::shared_ptr<const Cross>> utterances_;
    std::vector<Aligned<float>>
        caches_;  // of each: layers times keys (heads, width, room), values (heads, room, width)
    int64_t length_ = 0, room_ = 0;
};

}  // namespace sparse
