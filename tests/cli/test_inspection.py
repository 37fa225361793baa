from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from asr_pathways.cli.inspection import plan_table
from asr_pathways.errors import PathwaysError
from asr_pathways.runtime.kernels import available
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


def test_other_models_have_no_plan(dense_model: Path, hub_folder: Callable[[str], Path]) -> None:  # noqa: F811
    for model in (dense_model, hub_folder("hubert")):
        with pytest.raises(PathwaysError, match="only products of a Whisper are computed in several ways"):
            plan_table(model)
    with pytest.raises(PathwaysError, match="nothing"):
        plan_table(dense_model / "nothing")
