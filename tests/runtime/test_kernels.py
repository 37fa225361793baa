from __future__ import annotations

import multiprocessing
import threading
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import linear

from asr_pathways.errors import PathwaysError
from asr_pathways.pruning.granularity import parse_granularity
from asr_pathways.pruning.masks import pack, top_k
from asr_pathways.runtime.kernels import SparseMatrix, available, extension, lstm_step, variants
from asr_pathways.runtime.kernels.matrix import ValueType

pytestmark = pytest.mark.skipif(not available(), reason="the kernels were not built")
GRANULARITIES = ("unstructured", "block:4x1", "block:8x1", "block:2x2", "2:4")


def random_mask(rows: int, columns: int, granularity: str, density: float, seed: int) -> Tensor:
    grain = parse_granularity(granularity)
    units = grain.units((rows, columns))
    scores = torch.rand(units, generator=torch.Generator().manual_seed(seed))
    if granularity == "2:4":
        return torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed)) < density
    return grain.expand(top_k(scores, round(density * units)), (rows, columns))


def random_weight(rows: int, columns: int, granularity: str = "unstructured", density: float = 0.3) -> Tensor:
    values = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows * columns))
    return values * random_mask(rows, columns, granularity, density, columns)


def activations(n: int, columns: int) -> Tensor:
    return torch.randn(n, columns, generator=torch.Generator().manual_seed(n))


def assert_product(matrix: SparseMatrix, x: Tensor, bias: Tensor | None = None, **options: object) -> None:
    found = matrix.matmul(x, bias, **options)  # type: ignore[arg-type]
    expected = linear(x.double(), matrix.dense().double(), None if bias is None else bias.double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_product_is_the_dense_one_for_any_number_of_rows(granularity: str, dtype: ValueType) -> None:
    matrix = SparseMatrix.pack(random_weight(50, 77, granularity), granularity, dtype)
    bias = torch.randn(50)
    for n in (*range(1, 36), 47, 48, 63, 64, 65, 130):
        for variant in variants():
            assert_product(matrix, activations(n, 77), bias, variant=variant)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (4, 64), (5, 128), (16, 63), (129, 300), (256, 512)])
def test_packing_keeps_exactly_the_weights(granularity: str, shape: tuple[int, int]) -> None:
    weight = random_weight(*shape, granularity)
    matrix = SparseMatrix.pack(weight, granularity)
    assert torch.equal(matrix.dense(), weight)
    assert matrix.shape == shape
    assert matrix.nonzeros == int(weight.count_nonzero())


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_mask_within_a_union_is_packed_from_the_unions_values(data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 150))
    granularity = data.draw(st.sampled_from(GRANULARITIES))
    union = random_mask(rows, columns, granularity, data.draw(st.sampled_from([0.0, 0.4, 1.0])), seed=rows)
    mask = union & random_mask(rows, columns, granularity, 0.6, seed=columns)
    dense = random_weight(rows, columns, density=1.0).to(data.draw(st.sampled_from([torch.float32, torch.float16])))
    dtype = data.draw(st.sampled_from(["float32", "int8"]))
    values = dense[union]
    matrix = SparseMatrix.from_union(values, pack(union), pack(mask), (rows, columns), granularity, dtype)
    assert torch.equal(matrix.dense(), SparseMatrix.pack(dense.float() * mask, granularity, dtype).dense())


def test_a_union_that_does_not_fit_is_refused() -> None:
    union, mask = pack(torch.tensor([[True, False]])), pack(torch.tensor([[True, True]]))
    with pytest.raises(PathwaysError, match="a union of 1 weights does not fit 2 values and its mask"):
        SparseMatrix.from_union(torch.ones(2), union, union, (1, 2))
    with pytest.raises(PathwaysError, match="a union of 1 weights does not fit 1 values and its mask"):
        SparseMatrix.from_union(torch.ones(1), union, mask, (1, 2))
    with pytest.raises(PathwaysError, match="has 2 bytes, not"):
        SparseMatrix.from_union(torch.ones(1), union, union, (3, 5))
    with pytest.raises(PathwaysError, match=r"the values of a union have shape \(k,\), not \(1, 1\)"):
        SparseMatrix.from_union(torch.ones(1, 1), union, union, (1, 2))


