// The output layer of a decoder.
#pragma once

#include <vector>

#include "multiply.h"
#include "transformer.h"

namespace sparse {

// Codes of 4 bits find the tokens that may be the likeliest, and those alone are scored exactly.
//
// Rows are rounded less their mean, which all logits have in common, and with columns divided by their deviation.
class Output {
public:
    // Of the rows of a table: those of `ids`, or all if it is empty. Throws std::invalid_argument if they are not
    // finite.
    Output(Table table, std::vector<int32_t> ids, const Runner& runner);

    struct Best {
        std::vector<int32_t> tokens;  // (n, count)
        std::vector<float> logits;    // (n, count), exact
        std::vector<float> log_sums;  // (n,): log of the sum of all exponentials, of the codes' logits where not exact
        int64_t rescored = 0;
    };

    // The `count` largest logits of each hidden (n, dim), as if all were computed in float32. Tokens whose byte in
    // `banned` (rows of the table,) is not 0 are left out, of the log-sums too; it may be null. Throws
    // std::invalid_argument if logits may not be finite.
    Best best(const float* hidden, int64_t n, int64_t count, const uint8_t* banned, const Runner& runner) const;

    std::size_t bytes() const { return codes_.bytes() + 4 * (sizes_.size() + errors_.size()); }

private:
    struct Query;

    int32_t token(int64_t index) const { return ids_.empty() ? static_cast<int32_t>(index) : ids_[index]; }
    Query query(const float* x, uint32_t* words, const Runner& runner) const;
    void choose(const Query& query, int64_t count, float* logits, const Runner& runner, Best& best) const;

    Table table_;
    std::vector<int32_t> ids_;
    FourBits codes_;
    Aligned<float> mean_, deviations_;  // (dim,): of the columns
    Aligned<float> sizes_, errors_;     // Euclidean norms of each row of codes, and of what they miss
    double largest_ = 0.0;              // of the norms of rows as they are, plus that of their mean
    double largest_rounded_ = 0.0;      // of the sums of sizes and errors
};

}  // namespace sparse
