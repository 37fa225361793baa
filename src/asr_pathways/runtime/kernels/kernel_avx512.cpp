#include "kernels.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))

#include <immintrin.h>

// Headers are included above, before the instruction set is turned on: their inline functions are shared
// with code that must run anywhere.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#endif

#define LANES 16
#define EXPANSION 32  // bits of the smallest item
#include "multiply_kernels.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const sparse::Kernels* sparse::avx512_kernels() {
    static const Kernels kernels = {"avx512", widest_tile, transpose,   multiply,     lstm,
                                    kSteps,   kDense,      kCodeOffset, kTransformer, kFourBits};
    static const bool supported = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                                  __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    return supported ? &kernels : nullptr;
}

#else

const sparse::Kernels* sparse::avx512_kernels() { return nullptr; }

#endif