def test_numpy_arrays_are_packed_as_tensors_are() -> None:
    weight = random_weight(9, 40)
    kept = pack(weight != 0)
    matrix = SparseMatrix.from_bits(weight[weight != 0].half().numpy(), kept.numpy(), kept.numpy(), (9, 40))
    assert torch.equal(matrix.dense(), weight.half().float())


@pytest.mark.parametrize(
    ("values", "union", "problem"),
    [
        (np.ones(2, np.float64), np.array([3], np.uint8), "must be float32 or float16, not float64"),
        (np.ones(2, ">f4"), np.array([3], np.uint8), "must be float32 or float16, not >f4"),
        (np.ones((2, 1), np.float32), np.array([3], np.uint8), r"have shape \(k,\), not \(2, 1\)"),
        (np.ones(2, np.float32), np.array([3], np.int64), "must be uint8, not int64"),
        (np.ones(2, np.float32), np.array([3, 0], np.uint8), r"has 1 bytes, not \(2,\)"),
        (np.ones(2, np.float32), np.array([1], np.uint8), "a union of 1 weights does not fit 2 values"),
    ],
)
def test_numpy_arrays_that_do_not_fit_are_refused(values: NDArray[Any], union: NDArray[np.uint8], problem: str) -> None:
    with pytest.raises(PathwaysError, match=problem):
        SparseMatrix.from_bits(values, union, union, (1, 2))
    with pytest.raises(PathwaysError, match="at least a row and a column, not -1x2"):
        SparseMatrix.from_bits(values, union, union, (-1, 2))


def test_strided_arrays_are_packed_as_they_look() -> None:
    values, union = np.arange(8, dtype=np.float32)[::-2], np.array([15, 0, 255], np.uint8)[::2][:1]
    assert SparseMatrix.from_bits(values, union, union, (2, 2)).dense().tolist() == [[7, 5], [3, 1]]


def test_half_precision_values_are_read_exactly() -> None:
    halves = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16).view(torch.float16)
    halves = halves[halves.isfinite()].view(16, -1).contiguous()
    everything = pack(torch.ones(halves.shape, dtype=torch.bool))
    assert torch.equal(
        SparseMatrix.from_union(halves.flatten(), everything, everything, halves.shape).dense(), halves.float()
    )


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_products_of_any_shape_and_pattern(data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 150))
    n = data.draw(st.integers(1, 70))
    weight = random_weight(rows, columns, density=1.0)
    granularity = data.draw(st.sampled_from(GRANULARITIES))
    weight *= random_mask(rows, columns, granularity, data.draw(st.sampled_from([0.0, 0.02, 0.3, 0.9, 1.0])), seed=n)
    for row in data.draw(st.lists(st.integers(0, rows - 1), max_size=6)):
        weight[row] = 0
    matrix = SparseMatrix.pack(weight, granularity, data.draw(st.sampled_from(["float32", "int8"])))
    bias = activations(1, rows)[0] if data.draw(st.booleans()) else None
    options = {"threads": data.draw(st.integers(1, 4)), "variant": data.draw(st.sampled_from([None, *variants()]))}
    assert_product(matrix, activations(n, columns), bias, **options)


@pytest.mark.parametrize("granularity", ["unstructured", "block:4x1", "block:8x1"])
def test_int8_rounds_each_row_to_its_own_scale(granularity: str) -> None:
    weight = random_weight(37, 90, granularity) * torch.logspace(-3, 3, 37)[:, None]
    weight[5] = 0
    found = SparseMatrix.pack(weight, granularity, "int8").dense()
    scale = weight.abs().amax(dim=1, keepdim=True) / 127
    assert ((found - weight).abs() <= 0.501 * scale).all()
    codes = found / scale.clamp(min=1e-30)
    torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("granularity", ["unstructured", "block:4x1", "block:8x1"])
