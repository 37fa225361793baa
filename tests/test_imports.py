"""What has to be ready fast imports neither torch nor transformers."""

from __future__ import annotations

import subprocess
import sys

import pytest

WITHOUT_TORCH = (
    "bundle.reading",
    "data.audio",
    "data.features",
    "data.languages",
    "model_folder.card",
    "pruning.config",
    "runtime.kernels",
    "runtime.results",
    "runtime.whisper.alignment",
    "runtime.whisper.features",
    "runtime.whisper.tokens",
)
SLOW = ("torch", "transformers", "scipy", "lhotse")


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_it_is_imported_without_torch(module: str) -> None:
    code = f"import sys, asr_pathways.{module}; print(*[name for name in {SLOW} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
