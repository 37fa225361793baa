"""Products with sparse weights that are faster than dense ones on a CPU.

`SparseMatrix` stores the nonzero part of a weight and multiplies a few rows of activations (the frames of a streamed
chunk, one step of an LSTM) by it. The kernels are an optional C++ extension: `available` returns whether it was built.
"""

from __future__ import annotations

from asr_pathways.runtime.kernels.extension import available, variants
from asr_pathways.runtime.kernels.lstm import lstm_step
from asr_pathways.runtime.kernels.matrix import SparseMatrix, ValueType

__all__ = ["SparseMatrix", "ValueType", "available", "lstm_step", "variants"]
