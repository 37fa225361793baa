// Python bindings of the transformer: NumPy arrays in and out. What an object refers to is kept with it.
#include "transformer.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <memory>
#include <tuple>

#include "bindings.h"
#include "output.h"
#include "pack.h"

namespace py = pybind11;
using sparse::Dense;
using sparse::Gathered;
using sparse::Item;
using sparse::Matrix;

namespace {

using Floats = py::array_t<float, py::array::c_style>;
using Integers = py::array_t<int32_t, py::array::c_style>;
using NormOf = std::tuple<Floats, Floats, float>;  // weight, bias, epsilon

void check(bool holds, const char* problem) {
    if (!holds) throw py::value_error(problem);
}

Item item_of(const std::string& name) {
    if (name == "float32") return Item::f32;
    if (name == "bfloat16") return Item::bf16;
    check(name == "int8", "weights are float32, bfloat16 or int8");
    return Item::i8;
}

Item attention_item(const std::string& name) {
    check(name != "int8", "attention is of float32 or bfloat16");
    return item_of(name);
}

// Whether an array has rows of float16, else they are of float32, one after the other.
bool is_half(const py::array& array, const char* problem) {
    const bool half = array.dtype().equal(py::dtype("float16"));
    check((half || py::isinstance<Floats>(array)) && (array.flags() & py::array::c_style), problem);
    return half;
}

std::unique_ptr<Dense> make_dense(const Floats& weight, const std::string& item, bool compressed) {
    check(weight.ndim() == 2 && weight.size() > 0, "a dense weight is a matrix");
    auto dense = std::make_unique<Dense>();
    const sparse::Strided rows{weight.data(), weight.shape(1), 1};
    const int64_t out = weight.shape(0), in = weight.shape(1);
    const Item kind = item_of(item);
    check(kind != Item::i8 || in <= sparse::kMostCodes, "a weight of int8 has at most 131072 columns");
    py::gil_scoped_release release;
    sparse::pack_dense(rows, out, in, kind, *dense);
    if (compressed) sparse::compress(*dense);
    return dense;
}

std::unique_ptr<Gathered> make_gathered(const Floats& weight) {
    const std::unique_ptr<Dense> dense = make_dense(weight, "int8", false);
    py::gil_scoped_release release;
    auto gathered = std::make_unique<Gathered>();
    sparse::gather(*dense, *gathered);
    return gathered;
}

std::unique_ptr<Matrix> make_sparse(const Floats& weight, int block) {
    check(weight.ndim() == 2 && weight.size() > 0, "a sparse weight is a matrix");
    check(block == 1 || block == 4 || block == 8, "blocks have 1, 4 or 8 rows");
    const float* const from = weight.data();
    const int64_t out = weight.shape(0), in = weight.shape(1);
    py::gil_scoped_release release;
    return std::make_unique<Matrix>(sparse::pack(from, out, in, block));
}

LinearOf make_linear(const py::object& weight, const py::object& bias, bool fine) {
    LinearOf linear{{nullptr, nullptr, nullptr, nullptr, fine}, weight, bias};
    if (py::isinstance<Matrix>(weight)) linear.layer.sparse = weight.cast<const Matrix*>();
    if (py::isinstance<Dense>(weight)) linear.layer.dense = weight.cast<const Dense*>();
    if (py::isinstance<Gathered>(weight)) linear.layer.gathered = weight.cast<const Gathered*>();
    check(linear.layer.sparse || linear.layer.dense || linear.layer.gathered,
          "a linear layer has a sparse, a dense or a gathered weight");
    if (!bias.is_none()) {
        const auto values = bias.cast<Floats>();
        check(values.ptr() == bias.ptr(), "a bias is contiguous and of float32");
        check(values.ndim() == 1 && values.shape(0) == linear.layer.rows(), "a bias has a value for each row");
        linear.layer.bias = values.data();
    }
    return linear;
}

Floats multiply(const LinearOf& linear, const Floats& x, const RunnerAt& at) {
    check(x.ndim() == 2 && x.shape(1) == linear.layer.columns(), "activations have as many columns as the weight");
    const sparse::Runner runner = runner_of(at);
    Floats y({x.shape(0), static_cast<py::ssize_t>(linear.layer.rows())});
    const float* const from = x.data();
    float* const to = y.mutable_data();
    const int64_t n = x.shape(0);
    py::gil_scoped_release release;
    sparse::multiply(linear.layer, from, n, to, runner);
    return y;
}

// Which weights a union of masks has values of, and those of the values that a mask keeps; see pack.h.
Floats expand(const py::array& values, const py::array_t<uint8_t, py::array::c_style>& in_union,
              const py::array_t<uint8_t, py::array::c_style>& within, int64_t rows, int64_t columns) {
    const char* const problem = "values are a contiguous vector of float32 or float16";
    const bool half = is_half(values, problem);
    check(values.ndim() == 1, problem);
    const int64_t total = rows * columns, bytes = (total + 7) / 8, count = values.size();
    check(rows > 0 && columns > 0 && in_union.size() == bytes, "a union has a bit for each weight");
    check(within.size() == (count + 7) / 8, "a mask has a bit for each value of the union");
    int64_t kept = 0;
    for (int64_t byte = 0; byte < bytes; ++byte) {
        const int last = byte == bytes - 1 && total % 8 ? (1 << total % 8) - 1 : 255;
        kept += __builtin_popcount(in_union.data()[byte] & last);
    }
    check(kept == count, "a union has a value for each of its bits");
    Floats dense({rows, columns});
    const void* const from = values.data();
    const uint8_t *const all = in_union.data(), *const some = within.data();
    float* const to = dense.mutable_data();
    py::gil_scoped_release release;
    sparse::expand(from, half, count, all, some, total, to);
    return dense;
}

void gelu(Floats& x, const RunnerAt& at) {
    const sparse::Runner runner = runner_of(at);
    runner.kernels.transformer.gelu(x.mutable_data(), x.size());
}

sparse::Norm norm_of(const NormOf& norm, int64_t dim) {
    const auto& [weight, bias, epsilon] = norm;
    check(weight.ndim() == 1 && bias.ndim() == 1 && weight.shape(0) == dim && bias.shape(0) == dim,
          "a norm has a weight and a bias for each channel");
    return {weight.data(), bias.data(), epsilon};
}

const sparse::Linear& layer_of(const LinearOf& linear, int64_t rows, int64_t columns) {
    check(linear.layer.rows() == rows && linear.layer.columns() == columns, "a layer does not fit the others");
    return linear.layer;
}

using EncoderLayerOf = std::tuple<NormOf, LinearOf, LinearOf, LinearOf, LinearOf, NormOf, LinearOf, LinearOf>;
using DecoderLayerOf = std::tuple<NormOf, LinearOf, LinearOf, LinearOf, LinearOf, NormOf, LinearOf, LinearOf, LinearOf,
                                  LinearOf, NormOf, LinearOf, LinearOf>;

struct Encoder {
    sparse::Encoder encoder;
    std::vector<EncoderLayerOf> layers;
    NormOf norm;
};

std::unique_ptr<Encoder> make_encoder(int64_t heads, const std::string& attention, std::vector<EncoderLayerOf> layers,
                                      NormOf norm) {
    auto made = std::make_unique<Encoder>(Encoder{{}, std::move(layers), std::move(norm)});
    const int64_t dim = std::get<0>(made->norm).shape(0);
    check(heads > 0 && dim % heads == 0 && dim / heads % 4 == 0, "heads divide the channels into multiples of 4");
    made->encoder = {dim, heads, attention_item(attention), {}, norm_of(made->norm, dim)};
    for (const auto& [before, query, key, value, out, between, inwards, outwards] : made->layers)
        made->encoder.layers.push_back({norm_of(before, dim), layer_of(query, dim, dim), layer_of(key, dim, dim),
                                        layer_of(value, dim, dim), layer_of(out, dim, dim), norm_of(between, dim),
                                        layer_of(inwards, inwards.layer.rows(), dim),
                                        layer_of(outwards, dim, inwards.layer.rows())});
    return made;
}

Floats encode(const Encoder& encoder, const Floats& x, const RunnerAt& at) {
    check(x.ndim() == 2 && x.shape(1) == encoder.encoder.dim && x.shape(0) > 0, "the encoder reads (frames, dim)");
    const sparse::Runner runner = runner_of(at);
    Floats out({x.shape(0), x.shape(1)});
    std::copy(x.data(), x.data() + x.size(), out.mutable_data());
    float* const to = out.mutable_data();
    const int64_t n = x.shape(0);
    py::gil_scoped_release release;
    sparse::encode(encoder.encoder, to, n, runner);
    return out;
}

// Rows of float32 or float16.
sparse::Table table_of(const py::array& rows) {
    const char* const problem = "a table has contiguous rows of float32 or float16";
    const bool half = is_half(rows, problem);
    check(rows.ndim() == 2 && rows.size() > 0, problem);
    return {rows.data(), half, rows.shape(0), rows.shape(1)};
}

struct Decoder {
    sparse::Decoder decoder;
    py::array embedding;
    Floats positions;
    std::vector<DecoderLayerOf> layers;
    NormOf norm;
};

std::unique_ptr<Decoder> make_decoder(int64_t heads, const std::string& attention, py::array embedding,
                                      Floats positions, std::vector<DecoderLayerOf> layers, NormOf norm,
                                      std::vector<std::pair<int, int>> recorded) {
    auto made = std::make_unique<Decoder>(
        Decoder{{}, std::move(embedding), std::move(positions), std::move(layers), std::move(norm)});
    const int64_t dim = std::get<0>(made->norm).shape(0);
    check(heads > 0 && dim % heads == 0 && dim / heads % 4 == 0, "heads divide the channels into multiples of 4");
    const sparse::Table table = table_of(made->embedding);
    check(table.columns == dim, "an embedding has a value for each channel");
    check(made->positions.ndim() == 2 && made->positions.shape(1) == dim, "positions are (capacity, dim)");
    for (const auto& [layer, head] : recorded)
        check(layer >= 0 && head >= 0 && layer < static_cast<int>(made->layers.size()) && head < heads,
              "there is no such layer or head to record");
    made->decoder = {dim,
                     heads,
                     attention_item(attention),
                     table,
                     made->positions.data(),
                     made->positions.shape(0),
                     {},
                     norm_of(made->norm, dim),
                     std::move(recorded)};
    for (const auto& [norm0, query, key, value, out, norm1, cross_query, cross_key, cross_value, cross_out, norm2,
                      inwards, outwards] : made->layers)
        made->decoder.layers.push_back({norm_of(norm0, dim), layer_of(query, dim, dim), layer_of(key, dim, dim),
                                        layer_of(value, dim, dim), layer_of(out, dim, dim), norm_of(norm1, dim),
                                        layer_of(cross_query, dim, dim), layer_of(cross_key, dim, dim),
                                        layer_of(cross_value, dim, dim), layer_of(cross_out, dim, dim),
                                        norm_of(norm2, dim), layer_of(inwards, inwards.layer.rows(), dim),
                                        layer_of(outwards, dim, inwards.layer.rows())});
    return made;
}

std::shared_ptr<sparse::Cross> cross_of(const Decoder& decoder, const Floats& encodings, const RunnerAt& at) {
    check(encodings.ndim() == 2 && encodings.shape(1) == decoder.decoder.dim && encodings.shape(0) > 0,
          "encodings are (frames, dim)");
    const sparse::Runner runner = runner_of(at);
    const float* const from = encodings.data();
    const int64_t frames = encodings.shape(0);
    py::gil_scoped_release release;
    return std::make_shared<sparse::Cross>(sparse::cross_of(decoder.decoder, from, frames, runner));
}

struct Hypotheses {
    const Decoder& decoder;
    sparse::Hypotheses hypotheses;
};

std::unique_ptr<Hypotheses> make_hypotheses(const Decoder& decoder,
                                            const std::vector<std::shared_ptr<sparse::Cross>>& utterances) {
    check(!utterances.empty(), "a hypothesis is of an utterance");
    for (const auto& utterance : utterances)
        check(utterance && sparse::fits(*utterance, decoder.decoder), "an utterance of another decoder");
    return std::make_unique<Hypotheses>(Hypotheses{decoder, {decoder.decoder, {utterances.begin(), utterances.end()}}});
}

py::tuple step(Hypotheses& made, const Integers& tokens, bool record, const RunnerAt& at) {
    sparse::Hypotheses& hypotheses = made.hypotheses;
    const sparse::Decoder& decoder = made.decoder.decoder;
    check(tokens.ndim() == 2 && tokens.shape(0) == hypotheses.count() && tokens.shape(1) > 0,
          "tokens are (hypotheses, n)");
    check(hypotheses.length() + tokens.shape(1) <= decoder.capacity, "more tokens than the decoder has positions for");
    for (py::ssize_t i = 0; i < tokens.size(); ++i)
        check(tokens.data()[i] >= 0 && tokens.data()[i] < decoder.embedding.rows, "there is no such token");
    const sparse::Runner runner = runner_of(at);
    const py::ssize_t count = hypotheses.count(), pairs = record ? decoder.recorded.size() : 0;
    Floats hidden({count, static_cast<py::ssize_t>(decoder.dim)});
    Floats attention({count, pairs, static_cast<py::ssize_t>(hypotheses.longest())});
    std::fill(attention.mutable_data(), attention.mutable_data() + attention.size(), 0.0f);
    const int32_t* const from = tokens.data();
    float *const to = hidden.mutable_data(), *const weights = pairs ? attention.mutable_data() : nullptr;
    const int64_t n = tokens.shape(1);
    {
        py::gil_scoped_release release;
        hypotheses.step(from, n, to, weights, runner);
    }
    return py::make_tuple(hidden, attention);
}

void keep(Hypotheses& made, const std::vector<int64_t>& places) {
    for (const int64_t place : places)
        check(place >= 0 && place < made.hypotheses.count(), "there is no such hypothesis");
    check(!places.empty(), "a hypothesis is to stay");
    made.hypotheses.keep(places);
}

struct Output {
    py::array table;
    sparse::Output output;
};

std::unique_ptr<Output> make_output(py::array table, const py::object& ids, const RunnerAt& at) {
    const sparse::Table rows = table_of(table);
    std::vector<int32_t> chosen;
    if (!ids.is_none()) chosen = ids.cast<std::vector<int32_t>>();
    check(ids.is_none() || !chosen.empty(), "an output layer has tokens");
    for (const int32_t token : chosen) check(token >= 0 && token < rows.rows, "there is no such token");
    return std::make_unique<Output>(Output{std::move(table), {rows, std::move(chosen), runner_of(at)}});
}

py::tuple best(const Output& made, const Floats& hidden, int64_t count, const py::object& banned, const RunnerAt& at) {
    check(hidden.ndim() == 2 && hidden.shape(1) == made.table.shape(1), "the output layer reads (n, dim)");
    check(count > 0, "one token at least");
    const uint8_t* flags = nullptr;
    if (!banned.is_none()) {
        const auto bytes = banned.cast<py::array_t<uint8_t, py::array::c_style>>();
        check(bytes.ptr() == banned.ptr() && bytes.ndim() == 1 && bytes.shape(0) == made.table.shape(0),
              "banned has a byte for each token");
        flags = bytes.data();
    }
    const sparse::Runner runner = runner_of(at);
    const float* const from = hidden.data();
    const py::ssize_t n = hidden.shape(0);
    sparse::Output::Best found;
    {
        py::gil_scoped_release release;
        found = made.output.best(from, n, count, flags, runner);
    }
    const auto shape = std::vector<py::ssize_t>{n, static_cast<py::ssize_t>(count)};
    Integers tokens(shape);
    Floats logits(shape), sums(n);
    std::copy(found.tokens.begin(), found.tokens.end(), tokens.mutable_data());
    std::copy(found.logits.begin(), found.logits.end(), logits.mutable_data());
    std::copy(found.log_sums.begin(), found.log_sums.end(), sums.mutable_data());
    return py::make_tuple(tokens, logits, sums, found.rescored);
}

}  // namespace