def test_int8_rows_of_any_size_keep_their_values(granularity: str) -> None:
    """Down to where float32 itself has no digits left: half a step, or half of the smallest float above zero."""
    sizes = torch.tensor([3e38, 1.0, 1e-30, 1e-35, 4e-37, 1e-37, 1e-38, 1e-40, 1e-42, 1e-43, 1e-45, 0.0])
    directions = random_weight(12, 90, granularity).double()
    weight = (directions / directions.abs().amax(1, keepdim=True) * sizes.double()[:, None]).float()
    found = SparseMatrix.pack(weight, granularity, "int8").dense().double()
    largest = weight.double().abs().amax(1, keepdim=True)
    assert ((found - weight.double()).abs() <= 0.501 * largest / 127 + 127 * 0.75e-45).all()
    assert (found[:10].abs().amax(1) > 0).all()  # none becomes zeros
    assert not found[-1].any()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_no_product_hides_what_is_not_finite(value: float) -> None:
    weight = random_weight(40, 90)
    weight[3, 7] = value
    matrix = SparseMatrix.pack(weight)
    for n in (1, 3, 20):
        for variant in variants():
            assert not matrix.matmul(torch.ones(n, 90), variant=variant)[:, 3].isfinite().any()
            x = activations(n, 90)
            x[0, 5] = value
            found = SparseMatrix.pack(torch.ones(40, 90)).matmul(x, variant=variant)
            assert not found[0].isfinite().any() and found[1:].isfinite().all()
            hidden = torch.zeros(n, 10)
            x = x if value != value else x.fill_(value)
            gates = SparseMatrix.pack(torch.ones(40, 90)), SparseMatrix.pack(torch.ones(40, 10))
            h, c = lstm_step(x, hidden, hidden, *gates, variant=variant)
            assert (h[0].isnan() & c[0].isnan()).all() or value == value
    with pytest.raises(PathwaysError, match="values that are not finite cannot be stored as int8"):
        SparseMatrix.pack(weight, dtype="int8")


def test_a_row_of_zeros_gives_its_bias() -> None:
    matrix = SparseMatrix.pack(torch.zeros(6, 9), "block:4x1")
    bias = torch.arange(6.0)
    assert torch.equal(matrix.matmul(torch.randn(3, 9), bias), bias.expand(3, 6))
    assert matrix.nonzeros == 0


def test_no_rows_give_no_rows() -> None:
    assert SparseMatrix.pack(random_weight(10, 12)).matmul(torch.empty(0, 12)).shape == (0, 10)


@pytest.mark.parametrize("granularity", ["unstructured", "block:4x1"])
@pytest.mark.parametrize("n", [1, 20])
def test_threads_change_no_bit(granularity: str, n: int) -> None:
    weight = random_weight(70, 130, granularity)
    weight[:50] *= random_mask(50, 130, granularity, 0.1, seed=1)  # rows of very different lengths
    matrix, x = SparseMatrix.pack(weight, granularity), activations(n, 130)
    alone = matrix.matmul(x)
    for threads in (2, 3, 8, 100):
        assert torch.equal(matrix.matmul(x, threads=threads), alone)


