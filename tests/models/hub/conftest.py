from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.models.hub.tiny import MAKERS


@pytest.fixture(scope="session")
def hub_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the folder of a tiny random model of some kind; tests must not change it."""
    root = tmp_path_factory.mktemp("hub")

    @cache
    def make(kind: str) -> Path:
        return MAKERS[kind](root / kind)

    return make
