"""Which format a layer is stored in, and what is known of it from another run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from asr_pathways.errors import PathwaysError
from asr_pathways.runtime import layers as module
from asr_pathways.runtime.kernels import available
from asr_pathways.runtime.layers import FEW, MANY, TOLERANCE, Format, Layers, Product, Timing, formats

pytestmark = pytest.mark.skipif(not available(), reason="the kernels were not built")
RUNNER = (1, "")


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "asr-pathways"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The products that are measured."""
    products: list[tuple[int, ...]] = []
    measure = module._Known._measure

    def noted(known: Any, *product: int) -> dict[str, list[float]]:
        products.append(product)
        return measure(known, *product)

    monkeypatch.setattr(module._Known, "_measure", noted)
    return products


def weight(out: int = 24, into: int = 16) -> NDArray[np.float32]:
    random = np.random.default_rng(out)
    return (random.standard_normal((out, into)) * (random.random((out, into)) < 0.3)).astype(np.float32)


def pretend(monkeypatch: pytest.MonkeyPatch, costs: dict[str, tuple[float, float, float]]) -> None:
    """Formats cost what a test says, those that it does not name too much."""
    measured = lambda known, *_: {one.name: list(costs.get(one.name, (9.0, 0.0, 9.0))) for one in known._formats}  # noqa: E731
    monkeypatch.setattr(module._Known, "_measure", measured)


@pytest.mark.parametrize("rows", [FEW, MANY])
@pytest.mark.parametrize("one", formats("auto"), ids=lambda one: one.name)
def test_each_format_is_the_product_within_its_error(one: Format, rows: int) -> None:
    x, bias = np.random.default_rng(1).standard_normal((rows, 64), dtype=np.float32), np.arange(48, dtype=np.float32)
    dense = weight(48, 64)
    compiled, nbytes = one.store(dense, "unstructured")
    found, exact = one.layer(compiled, bias, rows).multiply(x, RUNNER), x @ dense.T + bias
    assert np.sqrt(np.mean((found - exact) ** 2)) <= (1e-6 if one.item == "float32" else TOLERANCE) * np.std(
        x @ dense.T
    )
    assert nbytes > np.count_nonzero(dense)


def test_a_shape_is_measured_once(measured: list[tuple[int, ...]], cache: Path) -> None:
    layers = Layers()
    for _ in range(3):
        layers.linear(weight(), None, FEW)
    assert measured == [(24, 16, 30, FEW)]
    layers.linear(weight(), None, MANY)
    Layers().linear(weight(), None, FEW)  # another model in another process
    assert measured == [(24, 16, 30, FEW), (24, 16, 30, MANY)]
    (path,) = cache.iterdir()
    assert path.name.startswith("timings-") and len(json.loads(path.read_text())) == 2
    for threads, granularity in ((2, "unstructured"), (1, "block:4x1")):
        Layers("auto", granularity, threads).linear(weight(), None, FEW)
    assert len(measured) == 4
    assert [timing.format for timing in Layers().plan.get(Product(24, 16, 30, FEW), [])] == []
    assert {timing.format for timing in layers.plan[Product(24, 16, 30, FEW)]} == set(formats("auto"))


@pytest.mark.parametrize(
    ("granularity", "share", "unit"),
    [("unstructured", 0.3, (1, 1)), ("block:4x1", 0.3, (4, 1)), ("block:8x2", 0.5, (8, 2)), ("5:16", 0.3125, (1, 16))],
)
def test_products_are_timed_by_weights_of_the_granularity(
    granularity: str, share: float, unit: tuple[int, int]
) -> None:
    mask = module._mask(np.random.default_rng(0), 256, 320, share, granularity)
    assert mask.shape == (256, 320) and mask.mean() == pytest.approx(share, abs=0.02)
    counts = mask.reshape(256 // unit[0], unit[0], 320 // unit[1], unit[1]).sum((1, 3))
    assert set(counts.ravel()) == ({5} if granularity == "5:16" else {0, unit[0] * unit[1]})
    assert module._mask(np.random.default_rng(0), 7, 9, 1.0, granularity).all()
    assert module._mask(np.random.default_rng(0), 7, 9, 0.3, granularity).shape == (7, 9)


def test_float32_needs_no_new_timings_after_auto(measured: list[tuple[int, ...]]) -> None:
    Layers("float32").linear(weight(), None, FEW)
    Layers("auto").linear(weight(), None, FEW)
    Layers("float32").linear(weight(), None, FEW)
    assert len(measured) == 2


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "[1]",
        "null",
        '{"KEY": 3}',
        '{"KEY": {"sparse float32": [1]}}',
        '{"KEY": {"sparse float32": ["a", 0, 1]}}',
        '{"KEY": {"sparse float32": [NaN, 0, 1]}}',
        '{"KEY": {"sparse float32": [Infinity, 0, 1]}}',
        '{"KEY": {"sparse float32": [-1, 0, 1]}}',
        '{"KEY": {"sparse float32": [1' + "0" * 400 + ", 0, 1]}}",
        "[" * 100_000,
        "\udcff",
    ],
)
def test_a_broken_file_is_measured_again(content: str, cache: Path, measured: list[tuple[int, ...]]) -> None:
    Layers().linear(weight(), None, FEW)
    (path,) = cache.iterdir()
    key = next(iter(json.loads(path.read_text())))
    path.write_bytes(content.replace("KEY", key).encode(errors="surrogateescape"))
    Layers().linear(weight(), None, FEW)
    assert len(measured) == 2
    Layers().linear(weight(), None, FEW)  # mended
    assert len(measured) == 2


