"""Products with sparse weights, beside NumPy's; threads, and the CPU's instruction sets."""

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

from asr_pathways.errors import PathwaysError
from asr_pathways.pruning.granularity import parse_granularity
from asr_pathways.pruning.top_k import top_k
from asr_pathways.runtime.kernels import available, extension, variants
from asr_pathways.runtime.layers import block_rows

pytestmark = pytest.mark.skipif(not available(), reason="the kernels were not built")
Floats = NDArray[np.float32]
GRANULARITIES = ("unstructured", "block:4x1", "block:8x1", "block:2x2", "2:4")


def random_mask(rows: int, columns: int, granularity: str, density: float, seed: int) -> NDArray[np.bool_]:
    grain = parse_granularity(granularity)
    units = grain.units((rows, columns))
    generator = torch.Generator().manual_seed(seed)
    if granularity == "2:4":
        return np.asarray(torch.rand(rows, columns, generator=generator) < density)
    chosen = top_k(torch.rand(units, generator=generator), round(density * units))
    return np.asarray(grain.expand(chosen, (rows, columns)))


def random_weight(rows: int, columns: int, granularity: str = "unstructured", density: float = 0.3) -> Floats:
    """Masked by multiplication: half of the zeros are -0.0."""
    values = np.random.default_rng(rows * columns).standard_normal((rows, columns), dtype=np.float32)
    return values * random_mask(rows, columns, granularity, density, columns)


def activations(n: int, columns: int) -> Floats:
    return np.random.default_rng(n).standard_normal((n, columns), dtype=np.float32)


def layer(weight: Floats, granularity: str = "unstructured", bias: Floats | None = None) -> Any:
    kernels = extension.built()
    return kernels.Linear(kernels.Sparse(weight, block_rows(granularity)), bias)


def multiply(linear: Any, x: Floats, threads: int = 1, variant: str | None = None) -> Floats:
    found: Floats = linear.multiply(x, extension.check_runner(threads, variant))
    return found


def assert_product(weight: Floats, granularity: str, x: Floats, bias: Floats | None = None, **options: Any) -> None:
    expected = x.astype(np.float64) @ weight.T.astype(np.float64) + (0 if bias is None else bias)
    found = multiply(layer(weight, granularity, bias), x, **options)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_a_product_is_the_dense_one_for_any_number_of_rows(granularity: str) -> None:
    weight, bias = random_weight(50, 77, granularity), activations(1, 50)[0]
    for n in (*range(1, 36), 47, 48, 63, 64, 65, 130):
        for variant in variants():
            assert_product(weight, granularity, activations(n, 77), bias, variant=variant)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (4, 64), (5, 128), (16, 63), (129, 300), (256, 512)])
def test_packing_keeps_exactly_the_weights(granularity: str, shape: tuple[int, int]) -> None:
    weight = random_weight(*shape, granularity)
    linear = layer(weight, granularity)
    assert linear.shape == shape
    assert np.array_equal(multiply(linear, np.eye(shape[1], dtype=np.float32)).T, weight)


def test_memory_is_that_of_the_nonzeros() -> None:
    weight = random_weight(128, 256)
    nbytes = extension.built().Sparse(weight, 1).nbytes
    assert 6 * np.count_nonzero(weight) < nbytes < 7.5 * np.count_nonzero(weight)


@settings(max_examples=60)
@given(data=st.data())
def test_products_of_any_shape_and_pattern(data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 150))
    n = data.draw(st.integers(1, 70))
    weight = random_weight(rows, columns, density=1.0)
    granularity = data.draw(st.sampled_from(GRANULARITIES))
    weight *= random_mask(rows, columns, granularity, data.draw(st.sampled_from([0.0, 0.02, 0.3, 0.9, 1.0])), seed=n)
    for row in data.draw(st.lists(st.integers(0, rows - 1), max_size=6)):
        weight[row] = 0
    bias = activations(1, rows)[0] if data.draw(st.booleans()) else None
    options = {"threads": data.draw(st.integers(1, 4)), "variant": data.draw(st.sampled_from([None, *variants()]))}
    assert_product(weight, granularity, activations(n, columns), bias, **options)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_no_product_hides_what_is_not_finite(value: float) -> None:
    weight = random_weight(40, 90)
    weight[3, 7] = value
    for n in (1, 3, 20):
        for variant in variants():
            ones = np.ones((n, 90), np.float32)
            assert not np.isfinite(multiply(layer(weight), ones, variant=variant)[:, 3]).any()
            x = activations(n, 90)
            x[0, 5] = value
            found = multiply(layer(np.ones((40, 90), np.float32)), x, variant=variant)
            assert not np.isfinite(found[0]).any() and np.isfinite(found[1:]).all()


