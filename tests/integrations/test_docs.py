from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.integrations.test_lightning import Module
from tests.integrations.tiny import Noise

PAGE = Path(__file__).parents[2] / "docs" / "loops.md"


@pytest.mark.filterwarnings("ignore")  # of Lightning, about few workers and batches
def test_every_snippet_of_the_page_runs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Module()
    names: dict[str, Any] = {
        "torch": torch,
        "module": module,
        "model": module.model,
        "items": Noise(),
        "out": str(tmp_path / "out"),
        "checkpoint": tmp_path / "checkpoint.pt",
    }
    snippets = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(snippets) == 7
    for snippet in snippets:
        exec(compile(snippet, str(PAGE), "exec"), names)
    assert names["pathways"].steps == 6 + 4 + 2  # three epochs of two batches, two of two, and one
    assert names["MyTrainer"].training_step.__qualname__.startswith("PathwaysMixin")
