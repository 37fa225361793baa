"""Products with packed weights, whole and without their zeros, beside NumPy's."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from asr_pathways.bits import pack, unpack
from asr_pathways.runtime.kernels import available, extension, variants

pytestmark = pytest.mark.skipif(not available(), reason="the kernels were not built")
Floats = NDArray[np.float32]
FINE = "int8 by 16 bits"
"""Weights of int8, activations of 16 bits."""

ITEMS = ("float32", "bfloat16", "int8", FINE)


def kernels() -> Any:
    return extension.built()


def expanding(item: str) -> list[str]:
    """The instruction sets that read weights without their zeros."""
    return [one for one in variants() if one == "avx512_bf16" or (one == "avx512" and item == "float32")]


def ways(item: str) -> list[tuple[bool, str]]:
    """Whether zeros are left out, and an instruction set that reads it so."""
    return [*((False, one) for one in variants()), *((True, one) for one in expanding(item))]


def numbers(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def sparse_weight(rows: int, columns: int, density: float = 0.3) -> Floats:
    """Masked by multiplication: half of the zeros are -0.0."""
    kept = np.random.default_rng(columns).random((rows, columns)) < density
    return (numbers(rows, columns, seed=rows) * kept).astype(np.float32)


def bfloat16(x: Floats) -> NDArray[np.float64]:
    bits = np.ascontiguousarray(x).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return rounded.astype(np.uint32).view(np.float32).astype(np.float64)


def int8(x: Floats) -> NDArray[np.float64]:
    """Rounded to multiples of each row's largest / 127."""
    scale = np.maximum(np.abs(x).max(axis=1, keepdims=True) / np.float32(127), np.finfo(np.float32).tiny)
    codes = np.rint((x * (np.float32(1) / scale)).astype(np.float32))
    return (codes * scale).astype(np.float64)


def sixteen_bits(x: Floats) -> NDArray[np.float64]:
    """Two codes: the second of what the first leaves."""
    first = int8(x)
    return first + int8((x - first).astype(np.float32))


WEIGHTS = {"float32": lambda x: x.astype(np.float64), "bfloat16": bfloat16, "int8": int8, FINE: int8}
INPUTS = {**WEIGHTS, FINE: sixteen_bits}


def expected(item: str, weight: Floats, x: Floats, bias: Floats | None) -> NDArray[np.float64]:
    y: NDArray[np.float64] = INPUTS[item](x) @ WEIGHTS[item](weight).T
    return y if bias is None else y + bias


def stored_as(item: str) -> str:
    return "int8" if item == FINE else item


def layer(weight: Floats, item: str, compressed: bool, bias: Floats | None = None) -> Any:
    return kernels().Linear(kernels().Dense(weight, stored_as(item), compressed), bias, fine=item == FINE)


def assert_near(item: str, found: Floats, weight: Floats, x: Floats, bias: Floats | None = None) -> None:
    size = np.linalg.norm(x, axis=1, keepdims=True) * np.linalg.norm(weight, axis=1)
    allowed = 1e-5 * size + 1e-6
    if item == "int8":
        allowed = allowed + undecided(x) @ np.abs(weight).T
    if item in ("int8", FINE):  # of 16 bits, what one code misses the other has
        allowed = allowed + np.abs(x) @ undecided(weight).T
    error = np.abs(found - expected(item, weight, x, bias))
    assert (error <= allowed).all(), error.max()


def undecided(x: Floats) -> NDArray[np.float64]:
    """One code's worth where a value lies halfway between two, as far as float32 tells: it may go either way."""
    scale = np.maximum(np.abs(x).max(axis=1, keepdims=True) / np.float32(127), np.finfo(np.float32).tiny)
    codes = x.astype(np.float64) / scale
    return np.where(np.abs(codes - np.floor(codes) - 0.5) < 1e-4, scale, 0.0)


@pytest.mark.parametrize("item", ITEMS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (15, 2), (16, 5), (17, 16), (50, 77), (130, 33), (300, 66)])
def test_a_product_is_numpys_for_any_number_of_rows(item: str, shape: tuple[int, int]) -> None:
    weight, bias = sparse_weight(*shape), numbers(shape[0], seed=9)
    for compressed, variant in ways(item):
        for use in (None, bias):
            linear = layer(weight, item, compressed, use)
            for n in (0, 1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 24, 25, 26, 95, 97, 110):
                x = numbers(n, shape[1], seed=n)
                found = linear.multiply(x, (1, variant))
                assert found.shape == (n, shape[0])
                if n:
                    assert_near(item, found, weight, x, use)


