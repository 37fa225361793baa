from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from asr_pathways.cli.inspection import plan_table
from asr_pathways.errors import PathwaysError
from asr_pathways.runtime.kernels import available, extension
from asr_pathways.runtime.layers import formats
from tests.models.hub.conftest import hub_folder  # noqa: F401


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.skipif(not available(), reason="the kernels were not built")
def test_the_plan_has_all_formats_of_all_products_and_marks_one(hub_folder: Callable[[str], Path]) -> None:  # noqa: F811
    table = plan_table(hub_folder("whisper"))
    cells = {str(column.header): list(column.cells) for column in table.columns}
    products = [name for name in cells["weight"] if name]
    assert "16x16" in products and "16x240" in products
    assert len(cells["format"]) == len(products) * len(formats("auto"))
    assert [bool(name) for name in cells["weight"]] == [used == "*" for used in cells["used"]]
    assert {one.name for one in formats("auto")} == set(cells["format"])
    assert all(float(cell.replace(",", "")) > 0 for cell in cells["microseconds"])


@pytest.mark.skipif(not available(), reason="the kernels were not built")
def test_a_plan_of_a_streaming_model_and_of_one_of_the_hub(
    dense_model: Path,
    hub_folder: Callable[[str], Path],  # noqa: F811
) -> None:
    table = plan_table(dense_model)
    cells = {str(column.header): list(column.cells) for column in table.columns}
    assert {"32x16", "16x32"} <= set(cells["weight"])
    # one stream's chunk, and exact: a step of the predictor, and what the joiner scores at a time
    assert {"5", "1 exact", "8 exact"} <= set(cells["rows"])
    assert set(cells["format"]) == {one.name for one in formats("auto")}
    table = plan_table(hub_folder("hubert"))
    cells = {str(column.header): list(column.cells) for column in table.columns}
    assert {"16x16", "32x16"} <= set(cells["weight"]) and {"256"} == {rows for rows in cells["rows"] if rows}
    assert "torch float32" in cells["format"]


def test_what_has_no_plan_says_so(
    dense_model: Path,
    hub_folder: Callable[[str], Path],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(PathwaysError, match="nothing"):
        plan_table(dense_model / "nothing")
    monkeypatch.setattr(extension, "compiled", None)
    for model in (dense_model, hub_folder("hubert")):
        with pytest.raises(PathwaysError, match="the sparse kernels were not built: torch computes all products"):
            plan_table(model)
