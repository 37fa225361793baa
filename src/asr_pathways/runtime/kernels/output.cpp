#include "output.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <stdexcept>

#include "pool.h"

namespace sparse {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLowest = std::numeric_limits<float>::lowest();

// Tokens whose logits are this close to the largest are scored exactly, for the log-sum, the closest so many at most.
// What is left out is less than e^-8 of the likeliest each, or one of many whose errors cancel.
constexpr float kNear = 8.0f;
constexpr int64_t kMostNear = 1024;

// Columns are divided by at least so much, and by at least so much of their mean.
constexpr double kLeastDeviation = 1e-30, kLeastShare = 1e-6;

// Of a product: tiles that one thread processes before the next row of activations, and at least.
constexpr int64_t kTilesAtOnce = 4, kTilesAThread = 16;

// Exact products that are worth a thread.
constexpr int64_t kExactAThread = 64;

template <typename T>
T* room(Aligned<T>& buffer, int64_t count) {
    if (static_cast<int64_t>(buffer.size()) < count) buffer.resize(count);
    return buffer.data();
}

}  // namespace

Output::Output(Table table, std::vector<int32_t> ids, const Runner& runner) : table_(table), ids_(std::move(ids)) {
    const int64_t rows = ids_.empty() ? table.rows : static_cast<int64_t>(ids_.size()), dim = table.columns;
    codes_.rows = rows;
    codes_.columns = dim;
    Aligned<float> row(dim), scales(dim);
    const auto read = [&](int64_t index) {
        runner.kernels.transformer.widen(table_.row(token(index)), table_.half, dim, row.data());
    };
    std::vector<double> sums(dim, 0.0), squares(dim, 0.0);
    for (int64_t index = 0; index < rows; ++index) {
        read(index);
        double parts[8] = {};  // sums in flight
        for (int64_t i = 0; i < dim; ++i) {
            const double value = row[i];
            sums[i] += value;
            squares[i] += value * value;
            parts[i % 8] += value * value;
        }
        double size = 0.0;
        for (const double part : parts) size += part;
        largest_ = std::max(largest_, std::sqrt(size));
    }
    mean_.resize(dim);
    deviations_.resize(dim);
    double mean_size = 0.0;
    for (int64_t i = 0; i < dim; ++i) {
        const double mean = sums[i] / rows, deviation = std::sqrt(std::max(0.0, squares[i] / rows - mean * mean));
        mean_[i] = static_cast<float>(mean);
        deviations_[i] = static_cast<float>(std::max({deviation, kLeastShare * std::abs(mean), kLeastDeviation}));
        scales[i] = 1.0f / deviations_[i];
        mean_size += mean * mean;
    }
    largest_ += std::sqrt(mean_size);
    codes_.packed.resize(codes_.padded_rows() * codes_.words());
    codes_.scales.resize(codes_.padded_rows());
    std::fill(codes_.packed.end() - FourBits::kTileRows * codes_.words(), codes_.packed.end(), 0u);
    std::fill(codes_.scales.end() - FourBits::kTileRows, codes_.scales.end(), 0.0f);
    sizes_.resize(rows);
    errors_.resize(rows);
    std::vector<uint8_t> scratch(codes_.words() * FourBits::kWordColumns);
    for (int64_t index = 0; index < rows; ++index) {
        read(index);
        for (int64_t i = 0; i < dim; ++i) row[i] = (row[i] - mean_[i]) * scales[i];
        const int64_t tile = index / FourBits::kTileRows, within = index % FourBits::kTileRows;
        uint32_t* const words = codes_.packed.data() + tile * codes_.words() * FourBits::kTileRows + within;
        const Rounded rounded =
            runner.kernels.four_bits.pack(row.data(), dim, scratch.data(), words, FourBits::kTileRows);
        if (!std::isfinite(rounded.error) || !std::isfinite(rounded.size))
            throw std::invalid_argument("the output layer is not finite");
        codes_.scales[index] = rounded.scale;
        sizes_[index] = rounded.size;
        errors_[index] = rounded.error;
        largest_rounded_ = std::max(largest_rounded_, static_cast<double>(rounded.size) + rounded.error);
    }
}

// A row of activations, with what the logits of the codes may be off by.
struct Output::Query {
    const float* x;
    Codes codes;
    float mean;  // logit
    Bound bound;
};

Output::Query Output::query(const float* x, uint32_t* words, const Runner& runner) const {
    const int64_t dim = codes_.columns, bytes = codes_.words() * FourBits::kWordColumns;
    thread_local Aligned<float> buffer;
    float* const divided = room(buffer, bytes);
    std::fill(divided + dim, divided + bytes, 0.0f);
    double squares = 0.0, size = 0.0, mean = 0.0, missed = 0.0;
    for (int64_t i = 0; i < dim; ++i) {
        divided[i] = x[i] * deviations_[i];
        squares += static_cast<double>(x[i]) * x[i];
        size += static_cast<double>(divided[i]) * divided[i];
        mean += static_cast<double>(x[i]) * mean_[i];
    }
    squares = std::sqrt(squares);
    size = std::sqrt(size);
    // of two such numbers, sums and differences are finite
    if (!(largest_ * squares + largest_rounded_ * size <= std::numeric_limits<float>::max() / 4))
        throw std::invalid_argument("logits are not finite");
    Query query = {x, {words, 0.0f, 0}, static_cast<float>(mean), {errors_.data(), sizes_.data(), 0.0f, 0.0f, 0.0f}};
    runner.kernels.dense.convert(Item::i8, divided, bytes, 1, bytes, words, &query.codes.scale);
    auto* const codes = reinterpret_cast<uint8_t*>(words);
    for (int64_t i = 0; i < bytes; ++i) {
        codes[i] = static_cast<uint8_t>(codes[i] - runner.kernels.code_offset);
        const int code = static_cast<int8_t>(codes[i]);
        const double rest = divided[i] - static_cast<double>(code) * query.codes.scale;
        query.codes.sum += code;
        missed += rest * rest;
    }
    // |exact - approximate| <= |error| |x| + |codes| |missed|, and what rounding of floats can be: of each value as it
    // is divided, and of the exact products, in sums of `dim`
    const double rounding = 2.0 * static_cast<double>(dim + 16) * std::numeric_limits<float>::epsilon();
    query.bound.by_error = static_cast<float>(1.0001 * size);
    query.bound.by_size = static_cast<float>(1.0001 * std::sqrt(missed));
    query.bound.slack = static_cast<float>(rounding * (largest_ * squares + largest_rounded_ * size) + 1e-35);
    return query;
}

