"""Products with sparse weights that are faster than dense ones on a CPU.

At 70% sparsity a dense product does 3.3 times the work that is needed. `SparseMatrix` stores what is left of a weight
and multiplies a few rows of activations (the frames of a streamed chunk, one step of an LSTM) by it. The kernels are
an optional C++ extension: `available` says whether it was built.
"""

from __future__ import annotations

from asr_pathways.runtime.kernels.extension import available, variants
from asr_pathways.runtime.kernels.lstm import lstm_step
from asr_pathways.runtime.kernels.matrix import SparseMatrix, ValueType

__all__ = ["SparseMatrix", "ValueType", "available", "lstm_step", "variants"]
