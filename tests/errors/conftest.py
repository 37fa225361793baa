"""The folder in which the commands of the table are given."""

from __future__ import annotations

from pathlib import Path

import pytest

from asr_pathways.bundle.bundle import write_bundle
from asr_pathways.bundle.load import load_model
from asr_pathways.training.config import PruneRecipe
from asr_pathways.training.prune import prune
from tests.errors.case import sound

RECIPE = """
optimizer: {steps: 3, peak_lr: 1.0e-3}
data: {max_seconds: 2, prefetch: 0}
evaluation: {every: 3, utterances: 1, keep_best: 1}
checkpoint_every: 1
keep_last: 1
calibration_batches: 1
"""


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory, dense_model: Path, speech: Path) -> dict[str, Path]:
    """What every command finds, by name; only linked to, so not to be changed."""
    folder = tmp_path_factory.mktemp("places")
    (folder / "recipe.yaml").write_text(RECIPE)
    recipe = PruneRecipe.read(folder / "recipe.yaml")

    def pruned(name: str, method: str, recipe: PruneRecipe) -> Path:
        prune(dense_model, speech, folder / name, method=method, sparsity=0.5, recipe=recipe)
        return folder / name

    sparse = pruned("sparse", "dynamic", recipe.with_steps(0))
    write_bundle(load_model(sparse), folder / "sparse.asrp", "float16")
    sound("hello.wav", 1, value=0.1)(folder)
    return {
        "dense": dense_model,
        "data": speech,
        "sparse": sparse,
        "interrupted": pruned("interrupted", "imp", recipe),
        **{name: folder / name for name in ("sparse.asrp", "hello.wav", "recipe.yaml")},
    }


@pytest.fixture
def here(tmp_path: Path, places: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with links to them, which is the current one."""
    for name, path in places.items():
        (tmp_path / name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path