void Output::choose(const Query& query, int64_t count, float* logits, const Runner& runner, Best& best) const {
    const int64_t rows = codes_.rows, dim = codes_.columns;
    const FourBitsKernels& kernels = runner.kernels.four_bits;
    const Bound none = {errors_.data(), sizes_.data(), 0.0f, 0.0f, 0.0f};
    const auto exact = [&](int64_t index) {
        return runner.kernels.transformer.dot(table_.row(token(index)), table_.half, query.x, dim);
    };
    // the `count` likeliest by their codes: what they score, a token has to reach
    using Scored = std::pair<float, int64_t>;
    std::vector<Scored> likeliest;  // a heap, the least likely first
    float least = kLowest;
    for (int64_t index = 0; (index = kernels.next(logits, none, index, rows, least)) < rows; ++index) {
        if (static_cast<int64_t>(likeliest.size()) == count) {
            std::pop_heap(likeliest.begin(), likeliest.end(), std::greater<>());
            likeliest.pop_back();
        }
        likeliest.emplace_back(logits[index], index);
        std::push_heap(likeliest.begin(), likeliest.end(), std::greater<>());
        if (static_cast<int64_t>(likeliest.size()) == count)
            least = std::nextafter(likeliest.front().first, kInfinity);  // more than that
    }
    float lowest = kInfinity, highest = -kInfinity;
    for (const auto& [approximate, index] : likeliest) {
        const float logit = exact(index);
        lowest = std::min(lowest, logit);
        highest = std::max(highest, logit);
    }
    if (static_cast<int64_t>(likeliest.size()) < count) lowest = kLowest;
    const auto reaching = [&](const Bound& bound, float least) {
        std::vector<int64_t> places;
        for (int64_t index = 0; (index = kernels.next(logits, bound, index, rows, least)) < rows; ++index)
            places.push_back(index);
        return places;
    };
    std::vector<int64_t> near = reaching(none, std::max(highest - kNear, kLowest)), scored;
    if (static_cast<int64_t>(near.size()) > kMostNear) {
        std::nth_element(near.begin(), near.begin() + kMostNear, near.end(),
                         [&](int64_t a, int64_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; });
        near.resize(kMostNear);
        std::sort(near.begin(), near.end());
    }
    const std::vector<int64_t> possible = reaching(query.bound, lowest);
    std::set_union(possible.begin(), possible.end(), near.begin(), near.end(), std::back_inserter(scored));
    const auto total = static_cast<int64_t>(scored.size());
    const int threads =
        static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(runner.threads, total / kExactAThread)));
    run_parallel(threads, [&](int part) {
        for (int64_t i = total * part / threads; i < total * (part + 1) / threads; ++i)
            logits[scored[i]] = exact(scored[i]);
    });
    const auto first = std::min(total, count);
    std::partial_sort(scored.begin(), scored.begin() + first, scored.end(), [&](int64_t a, int64_t b) {
        return logits[a] != logits[b] ? logits[a] > logits[b] : token(a) < token(b);
    });
    const float largest = total ? logits[scored[0]] : -kInfinity;
    best.rescored += total;
    best.log_sums.push_back(largest + std::log(runner.kernels.transformer.sum_exponentials(logits, rows, largest)));
    for (int64_t k = 0; k < count; ++k) {
        best.tokens.push_back(k < first ? token(scored[k]) : -1);
        best.logits.push_back(k < first ? logits[scored[k]] : -kInfinity);
    }
}

Output::Best Output::best(const float* hidden, int64_t n, int64_t count, const uint8_t* banned,
                          const Runner& runner) const {
    const int64_t words = 2 * codes_.words(), padded = codes_.padded_rows(), tiles = codes_.tiles();
    thread_local Aligned<uint32_t> converted;
    thread_local Aligned<float> scores;
    uint32_t* const codes = room(converted, n * words);
    float* const logits = room(scores, n * padded);
    std::vector<Query> queries;
    for (int64_t row = 0; row < n; ++row)
        queries.push_back(query(hidden + row * codes_.columns, codes + row * words, runner));
    const int threads =
        static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(runner.threads, tiles / kTilesAThread)));
    run_parallel(threads, [&](int part) {
        const int64_t end = tiles * (part + 1) / threads;
        for (int64_t tile = tiles * part / threads; tile < end; tile += kTilesAtOnce)
            for (int64_t row = 0; row < n; ++row)
                runner.kernels.four_bits.multiply(codes_, tile, std::min(end, tile + kTilesAtOnce), queries[row].codes,
                                                  queries[row].mean, logits + row * padded);
    });
    Best best;
    for (int64_t row = 0; row < n; ++row) {
        float* const of_row = logits + row * padded;
        for (int64_t index = 0; banned && index < codes_.rows; ++index)
            if (banned[token(index)]) of_row[index] = -kInfinity;
        choose(queries[row], count, of_row, runner, best);
    }
    return best;
}

}  // namespace sparse
