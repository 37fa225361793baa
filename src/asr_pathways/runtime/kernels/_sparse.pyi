class Matrix:
    @property
    def nonzeros(self) -> int: ...
    @property
    def nbytes(self) -> int: ...

# Tensors go by their addresses.
Norm = tuple[int, int, float]  # weight, bias, epsilon
Product = tuple[Matrix, int]  # a weight and its bias, or 0
Runner = tuple[int, str]  # threads and an instruction set, empty for the fastest

def variants() -> list[str]: ...
def pack(values: int, union: int, mask: int, rows: int, columns: int, block: int, quantize: bool) -> Matrix: ...
def unpack(matrix: Matrix, dense: int) -> None: ...
def multiply(by: Product, x: int, n: int, y: int, runner: Runner) -> None: ...
def lstm_step(
    by_input: Product, by_hidden: Product, x: int, h: int, c: int, n: int, h_next: int, c_next: int, runner: Runner
) -> None: ...
def feed_forward(x: int, n: int, norm: Norm, inwards: Product, outwards: Product, out: int, runner: Runner) -> None: ...
def attention(
    x: int,
    streams: int,
    rows: int,
    past: int,
    left: int,
    unseen: int,
    norm: Norm,
    query: Product,
    key_value: Product,
    outwards: Product,
    heads: int,
    bias: int,
    windows: int,
    out: int,
    runner: Runner,
) -> None: ...
def convolution(
    x: int,
    streams: int,
    rows: int,
    past: int,
    norm: Norm,
    inwards: Product,
    weight: int,
    weight_bias: int,
    taps: int,
    inner_norm: Norm,
    outwards: Product,
    windows: int,
    out: int,
    runner: Runner,
) -> None: ...
