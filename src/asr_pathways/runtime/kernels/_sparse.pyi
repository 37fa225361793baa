class Matrix:
    @property
    def rows(self) -> int: ...
    @property
    def columns(self) -> int: ...
    @property
    def block(self) -> int: ...
    @property
    def quantized(self) -> bool: ...
    @property
    def nonzeros(self) -> int: ...
    @property
    def nbytes(self) -> int: ...

def variants() -> list[str]: ...
def pack(dense: int, rows: int, columns: int, block: int, quantize: bool) -> Matrix: ...
def pack_masked(dense: int, mask: int, rows: int, columns: int, block: int, quantize: bool, half: bool) -> Matrix: ...
def pack_union(
    values: int, held: int, mask: int, rows: int, columns: int, block: int, quantize: bool, half: bool
) -> Matrix: ...
def unpack(matrix: Matrix, dense: int) -> None: ...
def multiply(w: Matrix, x: int, n: int, y: int, bias: int, relu: bool, threads: int, variant: str) -> None: ...
def lstm_step(
    w_ih: Matrix,
    w_hh: Matrix,
    x: int,
    h: int,
    c: int,
    n: int,
    bias: int,
    h_next: int,
    c_next: int,
    threads: int,
    variant: str,
) -> None: ...
def feed_forward(
    x: int,
    n: int,
    norm_weight: int,
    norm_bias: int,
    epsilon: float,
    inwards: Matrix,
    inwards_bias: int,
    outwards: Matrix,
    outwards_bias: int,
    out: int,
    threads: int,
    variant: str,
) -> None: ...
def attention(
    x: int,
    streams: int,
    rows: int,
    past: int,
    left: int,
    unseen: int,
    norm_weight: int,
    norm_bias: int,
    epsilon: float,
    query: Matrix,
    query_bias: int,
    key_value: Matrix,
    key_value_bias: int,
    outwards: Matrix,
    outwards_bias: int,
    heads: int,
    bias: int,
    windows: int,
    out: int,
    threads: int,
    variant: str,
) -> None: ...
def convolution(
    x: int,
    streams: int,
    rows: int,
    past: int,
    norm_weight: int,
    norm_bias: int,
    epsilon: float,
    inwards: Matrix,
    inwards_bias: int,
    weight: int,
    weight_bias: int,
    taps: int,
    inner_weight: int,
    inner_bias: int,
    inner_epsilon: float,
    outwards: Matrix,
    outwards_bias: int,
    windows: int,
    out: int,
    threads: int,
    variant: str,
) -> None: ...
def multiply_add_rate(variant: str) -> float: ...
def read_rate(start: int, count: int, rounds: int, variant: str) -> float: ...
