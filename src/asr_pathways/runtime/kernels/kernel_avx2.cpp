#include "kernels.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))

#include <immintrin.h>

// Headers are included above, before the instruction set is turned on: their inline functions are shared
// with code that must run anywhere.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

#define LANES 8
#include "multiply_kernels.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const sparse::Kernels* sparse::avx2_kernels() {
    static const Kernels kernels = {"avx2", widest_tile, transpose,   multiply,     lstm,
                                    kSteps, kDense,      kCodeOffset, kTransformer, kFourBits};
    static const bool supported =
        __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    return supported ? &kernels : nullptr;
}

#else

const sparse::Kernels* sparse::avx2_kernels() { return nullptr; }

#endif
