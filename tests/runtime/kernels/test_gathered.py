"""Products with weights that n:m masks leave, beside those of the same codes with their zeros."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from asr_pathways.runtime.kernels import available, extension, variants
from asr_pathways.runtime.layers import _mask, formats

pytestmark = pytest.mark.skipif(not available() or not extension.built().gathers(), reason="no kernel gathers here")
Floats = NDArray[np.float32]


def pruned(rows: int, columns: int, granularity: str, share: float = 0.3) -> Floats:
    random = np.random.default_rng(rows * columns)
    weight = random.standard_normal((rows, columns), dtype=np.float32)
    return weight * _mask(random, rows, columns, share, granularity)


def layers(weight: Floats, bias: Floats | None = None, fine: bool = False) -> tuple[Any, Any]:
    """Of gathered codes, and of the same codes with zeros between them."""
    kernels = extension.built()
    made = kernels.Gathered(weight), kernels.Dense(weight, "int8", False)
    return kernels.Linear(made[0], bias, fine), kernels.Linear(made[1], bias, fine)


def assert_same(weight: Floats, n: int, bias: Floats | None = None, threads: int = 1) -> None:
    x = np.random.default_rng(n).standard_normal((n, weight.shape[1]), dtype=np.float32)
    for fine in (False, True):
        gathered, whole = layers(weight, bias, fine)
        wanted = whole.multiply(x, (1, ""))
        np.testing.assert_allclose(gathered.multiply(x, (threads, "")), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("granularity", ["5:16", "10:32", "2:4", "unstructured"])
@pytest.mark.parametrize("shape", [(1, 1), (16, 64), (17, 65), (50, 63), (130, 200), (300, 66)])
def test_a_product_is_that_of_the_codes_with_zeros(granularity: str, shape: tuple[int, int]) -> None:
    weight, bias = pruned(*shape, granularity), np.arange(shape[0], dtype=np.float32)
    for n in (0, 1, 2, 5, 15, 16, 17, 33, 500):
        assert_same(weight, n)
        assert_same(weight, n, bias, threads=3)


@settings(max_examples=60)
@given(data=st.data())
def test_any_pattern(data: st.DataObject) -> None:
    rows, columns, n = (data.draw(st.integers(1, most)) for most in (70, 260, 40))
    weight = pruned(rows, columns, "unstructured", data.draw(st.sampled_from([0.0, 0.02, 0.5, 1.0])))
    weight[data.draw(st.integers(0, rows - 1))] = 0
    weight[:, data.draw(st.integers(0, columns - 1))] = 0
    assert_same(weight, n)


def test_what_is_not_finite_shows() -> None:
    weight = pruned(40, 90, "5:16")
    x = np.ones((3, 90), np.float32)
    x[1, 4] = np.nan
    found = layers(weight)[0].multiply(x, (1, ""))
    assert np.isnan(found[1]).all() and np.isfinite(found[[0, 2]]).all()
    weight[7, 3] = np.inf
    assert np.isnan(layers(weight)[0].multiply(np.ones((2, 90), np.float32), (1, ""))[:, 7]).all()


def test_kernels_that_gather_nothing_refuse_it() -> None:
    gathered, _ = layers(pruned(16, 64, "5:16"))
    for variant in variants()[1:]:
        with pytest.raises(ValueError, match=f"kernels {variant} gather no activations"):
            gathered.multiply(np.ones((2, 64), np.float32), (1, variant))


def test_it_is_a_format_of_such_masks_alone() -> None:
    assert [one.name for one in formats("auto", granularity="5:16") if one.kind == "gathered"] == ["gathered int8"]
    for precision, granularity in (("float32", "5:16"), ("auto", "unstructured"), ("auto", "block:4x1")):
        assert not [one for one in formats(precision, granularity=granularity) if one.kind == "gathered"]  # type: ignore[arg-type]
