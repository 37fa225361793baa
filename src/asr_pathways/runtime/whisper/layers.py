"""How a linear layer of a pathway is stored and multiplied on this CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from asr_pathways.runtime.kernels import extension
from asr_pathways.runtime.kernels.extension import built

Floats = NDArray[np.float32]
Item = Literal["float32", "bfloat16", "int8"]
