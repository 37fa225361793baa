// The Python face: addresses of contiguous memory in, nothing copied. Checks of types and shapes are the caller's
// (asr_pathways.runtime.kernels.matrix).
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <chrono>
#include <memory>

#include "pack.h"
#include "steps.h"

namespace py = pybind11;
using Address = std::uintptr_t;
using sparse::Matrix;

namespace {

const float* floats(Address address) { return reinterpret_cast<const float*>(address); }
float* writable(Address address) { return reinterpret_cast<float*>(address); }

const sparse::Kernels& kernels_named(const std::string& variant) {
    const sparse::Kernels* kernels = sparse::find_kernels(variant);
    if (!kernels) throw py::value_error("this CPU has no kernels " + variant);
    return *kernels;
}

std::unique_ptr<Matrix> pack(Address dense, int64_t rows, int64_t columns, int block, bool quantize) {
    py::gil_scoped_release release;
    return std::make_unique<Matrix>(sparse::pack(floats(dense), rows, columns, block, quantize));
}

std::unique_ptr<Matrix> pack_masked(Address dense, Address mask, int64_t rows, int64_t columns, int block,
                                    bool quantize, bool half) {
    py::gil_scoped_release release;
    const auto* bits = reinterpret_cast<const uint8_t*>(mask);
    if (half) {
        const auto* values = reinterpret_cast<const uint16_t*>(dense);
        return std::make_unique<Matrix>(sparse::pack_masked_half(values, bits, rows, columns, block, quantize));
    }
    return std::make_unique<Matrix>(sparse::pack_masked(floats(dense), bits, rows, columns, block, quantize));
}

std::unique_ptr<Matrix> pack_union(Address values, Address held, Address mask, int64_t rows, int64_t columns,
                                   int block, bool quantize, bool half) {
    py::gil_scoped_release release;
    const auto* all = reinterpret_cast<const uint8_t*>(held);
    const auto* own = reinterpret_cast<const uint8_t*>(mask);
    if (half) {
        const auto* halves = reinterpret_cast<const uint16_t*>(values);
        return std::make_unique<Matrix>(sparse::pack_union_half(halves, all, own, rows, columns, block, quantize));
    }
    return std::make_unique<Matrix>(sparse::pack_union(floats(values), all, own, rows, columns, block, quantize));
}

void unpack(const Matrix& matrix, Address dense) {
    py::gil_scoped_release release;
    sparse::unpack(matrix, writable(dense));
}

void multiply(const Matrix& w, Address x, int64_t n, Address y, Address bias, bool relu, int threads,
              const std::string& variant) {
    const sparse::Kernels& kernels = kernels_named(variant);
    py::gil_scoped_release release;
    sparse::multiply(w, floats(x), n, writable(y), {bias ? floats(bias) : nullptr, relu}, threads, kernels);
}

void lstm_step(const Matrix& w_ih, const Matrix& w_hh, Address x, Address h, Address c, int64_t n, Address bias,
               Address h_next, Address c_next, int threads, const std::string& variant) {
    const sparse::Kernels& kernels = kernels_named(variant);
    py::gil_scoped_release release;
    thread_local sparse::Aligned<float> gates;
    const std::size_t count = static_cast<std::size_t>(n * w_ih.rows);
    if (gates.size() < 2 * count) gates.resize(2 * count);
    float *const from_input = gates.data(), *const from_hidden = gates.data() + count;
    sparse::multiply(w_ih, floats(x), n, from_input, {bias ? floats(bias) : nullptr, false}, threads, kernels);
    sparse::multiply(w_hh, floats(h), n, from_hidden, {nullptr, false}, threads, kernels);
    kernels.lstm(from_input, from_hidden, floats(c), n, w_hh.columns, writable(h_next), writable(c_next));
}

sparse::Norm norm_at(Address weight, Address bias, float epsilon) { return {floats(weight), floats(bias), epsilon}; }

sparse::Product product_of(const Matrix& weight, Address bias) { return {weight, bias ? floats(bias) : nullptr}; }

void feed_forward(Address x, int64_t n, Address norm_weight, Address norm_bias, float epsilon, const Matrix& inwards,
                  Address inwards_bias, const Matrix& outwards, Address outwards_bias, Address out, int threads,
                  const std::string& variant) {
    const sparse::Runner runner{threads, kernels_named(variant)};
    py::gil_scoped_release release;
    sparse::feed_forward(floats(x), n, norm_at(norm_weight, norm_bias, epsilon), product_of(inwards, inwards_bias),
                         product_of(outwards, outwards_bias), writable(out), runner);
}

void attention(Address x, int64_t streams, int64_t rows, Address past, int64_t left, Address unseen, Address norm_weight,
               Address norm_bias, float epsilon, const Matrix& query, Address query_bias, const Matrix& key_value,
               Address key_value_bias, const Matrix& outwards, Address outwards_bias, int64_t heads, Address bias,
               Address windows, Address out, int threads, const std::string& variant) {
    const sparse::Runner runner{threads, kernels_named(variant)};
    const sparse::Attention shape{query.columns, heads, rows, left + rows, floats(bias)};
    py::gil_scoped_release release;
    sparse::attention(floats(x), streams, floats(past), floats(unseen), norm_at(norm_weight, norm_bias, epsilon),
                      product_of(query, query_bias), product_of(key_value, key_value_bias),
                      product_of(outwards, outwards_bias), shape, writable(windows), writable(out), runner);
}

void convolution(Address x, int64_t streams, int64_t rows, Address past, Address norm_weight, Address norm_bias,
                 float epsilon, const Matrix& inwards, Address inwards_bias, Address weight, Address weight_bias,
                 int64_t taps, Address inner_weight, Address inner_bias, float inner_epsilon, const Matrix& outwards,
                 Address outwards_bias, Address windows, Address out, int threads, const std::string& variant) {
    const sparse::Runner runner{threads, kernels_named(variant)};
    const sparse::Convolution conv{floats(weight), floats(weight_bias), taps,
                                   norm_at(inner_weight, inner_bias, inner_epsilon)};
    py::gil_scoped_release release;
    sparse::convolution(floats(x), streams, rows, floats(past), norm_at(norm_weight, norm_bias, epsilon),
                        product_of(inwards, inwards_bias), conv, product_of(outwards, outwards_bias), writable(windows),
                        writable(out), runner);
}

// Multiply-adds of floats a second, on one thread, in registers.
double multiply_add_rate(const std::string& variant) {
    const sparse::Kernels& kernels = kernels_named(variant);
    py::gil_scoped_release release;
    constexpr int64_t repeats = 20000;
    double best = 0.0;
    for (int round = 0; round < 50; ++round) {
        float sink = 1e-3f;
        const auto started = std::chrono::steady_clock::now();
        const int lanes = kernels.multiply_adds(repeats, &sink);
        const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - started;
        best = std::max(best, 24.0 * repeats * lanes / taken.count());
    }
    return best;
}

// Bytes a second that one thread reads in order from `count` floats, the best of `rounds` passes.
double read_rate(Address from, int64_t count, int rounds, const std::string& variant) {
    const sparse::Kernels& kernels = kernels_named(variant);
    py::gil_scoped_release release;
    double best = 0.0;
    volatile float sink = 0.0f;
    for (int round = 0; round < rounds; ++round) {
        const auto started = std::chrono::steady_clock::now();
        sink = sink + kernels.read_floats(floats(from), count);
        const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - started;
        best = std::max(best, sizeof(float) * static_cast<double>(count) / taken.count());
    }
    return best;
}

}  // namespace

PYBIND11_MODULE(_sparse, module) {
    module.doc() = "Products with packed sparse matrices on a CPU.";
    module.def("variants", &sparse::variants, "Names of the instruction sets that this CPU can run, fastest first.");
    py::class_<Matrix>(module, "Matrix")
        .def_readonly("rows", &Matrix::rows)
        .def_readonly("columns", &Matrix::columns)
        .def_readonly("block", &Matrix::block)
        .def_readonly("quantized", &Matrix::quantized)
        .def_readonly("nonzeros", &Matrix::nonzeros)
        .def_property_readonly("nbytes", &Matrix::bytes);
    module.def("pack", &pack);
    module.def("pack_masked", &pack_masked);
    module.def("pack_union", &pack_union);
    module.def("unpack", &unpack);
    module.def("multiply", &multiply);
    module.def("lstm_step", &lstm_step);
    module.def("feed_forward", &feed_forward);
    module.def("attention", &attention);
    module.def("convolution", &convolution);
    module.def("multiply_add_rate", &multiply_add_rate);
    module.def("read_rate", &read_rate);
}
