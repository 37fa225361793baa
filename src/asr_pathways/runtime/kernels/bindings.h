// What the parts of the Python module share.
#pragma once

#include <pybind11/pybind11.h>

#include <string>
#include <utility>

#include "linear.h"

// The number of threads, and the name of an instruction set, empty for the fastest.
using RunnerAt = std::pair<int, std::string>;

inline sparse::Runner runner_of(const RunnerAt& at) {
    const sparse::Kernels* kernels = sparse::find_kernels(at.second);
    if (at.first < 1) throw pybind11::value_error("there is one thread at least");
    if (!kernels) throw pybind11::value_error("this CPU has no kernels " + at.second);
    return {at.first, *kernels};
}

// A linear layer as Python has it, and the objects that it points to.
struct LinearOf {
    sparse::Linear layer;
    pybind11::object weight, bias;
};

// Adds weights, linear layers, encoder, decoder and output layer of a transformer to the module.
void bind_transformer(pybind11::module_& module);