void bind_transformer(py::module_& module) {
    py::class_<Dense>(module, "Dense").def(py::init(&make_dense)).def_property_readonly("nbytes", &Dense::bytes);
    py::class_<Gathered>(module, "Gathered")
        .def(py::init(&make_gathered))
        .def_property_readonly("nbytes", &Gathered::bytes);
    module.def("gathers", [] { return sparse::find_kernels("")->dense.multiply_gathered != nullptr; });
    py::class_<Matrix>(module, "Sparse").def(py::init(&make_sparse)).def_property_readonly("nbytes", &Matrix::bytes);
    py::class_<LinearOf>(module, "Linear")
        .def(py::init(&make_linear), py::arg("weight"), py::arg("bias"), py::arg("fine") = false)
        .def_property_readonly(
            "shape", [](const LinearOf& made) { return py::make_tuple(made.layer.rows(), made.layer.columns()); })
        .def("multiply", &multiply);
    module.def("expand", &expand);
    module.def("gelu", &gelu, py::arg("x").noconvert(), py::arg("runner"));
    module.def("expands",
               [](const std::string& item) { return sparse::find_kernels("")->dense.expands(item_of(item)); });
    py::class_<Encoder>(module, "Encoder").def(py::init(&make_encoder)).def("encode", &encode);
    py::class_<sparse::Cross, std::shared_ptr<sparse::Cross>>(module, "Cross")
        .def_readonly("frames", &sparse::Cross::frames);
    py::class_<Decoder>(module, "Decoder").def(py::init(&make_decoder)).def("cross", &cross_of);
    py::class_<Hypotheses>(module, "Hypotheses")
        .def(py::init(&make_hypotheses), py::keep_alive<1, 2>())
        .def_property_readonly("length", [](const Hypotheses& made) { return made.hypotheses.length(); })
        .def("step", &step)
        .def("keep", &keep);
    py::class_<Output>(module, "Output")
        .def(py::init(&make_output))
        .def_property_readonly("nbytes", [](const Output& made) { return made.output.bytes(); })
        .def("best", &best);
}
