// Vectors of four floats: SSE2, NEON, or whatever the compiler makes of them.
#include "kernels.h"

#define LANES 4
#include "multiply_kernels.h"

const sparse::Kernels* sparse::portable_kernels() {
    static const Kernels kernels = {"portable", widest_tile, transpose,   multiply,     lstm,
                                    kSteps,     kDense,      kCodeOffset, kTransformer, kFourBits};
    return &kernels;
}
