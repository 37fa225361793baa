from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Tensors go by their addresses.
Norm = tuple[int, int, float]  # weight, bias, epsilon
Runner = tuple[int, str]  # threads and an instruction set, empty for the fastest

def variants() -> list[str]: ...
def lstm_step(
    by_input: Linear, by_hidden: Linear, x: int, h: int, c: int, n: int, h_next: int, c_next: int, runner: Runner
) -> None: ...
def feed_forward(x: int, n: int, norm: Norm, inwards: Linear, outwards: Linear, out: int, runner: Runner) -> None: ...
def attention(
    x: int,
    streams: int,
    rows: int,
    past: int,
    left: int,
    unseen: int,
    norm: Norm,
    query: Linear,
    key_value: Linear,
    outwards: Linear,
    heads: int,
    bias: int,
    windows: int,
    out: int,
    runner: Runner,
) -> None: ...
def relative_attention(
    x: int,
    rows: int,
    keys: int,
    values: int,
    head_stride: int,
    length: int,
    norm: Norm,
    query_key_value: Linear,
    outwards: Linear,
    heads: int,
    by_content: int,
    by_distance: int,
    positions: int,
    stride: int,
    first: int,
    out: int,
    runner: Runner,
) -> None: ...
def convolution(
    x: int,
    streams: int,
    rows: int,
    past: int,
    norm: Norm,
    inwards: Linear,
    weight: int,
    weight_bias: int,
    taps: int,
    inner_norm: Norm,
    outwards: Linear,
    windows: int,
    out: int,
    runner: Runner,
) -> None: ...

# What follows takes and returns arrays, and keeps alive what it is made of; of what does not fit, all raise ValueError.
Floats = NDArray[np.float32]
Integers = NDArray[np.int32]
Bytes = NDArray[np.uint8]
NormOf = tuple[Floats, Floats, float]  # weight (dim,), bias (dim,), epsilon

def expands(item: str) -> bool: ...
def gathers() -> bool: ...
def expand(values: NDArray[Any], in_union: Bytes, within: Bytes, rows: int, columns: int) -> Floats: ...
def gelu(x: Floats, runner: Runner) -> None: ...

class Dense:
    def __init__(self, weight: Floats, item: str, compressed: bool) -> None: ...
    @property
    def nbytes(self) -> int: ...

class Sparse:
    def __init__(self, weight: Floats, block: int) -> None: ...
    @property
    def nbytes(self) -> int: ...

class Gathered:
    def __init__(self, weight: Floats) -> None: ...
    @property
    def nbytes(self) -> int: ...

class Linear:
    def __init__(self, weight: Sparse | Dense | Gathered, bias: Floats | None) -> None: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    def multiply(self, x: Floats, runner: Runner) -> Floats: ...

# norm, query, key, value and output layers of attention, norm, the two feed-forward layers
EncoderLayer = tuple[NormOf, Linear, Linear, Linear, Linear, NormOf, Linear, Linear]
# with those of attention to the encodings between
DecoderLayer = tuple[
    NormOf, Linear, Linear, Linear, Linear, NormOf, Linear, Linear, Linear, Linear, NormOf, Linear, Linear
]

class Encoder:
    def __init__(self, heads: int, attention: str, layers: Sequence[EncoderLayer], norm: NormOf) -> None: ...
    def encode(self, x: Floats, runner: Runner) -> Floats: ...

class Cross:
    @property
    def frames(self) -> int: ...

class Decoder:
    def __init__(
        self,
        heads: int,
        attention: str,
        embedding: NDArray[Any],
        positions: Floats,
        layers: Sequence[DecoderLayer],
        norm: NormOf,
        recorded: Sequence[tuple[int, int]],
    ) -> None: ...
    def cross(self, encodings: Floats, runner: Runner) -> Cross: ...

class Hypotheses:
    def __init__(self, decoder: Decoder, utterances: Sequence[Cross]) -> None: ...
    @property
    def length(self) -> int: ...
    def step(self, tokens: Integers, record: bool, runner: Runner) -> tuple[Floats, Floats]: ...
    def keep(self, places: Sequence[int]) -> None: ...

class Output:
    def __init__(self, table: NDArray[Any], ids: Sequence[int] | None, runner: Runner) -> None: ...
    @property
    def nbytes(self) -> int: ...
    # tokens (n, count), logits (n, count), log-sums (n,), and how many tokens were scored exactly
    def best(
        self, hidden: Floats, count: int, banned: Bytes | None, runner: Runner
    ) -> tuple[Integers, Floats, Floats, int]: ...
