// Python bindings: addresses of contiguous memory in, nothing copied. Checks of types and shapes are the caller's
// (asr_pathways.runtime.kernels.matrix and its neighbours).
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <tuple>
#include <utility>

#include "bindings.h"
#include "encoder_layer.h"
#include "pack.h"

namespace py = pybind11;
using Address = std::uintptr_t;
using sparse::Matrix;

namespace {

// As Python passes them: addresses of weight and bias, and epsilon; a weight and the address of its bias, or 0; a
// runner as in bindings.h.
using NormAt = std::tuple<Address, Address, float>;
using ProductAt = std::pair<const Matrix*, Address>;

const float* floats(Address address) { return reinterpret_cast<const float*>(address); }
float* writable(Address address) { return reinterpret_cast<float*>(address); }

sparse::Norm norm_of(const NormAt& at) { return {floats(std::get<0>(at)), floats(std::get<1>(at)), std::get<2>(at)}; }

sparse::Product product_of(const ProductAt& at) { return {*at.first, floats(at.second)}; }

std::unique_ptr<Matrix> pack(Address values, Address in_union, Address mask, int64_t rows, int64_t columns, int block,
                             bool quantize) {
    py::gil_scoped_release release;
    const auto* all = reinterpret_cast<const uint8_t*>(in_union);
    const auto* kept = reinterpret_cast<const uint8_t*>(mask);
    return std::make_unique<Matrix>(sparse::pack(floats(values), all, kept, rows, columns, block, quantize));
}

void unpack(const Matrix& matrix, Address dense) {
    py::gil_scoped_release release;
    sparse::unpack(matrix, writable(dense));
}

void multiply(const ProductAt& by, Address x, int64_t n, Address y, const RunnerAt& at) {
    const sparse::Runner runner = runner_of(at);
    py::gil_scoped_release release;
    sparse::multiply(product_of(by), floats(x), n, writable(y), runner);
}

void lstm_step(const ProductAt& by_input, const ProductAt& by_hidden, Address x, Address h, Address c, int64_t n,
               Address h_next, Address c_next, const RunnerAt& at) {
    const sparse::Runner runner = runner_of(at);
    py::gil_scoped_release release;
    thread_local sparse::Aligned<float> gates;
    const std::size_t count = static_cast<std::size_t>(n * by_input.first->rows);
    if (gates.size() < 2 * count) gates.resize(2 * count);
    float *const from_input = gates.data(), *const from_hidden = gates.data() + count;
    sparse::multiply(product_of(by_input), floats(x), n, from_input, runner);
    sparse::multiply(product_of(by_hidden), floats(h), n, from_hidden, runner);
    runner.kernels.lstm(from_input, from_hidden, floats(c), n, by_hidden.first->columns, writable(h_next),
                        writable(c_next));
}

void feed_forward(Address x, int64_t n, const NormAt& norm, const ProductAt& inwards, const ProductAt& outwards,
                  Address out, const RunnerAt& at) {
    const sparse::Runner runner = runner_of(at);
    py::gil_scoped_release release;
    sparse::feed_forward(floats(x), n, norm_of(norm), product_of(inwards), product_of(outwards), writable(out), runner);
}

void attention(Address x, int64_t streams, int64_t rows, Address past, int64_t left, Address unseen, const NormAt& norm,
               const ProductAt& query, const ProductAt& key_value, const ProductAt& outwards, int64_t heads,
               Address bias, Address windows, Address out, const RunnerAt& at) {
    const sparse::Runner runner = runner_of(at);
    const sparse::Attention shape{query.first->columns, heads, rows, left + rows, floats(bias)};
    py::gil_scoped_release release;
    sparse::attention(floats(x), streams, floats(past), floats(unseen), norm_of(norm), product_of(query),
                      product_of(key_value), product_of(outwards), shape, writable(windows), writable(out), runner);
}

void convolution(Address x, int64_t streams, int64_t rows, Address past, const NormAt& norm, const ProductAt& inwards,
                 Address weight, Address weight_bias, int64_t taps, const NormAt& inner_norm, const ProductAt& outwards,
                 Address windows, Address out, const RunnerAt& at) {
    const sparse::Runner runner = runner_of(at);
    const sparse::Convolution conv{floats(weight), floats(weight_bias), taps, norm_of(inner_norm)};
    py::gil_scoped_release release;
    sparse::convolution(floats(x), streams, rows, floats(past), norm_of(norm), product_of(inwards), conv,
                        product_of(outwards), writable(windows), writable(out), runner);
}

}  // namespace

PYBIND11_MODULE(_sparse, module) {
    module.doc() = "Products with sparse matrices on a CPU.";
    module.def("variants", &sparse::variants, "Names of the instruction sets that this CPU can run, fastest first.");
    py::class_<Matrix>(module, "Matrix")
        .def_readonly("nonzeros", &Matrix::nonzeros)
        .def_property_readonly("nbytes", &Matrix::bytes);
    module.def("pack", &pack);
    module.def("unpack", &unpack);
    module.def("multiply", &multiply);
    module.def("lstm_step", &lstm_step);
    module.def("feed_forward", &feed_forward);
    module.def("attention", &attention);
    module.def("convolution", &convolution);
    bind_transformer(module);
}
