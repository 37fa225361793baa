"""Products that are faster than dense float32 ones on a CPU, by weights without zeros and of fewer bits.

`asr_pathways.runtime.layers.Layers` stores weights for them. The kernels are an optional C++ extension: `available`
returns whether it was built.
"""

from __future__ import annotations

from asr_pathways.runtime.kernels.extension import available, variants
from asr_pathways.runtime.kernels.lstm import lstm_step

__all__ = ["available", "lstm_step", "variants"]