def test_a_row_of_zeros_gives_its_bias() -> None:
    bias = np.arange(6, dtype=np.float32)
    found = multiply(layer(np.zeros((6, 9), np.float32), "block:4x1", bias), activations(3, 9))
    assert np.array_equal(found, np.broadcast_to(bias, (3, 6)))


def test_no_rows_give_no_rows() -> None:
    assert multiply(layer(random_weight(10, 12)), np.empty((0, 12), np.float32)).shape == (0, 10)


@pytest.mark.parametrize("granularity", ["unstructured", "block:4x1"])
@pytest.mark.parametrize("n", [1, 20])
def test_threads_change_no_bit(granularity: str, n: int) -> None:
    weight = random_weight(70, 130, granularity)
    weight[:50] *= random_mask(50, 130, granularity, 0.1, seed=1)  # rows of very different lengths
    linear, x = layer(weight, granularity), activations(n, 130)
    alone = multiply(linear, x)
    for threads in (2, 3, 8, 100):
        assert np.array_equal(multiply(linear, x, threads), alone)


def test_products_from_several_threads_at_once() -> None:
    linear, x = layer(random_weight(64, 200)), activations(9, 200)
    expected, found = multiply(linear, x), []
    work = lambda: found.extend(multiply(linear, x, threads=2) for _ in range(50))  # noqa: E731
    callers = [threading.Thread(target=work) for _ in range(2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(found) == 100
    assert all(np.array_equal(result, expected) for result in found)


def _product_in_a_fork(queue: multiprocessing.Queue[float]) -> None:
    queue.put(float(multiply(layer(np.ones((64, 4), np.float32)), np.ones((1, 4), np.float32), threads=2).sum()))


def test_threads_work_after_a_fork() -> None:
    multiply(layer(np.ones((64, 4), np.float32)), np.ones((1, 4), np.float32), threads=2)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_product_in_a_fork, args=(queue,))
    process.start()
    assert queue.get(timeout=20) == 256
    process.join()


def test_without_the_extension_there_are_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension, "compiled", None)
    assert not available()
    assert variants() == []
    with pytest.raises(PathwaysError, match="the sparse kernels were not built: install a C\\+\\+ compiler"):
        extension.built()


def test_portable_kernels_are_always_there() -> None:
    assert variants()[-1] == "portable"
    with pytest.raises(PathwaysError, match=r"no kernels 'abacus' here, only .*portable"):
        extension.check_runner(1, "abacus")
    with pytest.raises(PathwaysError, match="threads must be 1 or more, not 0"):
        extension.check_runner(0, None)
    for many in (1025, 2**31, 10**30):
        with pytest.raises(PathwaysError, match="threads must be 1024 or fewer, not"):
            extension.check_runner(many, None)


def test_weights_that_cannot_be_packed_are_refused() -> None:
    kernels = extension.built()
    for shape in ((0, 4), (3, 0), (3,), (2, 3, 4)):
        with pytest.raises(ValueError, match="a sparse weight is a matrix"):
            kernels.Sparse(np.ones(shape, np.float32), 1)
    with pytest.raises(ValueError, match="blocks have 1, 4 or 8 rows"):
        kernels.Sparse(np.ones((3, 4), np.float32), 2)
    with pytest.raises(ValueError, match="as many columns as the weight"):
        multiply(layer(np.ones((3, 4), np.float32)), np.ones((2, 3), np.float32))


@pytest.mark.parametrize("n", [1, 2, 20])
def test_more_columns_than_an_index_could_count(n: int) -> None:
    weight = np.zeros((2, 70_001), np.float32)
    weight[0, 0], weight[1, 70_000] = 2.0, 3.0
    assert multiply(layer(weight), np.ones((n, 70_001), np.float32)).tolist() == n * [[2.0, 3.0]]