def test_a_format_that_the_file_lacks_is_measured(cache: Path, measured: list[tuple[int, ...]]) -> None:
    Layers().linear(weight(), None, FEW)
    (path,) = cache.iterdir()
    entries = json.loads(path.read_text())
    for entry in entries.values():
        del entry["dense int8"]
    path.write_text(json.dumps(entries))
    Layers().linear(weight(), None, FEW)
    assert len(measured) == 2


def test_a_folder_that_cannot_be_written_to(cache: Path, measured: list[tuple[int, ...]]) -> None:
    cache.write_text("a file where the folder would be")
    for _ in range(2):
        Layers().linear(weight(), None, FEW)
    assert len(measured) == 2


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, measured: list[Any]) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.chdir(tmp_path)
    Layers().linear(weight(), None, FEW)
    assert len(measured) == 1 and not list(tmp_path.iterdir())


def test_float32_never_picks_another_item(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, {"dense int8": (1e-9, 0.0, 1.0), "dense bfloat16": (1e-9, 0.0, 1.0)})
    layers = Layers("float32")
    layers.linear(weight(), None, FEW)
    assert {timing.format.item for timings in layers.plan.values() for timing in timings} == {"float32"}
    assert layers.attention == "float32"
    with pytest.raises(PathwaysError, match="precision: 'float16': choose auto or float32"):
        Layers("float16")  # type: ignore[arg-type]


def test_the_fastest_within_the_tolerance_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(rows: int, **costs: tuple[float, float, float]) -> str:
        pretend(monkeypatch, {name.replace("_", " "): cost for name, cost in costs.items()})
        layers = Layers()
        layers._known._entries.clear()
        layers.linear(weight(), None, rows)
        (timings,) = layers.plan.values()
        return timings[0].format.name

    exact = (2.0, 0.0, 5.0)
    assert chosen(FEW, dense_float32=exact, dense_int8=(1.0, TOLERANCE, 9.0)) == "dense int8"
    assert chosen(FEW, dense_float32=exact, dense_int8=(1.0, 1.01 * TOLERANCE, 1.0)) == "dense float32"
    # nearly as fast, and smaller
    assert chosen(FEW, dense_float32=exact, dense_int8=(2.9, 0.0, 1.0)) == "dense int8"
    assert chosen(MANY, dense_float32=exact, dense_int8=(2.9, 0.0, 1.0)) == "dense float32"
    assert chosen(MANY, dense_float32=exact, dense_int8=(2.1, 0.0, 1.0)) == "dense int8"
    # float32 is there whatever its error is said to be
    assert chosen(FEW, dense_float32=(1.0, 0.5, 5.0), dense_int8=(0.1, 0.5, 1.0), sparse_float32=(9.0, 0.5, 9.0)) == (
        "dense float32"
    )


def test_the_chosen_timing_comes_first_then_the_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, {"dense float32": (2.0, 0.0, 5.0), "dense int8": (1.0, 0.5, 1.0)})
    layers = Layers()
    layers.linear(weight(), None, FEW)
    first, *others = layers.plan[Product(24, 16, 30, FEW)]
    assert first == Timing(Format("float32", "dense"), 2.0, 0.0, 5.0)
    assert [timing.seconds for timing in others] == sorted(timing.seconds for timing in others)


def test_weights_that_are_no_matrices_are_refused() -> None:
    for shape in ((3,), (0, 4), (4, 0), (2, 2, 2)):
        with pytest.raises(ValueError, match="a weight of shape"):
            Layers().linear(np.zeros(shape, np.float32), None, FEW)
    layer, _ = Layers().linear(np.zeros((5, 3), np.float32), np.arange(5, dtype=np.float32), FEW)
    assert layer.multiply(np.ones((1, 3), np.float32), RUNNER).tolist() == [[0, 1, 2, 3, 4]]


def test_the_output_layer_is_made_once() -> None:
    layers, embedding = Layers(), weight()
    assert layers.output(embedding, None, RUNNER) is layers.output(embedding, None, RUNNER)


def test_torch_is_not_imported() -> None:
    code = (
        "import sys, numpy; from asr_pathways.runtime.layers import Layers; "
        "import asr_pathways.runtime.whisper.network; Layers().linear(numpy.eye(8, dtype='f'), None, 1); "
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