@settings(max_examples=80)
@given(data=st.data())
def test_products_of_any_shape_and_pattern(data: st.DataObject) -> None:
    rows, columns, n = (data.draw(st.integers(1, most)) for most in (200, 260, 60))
    weight = sparse_weight(rows, columns, data.draw(st.sampled_from([0.0, 0.03, 0.3, 0.9, 1.0])))
    for row in data.draw(st.lists(st.integers(0, rows - 1), max_size=4)):
        weight[row] = 0
    for column in data.draw(st.lists(st.integers(0, columns - 1), max_size=4)):
        weight[:, column] = 0
    item = data.draw(st.sampled_from(ITEMS))
    compressed, variant = data.draw(st.sampled_from(ways(item)))
    bias = numbers(rows, seed=3) if data.draw(st.booleans()) else None
    x = numbers(n, columns, seed=n)
    found = layer(weight, item, compressed, bias).multiply(x, (data.draw(st.integers(1, 3)), variant))
    assert_near(item, found, weight, x, bias)


@pytest.mark.parametrize("item", ITEMS)
def test_zeros_and_threads_change_no_bit(item: str) -> None:
    weight = sparse_weight(700, 130)
    for n in (1, 5, 40, 500):
        x = numbers(n, 130)
        for compressed, variant in ways(item):
            linear = layer(weight, item, compressed)
            alone = linear.multiply(x, (1, variant))
            for threads in (2, 3, 50):
                assert np.array_equal(linear.multiply(x, (threads, variant)), alone)
            if compressed:
                assert np.array_equal(layer(weight, item, False).multiply(x, (1, variant)), alone)