def test_products_from_several_threads_at_once() -> None:
    matrix, x = SparseMatrix.pack(random_weight(64, 200)), activations(9, 200)
    expected, found = matrix.matmul(x), []
    work = lambda: found.extend(matrix.matmul(x, threads=2) for _ in range(50))  # noqa: E731
    callers = [threading.Thread(target=work) for _ in range(2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(found) == 100
    assert all(torch.equal(result, expected) for result in found)


def _product_in_a_fork(queue: multiprocessing.Queue[float]) -> None:
    matrix = SparseMatrix.pack(torch.ones(8, 4))
    queue.put(float(matrix.matmul(torch.ones(1, 4), threads=2).sum()))


def test_threads_work_after_a_fork() -> None:
    SparseMatrix.pack(torch.ones(8, 4)).matmul(torch.ones(1, 4), threads=2)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_product_in_a_fork, args=(queue,))
    process.start()
    assert queue.get(timeout=20) == 32
    process.join()


@pytest.mark.parametrize("n", [1, 3, 16])
@pytest.mark.parametrize("hidden", [5, 64])
@pytest.mark.parametrize("granularity", ["unstructured", "block:4x1"])
def test_a_step_of_an_lstm_is_torchs(n: int, hidden: int, granularity: str) -> None:
    cell = torch.nn.LSTMCell(30, hidden)
    with torch.no_grad():
        for weight in (cell.weight_ih, cell.weight_hh):
            weight *= random_mask(*weight.shape, granularity, 0.3, seed=5)
        x, h, c = 3 * activations(n, 30), activations(n, hidden), 3 * activations(n, hidden)
        expected = cell(x, (h, c))
        w_ih, w_hh = (SparseMatrix.pack(weight, granularity) for weight in (cell.weight_ih, cell.weight_hh))
        bias = cell.bias_ih + cell.bias_hh
        for variant in variants():
            for threads in (1, 2):
                found = lstm_step(x, h, c, w_ih, w_hh, bias, threads, variant=variant)
                torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_gates_of_any_size_give_what_torch_gives() -> None:
    nothing = SparseMatrix.pack(torch.zeros(4, 1))
    zero, ones = torch.zeros(1, 1), torch.ones(1, 1)
    for size in (0.0, 1e-3, 5.0, 50.0, 1e4):
        bias = torch.tensor([size, -size, size, size])
        h, c = lstm_step(zero, zero, ones, nothing, nothing, bias)
        i, f, g, o = bias.sigmoid()[0], bias.sigmoid()[1], bias.tanh()[2], bias.sigmoid()[3]
        torch.testing.assert_close(c.view(()), f + i * g, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(h.view(()), o * (f + i * g).tanh(), rtol=1e-5, atol=1e-6)


def test_without_the_extension_there_are_no_sparse_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension, "compiled", None)
    assert not available()
    assert variants() == []
    with pytest.raises(PathwaysError, match="the sparse kernels were not built: install a C\\+\\+ compiler"):
        SparseMatrix.pack(torch.ones(2, 2))


def test_portable_kernels_are_always_there() -> None:
    assert variants()[-1] == "portable"
    with pytest.raises(PathwaysError, match=r"no kernels 'abacus' here, only .*portable"):
        SparseMatrix.pack(torch.ones(2, 2)).matmul(torch.ones(1, 2), variant="abacus")


def resized(x: Tensor, size: int) -> Tensor:
    """The tensor, its memory cut to so many bytes, as sharded training does."""
    x.untyped_storage().resize_(size)
    return x


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.ones(2, 3), r"x must have shape \(n, 4\), not \(2, 3\)"),
        (torch.ones(4), r"x must have shape \(n, 4\), not \(4,\)"),
        (torch.ones(2, 4, dtype=torch.float64), "x must be float32, not float64"),
        (torch.ones(4, 2).T, "x must be contiguous"),
        (torch.ones(2, 4, device="meta"), "x must be on the CPU, not on meta"),
        (torch._neg_view(torch.ones(2, 4)), "x is a negated view, whose memory has the other signs"),
        (resized(torch.ones(2, 4), 0), "x is larger than its memory, which was resized"),
        (resized(torch.ones(2, 4), 28), "x is larger than its memory, which was resized"),
        (resized(torch.ones(4, 4)[2:], 60), "x is larger than its memory, which was resized"),
        (torch.ones(2, 4).to_sparse(), "x must be a dense tensor, not sparse_coo"),
        (torch.ones(2, 4).to_sparse_csr(), "x must be a dense tensor, not sparse_csr"),
        (torch.ones(2, 4).to_mkldnn(), "x must be a dense tensor, not _mkldnn"),
        (torch.ones(1, 4).expand(2, 4), "x must be contiguous"),
    ],
)
def test_activations_that_do_not_fit_are_refused(x: Tensor, message: str) -> None:
    with pytest.raises(PathwaysError, match=message):
        SparseMatrix.pack(torch.ones(3, 4)).matmul(x)


