"""The output layer: its choice is that of all logits in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from asr_pathways.runtime.kernels import available, extension, variants

pytestmark = pytest.mark.skipif(not available(), reason="the kernels were not built")
Floats = NDArray[np.float32]
TABLES = (
    *("random", "near ties", "huge rows", "tiny rows", "zero rows", "equal rows", "one direction", "single columns"),
    *("a common mean", "equal columns", "huge columns", "spikes", "whole numbers"),
)
HIDDENS = ("random", "a row", "against a row", "huge", "tiny", "zeros", "one spike", "half codes", "whole numbers")


def output(table: NDArray[Any], ids: list[int] | None = None) -> Any:
    return extension.built().Output(table, ids, (1, ""))


def table_of(kind: str, rows: int, dim: int, random: np.random.Generator) -> Floats:
    table: Floats = random.standard_normal((rows, dim), dtype=np.float32)
    if kind == "near ties":
        table = table[:1] + 1e-4 * table
    if kind == "huge rows":
        table[:: max(1, rows // 5)] *= 1e3
    if kind == "tiny rows":
        table[:: max(1, rows // 5)] *= 1e-6
    if kind == "zero rows":
        table[random.random(rows) < 0.5] = 0
    if kind == "equal rows":
        table[:] = table[random.integers(0, min(3, rows), rows)]
    if kind == "one direction":
        table = np.outer(np.linspace(1, 1.0001, rows), table[0]).astype(np.float32)
    if kind == "single columns":
        table[:] = 0
        table[np.arange(rows), random.integers(0, dim, rows)] = 1
    if kind == "a common mean":
        table = 0.1 * table + 30 * random.standard_normal((1, dim), dtype=np.float32)
    if kind == "equal columns":  # without a deviation
        table[:, random.random(dim) < 0.5] = 3
    if kind == "huge columns":
        table[:, random.random(dim) < 0.2] *= 1e3
    if kind == "spikes":  # 4 bits leave nothing else of such rows
        spiked = random.random(rows) < 0.2
        table[spiked, random.integers(0, dim, spiked.sum())] = 1e4
    if kind == "whole numbers":  # whose products have no rounding, and many ties
        table = random.integers(-3, 4, (rows, dim)).astype(np.float32)
    return table


def hidden_of(kind: str, table: Floats, random: np.random.Generator) -> Floats:
    dim = table.shape[1]
    hidden: Floats = random.standard_normal((1, dim), dtype=np.float32)
    if kind == "a row":
        hidden = table[random.integers(0, len(table))][None].copy()
    if kind == "against a row":
        hidden = -table[random.integers(0, len(table))][None]
    if kind == "huge":
        hidden *= 1e12
    if kind == "tiny":
        hidden *= 1e-12
    if kind == "zeros":
        hidden[:] = 0
    if kind == "one spike":
        hidden[0, random.integers(0, dim)] = 1e6
    if kind == "half codes":  # the farthest from all codes
        hidden = ((random.integers(-126, 126, (1, dim)) + 0.5) / 127).astype(np.float32)
    if kind == "whole numbers":
        hidden = random.integers(-9, 10, (1, dim)).astype(np.float32)
    return hidden


def assert_best(found: Any, table: NDArray[Any], hidden: Floats, count: int, allowed: NDArray[np.intp]) -> None:
    """The best of the float32 logits; of those that differ by less than sums in float32 may, any."""
    tokens, logits, sums, _ = found
    wide, x = table[allowed].astype(np.float64), hidden.astype(np.float64)
    exact = x @ wide.T
    slack = 1e-6 * np.linalg.norm(x, axis=1, keepdims=True) * np.linalg.norm(wide, axis=1)
    for row in range(len(hidden)):
        there = min(count, len(allowed))
        assert (tokens[row, there:] == -1).all() and (logits[row, there:] == -np.inf).all()
        chosen = tokens[row, :there]
        assert len(set(chosen.tolist())) == there and set(chosen.tolist()) <= set(allowed.tolist())
        places = np.searchsorted(allowed, chosen)
        assert (np.abs(logits[row, :there] - exact[row, places]) <= slack[row, places] + 1e-30).all()
        assert (np.diff(logits[row, :there]) <= 0).all()
        others = np.delete(np.arange(len(allowed)), places)
        worst = places[-1]
        assert (exact[row, others] <= exact[row, worst] + slack[row, others] + slack[row, worst]).all()
        assert np.isfinite(sums[row]) and sums[row] >= logits[row, 0] - 0.05 * (1 + slack[row].max() / 1e-6)


@settings(max_examples=200)
@given(data=st.data())
def test_the_best_are_those_of_float32_logits(data: st.DataObject) -> None:
    random = np.random.default_rng(data.draw(st.integers(0, 999)))
    rows, dim = data.draw(st.integers(1, 300)), data.draw(st.integers(1, 100))
    table = table_of(data.draw(st.sampled_from(TABLES)), rows, dim, random)
    hidden = np.concatenate(
        [hidden_of(data.draw(st.sampled_from(HIDDENS)), table, random) for _ in range(data.draw(st.integers(1, 3)))]
    )
    stored: NDArray[Any] = table.astype(np.float16) if data.draw(st.booleans()) else table
    ids = np.sort(random.permutation(rows)[: data.draw(st.integers(1, rows))]) if data.draw(st.booleans()) else None
    banned = (random.random(rows) < 0.3).astype(np.uint8) if data.draw(st.booleans()) else None
    allowed = np.arange(rows) if ids is None else ids
    allowed = allowed if banned is None else allowed[banned[allowed] == 0]
    count = data.draw(st.integers(1, 6))
    runner = (data.draw(st.integers(1, 3)), data.draw(st.sampled_from(variants())))
    made = output(stored, None if ids is None else ids.tolist())
    if len(allowed):
        assert_best(made.best(hidden, count, banned, runner), stored, hidden, count, allowed)
    else:
        assert (made.best(hidden, count, banned, runner)[0] == -1).all()


@settings(max_examples=100)
@given(data=st.data())
def test_of_products_without_rounding_the_tokens_and_their_order_are_those_of_the_dense_product(
    data: st.DataObject,
) -> None:
    random = np.random.default_rng(data.draw(st.integers(0, 999)))
    rows, dim, count = data.draw(st.integers(1, 300)), data.draw(st.integers(1, 200)), data.draw(st.integers(1, 6))
    largest = data.draw(st.sampled_from([1, 3, 100]))
    table = random.integers(-largest, largest + 1, (rows, dim)).astype(np.float32)
    if data.draw(st.booleans()):  # apart by one, in a direction that they share
        table = table[:1] + (random.random((rows, dim)) < 0.02)
    hidden = random.integers(-largest, largest + 1, (3, dim)).astype(np.float32)
    runner = (data.draw(st.integers(1, 3)), data.draw(st.sampled_from(variants())))
    tokens, logits, _, _ = output(table).best(hidden, count, None, runner)
    exact = hidden @ table.T
    order = np.argsort(-exact, axis=1, kind="stable")[:, :count]  # the first of equal ones first
    there = order.shape[1]
    assert tokens[:, :there].tolist() == order.tolist() and (tokens[:, there:] == -1).all()
    assert logits[:, :there].tolist() == np.take_along_axis(exact, order, 1).tolist()


@pytest.mark.parametrize("variant", variants())
@pytest.mark.parametrize("spread", [1.0, 0.3, 3.0])
def test_rows_with_much_in_common_leave_few_in_play_and_log_sums_to_a_hundredth(variant: str, spread: float) -> None:
    """As those of a trained model: a common mean, columns of different sizes, and a token that is likely."""
    random = np.random.default_rng(1)
    table = random.standard_normal((20_000, 96), dtype=np.float32) * random.uniform(0.2, 3, 96).astype(np.float32)
    table += 5 * random.standard_normal(96, dtype=np.float32)
    hidden = random.standard_normal((3, 96), dtype=np.float32) + table[[5, 19_999, 7_000]] / 9
    hidden *= spread / 4
    tokens, _, sums, rescored = output(table.astype(np.float16)).best(hidden, 2, None, (2, variant))
    exact = hidden.astype(np.float64) @ table.astype(np.float16).astype(np.float64).T
    assert tokens.tolist() == np.argsort(-exact, axis=1)[:, :2].tolist()
    largest = exact.max(1, keepdims=True)
    np.testing.assert_allclose(sums, np.log(np.exp(exact - largest).sum(1)) + largest[:, 0], rtol=0, atol=0.01)
    assert rescored < 3 * 1500


def test_the_first_of_equal_tokens_is_chosen() -> None:
    table = np.ones((40, 16), np.float32)
    banned = np.zeros(40, np.uint8)
    banned[:2] = 1
    for variant in variants():
        tokens, logits, sums, rescored = output(table).best(np.ones((1, 16), np.float32), 3, banned, (1, variant))
        assert tokens.tolist() == [[2, 3, 4]] and logits.tolist() == [[16.0] * 3] and rescored == 38
        np.testing.assert_allclose(sums, 16 + np.log(38), rtol=1e-4)


def test_few_tokens_are_scored_exactly() -> None:
    random = np.random.default_rng(0)
    table = random.standard_normal((5000, 64), dtype=np.float32)
    hidden = random.standard_normal((4, 64), dtype=np.float32)
    tokens, _, sums, rescored = output(table).best(hidden, 1, None, (1, ""))
    exact = hidden @ table.T
    assert tokens[:, 0].tolist() == exact.argmax(1).tolist()
    assert rescored < 0.02 * exact.size
    np.testing.assert_allclose(sums, np.log(np.exp(exact.astype(np.float64)).sum(1)), atol=0.01)


def test_what_is_not_finite_is_refused() -> None:
    table, hidden = np.ones((20, 8), np.float32), np.ones((1, 8), np.float32)
    for value in (np.nan, np.inf, -np.inf):
        broken = hidden.copy()
        broken[0, 3] = value
        with pytest.raises(ValueError, match="logits are not finite"):
            output(table).best(broken, 1, None, (1, ""))
        broken = table.copy()
        broken[17, 7] = value
        with pytest.raises(ValueError, match="the output layer is not finite"):
            output(broken)
    with pytest.raises(ValueError, match="logits are not finite"):
        output(1e30 * table).best(1e30 * hidden, 1, None, (1, ""))


def test_what_does_not_fit_is_refused() -> None:
    table, hidden = np.ones((20, 8), np.float32), np.ones((1, 8), np.float32)
    made = output(table)
    for action, problem in (
        (lambda: output(table.astype(">f2")), "contiguous rows of float32 or float16"),
        (lambda: output(table.astype(np.float64)), "contiguous rows of float32 or float16"),
        (lambda: output(table.T), "contiguous rows of float32 or float16"),
        (lambda: output(table[0]), "contiguous rows of float32 or float16"),
        (lambda: output(table[:0]), "contiguous rows of float32 or float16"),
        (lambda: output(table, []), "an output layer has tokens"),
        (lambda: output(table, [20]), "there is no such token"),
        (lambda: output(table, [-1]), "there is no such token"),
        (lambda: made.best(hidden[:, :4], 1, None, (1, "")), r"the output layer reads \(n, dim\)"),
        (lambda: made.best(hidden, 0, None, (1, "")), "one token at least"),
        (lambda: made.best(hidden, 1, np.zeros(19, np.uint8), (1, "")), "banned has a byte for each token"),
        (lambda: made.best(hidden, 1, np.zeros(20, np.int64), (1, "")), "Cannot cast"),
    ):
        with pytest.raises((ValueError, TypeError), match=problem):
            action()
    assert made.best(hidden[:0], 1, None, (1, ""))[0].shape == (0, 1)