def test_without_its_zeros_a_weight_is_smaller() -> None:
    if not kernels().expands("int8"):
        pytest.skip("this CPU expands no weights")
    weight = sparse_weight(512, 512)
    for item, size in zip(ITEMS[:3], (4, 2, 1), strict=True):
        whole, small = (kernels().Dense(weight, item, compressed).nbytes for compressed in (False, True))
        kept = np.count_nonzero(weight) * size + weight.size / 8
        assert whole >= weight.size * size
        assert kept * 0.98 <= small <= kept + 8192


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("item", ITEMS)
def test_no_product_hides_what_is_not_finite(item: str, value: float) -> None:
    for columns in (3, 16, 37, 90):
        whole = np.ones((40, columns), np.float32)
        for place in {0, columns // 2, columns - 1}:
            broken = whole.copy()
            broken[3, place] = value
            for n in (1, 3, 30):
                x = np.abs(numbers(n, columns, seed=n)) + 1
                spoilt = x.copy()
                spoilt[0, place] = value
                for compressed, variant in ways(item):
                    found = layer(whole, item, compressed).multiply(spoilt, (1, variant))
                    assert not np.isfinite(found[0]).any() and np.isfinite(found[1:]).all()
                    found = layer(broken, item, compressed).multiply(x, (1, variant))
                    assert not np.isfinite(found[:, 3]).any() and np.isfinite(np.delete(found, 3, axis=1)).all()


@pytest.mark.parametrize("size", [1e35, 1e30, 1e-30, 1e-36, 1e-38, 1e-40, 1e-45, 0.0])
def test_int8_of_rows_of_any_size(size: float) -> None:
    """Down to where float32 itself has no digits left; a row's zeros stay zeros."""
    weight, x = sparse_weight(33, 70), numbers(5, 70)
    weight[4] = 0
    tiny = 127 * np.finfo(np.float32).tiny
    for compressed, variant in ways("int8"):
        small = weight / np.float32(np.abs(weight).max()) * np.float32(size)
        found = layer(small, "int8", compressed).multiply(x, (1, variant)).astype(np.float64)
        bound = 0.02 * np.abs(small).max(axis=1) * np.abs(x).sum(axis=1, keepdims=True) + tiny
        assert (np.abs(found - x.astype(np.float64) @ small.T.astype(np.float64)) <= bound).all()
        y = x / np.float32(np.abs(x).max()) * np.float32(size)
        found = layer(weight, "int8", compressed).multiply(y, (1, variant)).astype(np.float64)
        bound = 0.02 * np.abs(y).max(axis=1, keepdims=True) * np.abs(weight).sum(axis=1) + tiny
        assert (np.abs(found - y.astype(np.float64) @ weight.T.astype(np.float64)) <= bound).all()


def test_int8_of_so_many_columns_that_sums_are_largest() -> None:
    columns = 1 << 17
    ones = np.ones((1, columns), np.float32)
    for variant in variants():
        found = layer(ones, "int8", False).multiply(np.concatenate([ones, -ones]), (1, variant))
        np.testing.assert_allclose(found, [[columns], [-columns]], rtol=1e-5)
    with pytest.raises(ValueError, match="at most 131072 columns"):
        kernels().Dense(np.ones((1, columns + 1), np.float32), "int8", False)


@pytest.mark.parametrize("item", ITEMS)
def test_kernels_that_expand_nothing_refuse_weights_without_zeros(item: str) -> None:
    weight = sparse_weight(32, 16)
    assert kernels().expands(stored_as(item)) == bool(expanding(item))
    if not expanding(item):
        with pytest.raises(ValueError, match="this CPU reads no such weights without their zeros"):
            layer(weight, item, True)
        return
    linear = layer(weight, item, True)
    for variant in variants():
        if variant not in expanding(item):
            with pytest.raises(ValueError, match=f"kernels {variant} need weights with their zeros"):
                linear.multiply(numbers(2, 16), (1, variant))


def test_what_a_layer_is_made_of_stays_alive() -> None:
    weight, x = sparse_weight(64, 48), numbers(3, 48)
    for sparse in (False, True):
        bias = numbers(64)
        stored = kernels().Sparse(weight, 1) if sparse else kernels().Dense(weight, "float32", False)
        linear = kernels().Linear(stored, bias)
        wanted = x @ weight.T + bias
        del bias, stored
        gc.collect()
        np.empty(4096, np.float32).fill(np.nan)
        np.testing.assert_allclose(linear.multiply(x, (1, "")), wanted, rtol=1e-4, atol=1e-4)


def test_what_does_not_fit_is_refused() -> None:
    weight = sparse_weight(8, 6)
    dense = kernels().Dense(weight, "float32", False)
    linear = kernels().Linear(dense, None)
    for action, problem in (
        (lambda: kernels().Dense(weight, "int4", False), "weights are float32, bfloat16 or int8"),
        (lambda: kernels().Dense(weight[0], "int8", False), "a dense weight is a matrix"),
        (lambda: kernels().Dense(np.zeros((0, 4), np.float32), "int8", False), "a dense weight is a matrix"),
        (lambda: kernels().Linear(None, None), "a linear layer has a sparse, a dense or a gathered weight"),
        (lambda: kernels().Linear(dense, numbers(6)), "a bias has a value for each row"),
        (lambda: kernels().Linear(dense, np.zeros(8)), "Cannot cast array data"),
        (lambda: linear.multiply(numbers(3, 8), (1, "")), "as many columns as the weight"),
        (lambda: linear.multiply(numbers(3, 6), (1, "abacus")), "no kernels abacus"),
        (lambda: linear.multiply(numbers(3, 6), (0, "")), "there is one thread at least"),
    ):
        with pytest.raises((ValueError, RuntimeError, TypeError), match=problem):
            action()
    with pytest.raises(TypeError):
        linear.multiply(numbers(3, 6).astype(np.float64), (1, ""))


def reference(values: NDArray[Any], union: NDArray[np.bool_], mask: NDArray[np.bool_]) -> Floats:
    """As a bundle's reader spreads values, then masks them."""
    dense = np.zeros(union.shape, np.float32)
    dense[union] = values
    return dense * mask


@settings(max_examples=120)
@given(
    rows=st.integers(1, 20),
    columns=st.integers(1, 200),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    half=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_pathway_is_expanded_from_the_unions_values(
    rows: int, columns: int, density: float, half: bool, seed: int
) -> None:
    random = np.random.default_rng(seed)
    union = random.random((rows, columns)) < density
    mask = union & (random.random((rows, columns)) < 0.6)
    values = random.standard_normal(int(union.sum())).astype(np.float16 if half else np.float32)
    bits = pack(union.ravel()), pack(mask[union])
    assert np.array_equal(unpack(bits[0], union.size).reshape(union.shape), union)
    found = kernels().expand(values, *bits, rows, columns)
    assert found.dtype == np.float32 and np.array_equal(found, reference(values, union, mask))


def test_all_halves_are_expanded_exactly() -> None:
    halves = np.arange(65536, dtype=np.uint16).view(np.float16)
    everything = pack(np.ones(halves.size, np.bool_))
    found = kernels().expand(halves, everything, everything, 16, 4096).ravel()
    assert np.array_equal(found, halves.astype(np.float32), equal_nan=True)


def test_bits_that_do_not_fit_are_refused() -> None:
    values, bits = np.ones(3, np.float32), np.array([7], np.uint8)
    for arguments, problem in (
        ((values, bits, bits, 2, 8), "a union has a bit for each weight"),
        ((values, bits, bits, 0, 8), "a union has a bit for each weight"),
        ((values, bits, bits[:0], 1, 8), "a mask has a bit for each value of the union"),
        ((values[:2], bits, bits, 1, 8), "a union has a value for each of its bits"),
        ((values, bits, bits, 1, 2), "a union has a value for each of its bits"),
        ((values.astype(">f4"), bits, bits, 1, 8), "of float32 or float16"),
        ((values.astype(">f2"), bits, bits, 1, 8), "of float32 or float16"),
        ((values.astype(np.float64), bits, bits, 1, 8), "of float32 or float16"),
        ((np.ones(6, np.float32)[::2], bits, bits, 1, 8), "of float32 or float16"),
        ((values[None], bits, bits, 1, 8), "of float32 or float16"),
    ):
        with pytest.raises(ValueError, match=problem):
            kernels().expand(*arguments)
    beyond = np.array([0xFB], np.uint8)  # bits after the last are of nothing
    assert kernels().expand(values[:2], beyond, beyond, 1, 3).tolist() == [[1, 1, 0]]
