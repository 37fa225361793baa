// Python bindings of the streaming layers: addresses of contiguous memory in, nothing copied. Checks of types and
// shapes are the caller's (asr_pathways.runtime.kernels.encoder_layer and its neighbours).
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <tuple>

#include "bindings.h"
#include "encoder_layer.h"

namespace py = pybind11;
using Address = std::uintptr_t;

namespace {

// As Python passes them: addresses of weight and bias, and epsilon.
using NormAt = std::tuple<Address, Address, float>;

const float* floats(Address address) { return reinterpret_cast<const float*>(address); }
float* writable(Address address) { return reinterpret_cast<float*>(address); }

sparse::Norm norm_of(const NormAt& at) { return {floats(std::get<0>(at)), floats(std::get<1>(at)), std::get<2>(at)}; }

void lstm_step(const LinearOf& by_input, const LinearOf& by_hidden, Address x, Address h, Address c, int64_t n,
               Address h_next, Address c_next, const RunnerAt& at) {
    const sparse::Runner runner = runner_of(at);
    py::gil_scoped_release release;
    thread_local sparse::Aligned<float> gates;
    const std::size_t count = static_cast<std::size_t>(n * by_input.layer.rows());
    if (gates.size() < 2 * count) gates.resize(2 * count);
    float *const from_input = gates.data(), *const from_hidden = gates.data() + count;
    sparse::multiply(by_input.layer, floats(x), n, from_input, runner);
    sparse::multiply(by_hidden.layer, floats(h), n, from_hidden, runner);
    runner.kernels.lstm(from_input, from_hidden, floats(c), n, by_hidden.layer.columns(), writable(h_next),
                        writable(c_next));
}

void feed_forward(Address x, int64_t n, const NormAt& norm, const LinearOf& inwards, const LinearOf& outwards,
                  Address out, const RunnerAt& at) {
    const sparse::Runner runner = runner_of(at);
    py::gil_scoped_release release;
    sparse::feed_forward(floats(x), n, norm_of(norm), inwards.layer, outwards.layer, writable(out), runner);
}

void attention(Address x, int64_t streams, int64_t rows, Address past, int64_t left, Address unseen, const NormAt& norm,
               const LinearOf& query, const LinearOf& key_value, const LinearOf& outwards, int64_t heads, Address bias,
               Address windows, Address out, const RunnerAt& at) {
    const sparse::Runner runner = runner_of(at);
    const sparse::Attention shape{query.layer.columns(), heads, rows, left + rows, floats(bias)};
    py::gil_scoped_release release;
    sparse::attention(floats(x), streams, floats(past), floats(unseen), norm_of(norm), query.layer, key_value.layer,
                      outwards.layer, shape, writable(windows), writable(out), runner);
}

void relative_attention(Address x, int64_t rows, Address keys, Address values, int64_t head_stride, int64_t length,
                        const NormAt& norm, const LinearOf& query_key_value, const LinearOf& outwards, int64_t heads,
                        Address by_content, Address by_distance, Address positions, int64_t stride, int64_t first,
                        Address out, const RunnerAt& at) {
    const sparse::Runner runner = runner_of(at);
    const sparse::RelativeAttention shape{
        outwards.layer.rows(), heads,  rows, length, floats(by_content), floats(by_distance),
        floats(positions),     stride, first};
    const sparse::KeyValues window{writable(keys), writable(values), head_stride};
    py::gil_scoped_release release;
    sparse::relative_attention(floats(x), norm_of(norm), query_key_value.layer, outwards.layer, shape, window,
                               writable(out), runner);
}

void convolution(Address x, int64_t streams, int64_t rows, Address past, const NormAt& norm, const LinearOf& inwards,
                 Address weight, Address weight_bias, int64_t taps, const NormAt& inner_norm, const LinearOf& outwards,
                 Address windows, Address out, const RunnerAt& at) {
    const sparse::Runner runner = runner_of(at);
    const sparse::Convolution conv{floats(weight), floats(weight_bias), taps, norm_of(inner_norm)};
    py::gil_scoped_release release;
    sparse::convolution(floats(x), streams, rows, floats(past), norm_of(norm), inwards.layer, conv, outwards.layer,
                        writable(windows), writable(out), runner);
}

}  // namespace

PYBIND11_MODULE(_sparse, module) {
    module.doc() = "Products with sparse matrices on a CPU.";
    module.def("variants", &sparse::variants, "Names of the instruction sets that this CPU can run, fastest first.");
    bind_transformer(module);
    module.def("lstm_step", &lstm_step);
    module.def("feed_forward", &feed_forward);
    module.def("attention", &attention);
    module.def("relative_attention", &relative_attention);
    module.def("convolution", &convolution);
}