def test_other_arguments_that_do_not_fit_are_refused() -> None:
    matrix, x = SparseMatrix.pack(torch.ones(3, 4)), torch.ones(2, 4)
    with pytest.raises(PathwaysError, match=r"bias must have shape \(3\), not \(4,\)"):
        matrix.matmul(x, torch.ones(4))
    with pytest.raises(PathwaysError, match="threads must be 1 or more, not 0"):
        matrix.matmul(x, threads=0)
    for many in (1025, 2**31, 10**30):
        with pytest.raises(PathwaysError, match="threads must be 1024 or fewer, not"):
            matrix.matmul(x, threads=many)
    with pytest.raises(PathwaysError, match="4 \\* hidden rows"):
        lstm_step(x, x, x, matrix, matrix)


def test_weights_that_cannot_be_packed_are_refused() -> None:
    with pytest.raises(PathwaysError, match="a weight is a negated view"):
        SparseMatrix.pack(torch._neg_view(torch.ones(3, 4)))
    with pytest.raises(PathwaysError, match="the values of a union is larger than its memory"):
        SparseMatrix.from_union(resized(torch.ones(8), 0), torch.ones(1).byte(), torch.ones(1).byte(), (2, 4))
    bits = torch.zeros(0, dtype=torch.uint8)
    for shape in ((0, 0), (32, 0), (0, 4), (-1, 4), (1.5, 4), ("3", 4)):
        with pytest.raises(PathwaysError, match="a sparse matrix has at least a row and a column, not"):
            SparseMatrix.from_union(torch.zeros(0), bits, bits, shape)  # type: ignore[arg-type]
    with pytest.raises(PathwaysError, match="at least a row and a column, not 3x0"):
        SparseMatrix.pack(torch.ones(3, 0))
    with pytest.raises(PathwaysError, match="a weight must have shape"):
        SparseMatrix.pack(torch.ones(2, 3, 4))
    with pytest.raises(PathwaysError, match="a weight must be float32, not float16"):
        SparseMatrix.pack(torch.ones(2, 3).half())
    with pytest.raises(PathwaysError, match="granularity 'rows' is none of"):
        SparseMatrix.pack(torch.ones(2, 3), "rows")
    with pytest.raises(PathwaysError, match="float32 or int8, not as 'int4'"):
        SparseMatrix.pack(torch.ones(2, 3), dtype="int4")  # type: ignore[arg-type]
    with pytest.raises(PathwaysError, match="a packed mask must be uint8, not bool"):
        SparseMatrix.from_union(torch.ones(6), torch.ones(2, 3, dtype=torch.bool), torch.ones(1), (2, 3))
    with pytest.raises(PathwaysError, match="the values of a union must be float32 or float16, not float64"):
        SparseMatrix.from_union(torch.ones(6).double(), torch.ones(1), torch.ones(1), (2, 3))


@pytest.mark.parametrize("n", [1, 2, 20])
def test_more_columns_than_an_index_could_count(n: int) -> None:
    weight = torch.zeros(2, 70_001)
    weight[0, 0], weight[1, 70_000] = 2.0, 3.0
    assert SparseMatrix.pack(weight).matmul(torch.ones(n, 70_001)).tolist() == n * [[2.0, 3.0]]
