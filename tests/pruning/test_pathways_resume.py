from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import AdamW

from asr_pathways import PathwayConfig, Pathways
from asr_pathways.errors import PathwaysError
from tests.pruning.conftest import Recogniser, tokens
from tests.same import same

CONFIGS: dict[str, dict[str, Any]] = {
    "dynamic": {"score": "activation", "adapt_every": 2},
    "rigl": {"score": "gradient", "gradient": "frozen", "adapt_every": 2, "adapt_until": 20},
    "adaptive": {"schedule": "iterative", "prune_every": 3, "adapt_every": 1, "shared": True},
    "lth": {"schedule": "iterative", "prune_start": 2, "prune_every": 2, "gradient": "frozen", "rewind": True},
    "parp": {"schedule": "linear", "prune_every": 2, "prune_stages": 4, "gradient": "parp", "shared": True},
}
LANGUAGES = {"en": (0, 6), "fr": (5, 11)}


class Run:
    """A training run whose every step is decided by its number."""

    def __init__(self, options: dict[str, Any]) -> None:
        torch.manual_seed(1)
        self.model = Recogniser()
        self.pathways = Pathways.attach(self.model, PathwayConfig(sparsity=0.6, **options), list(LANGUAGES))
        self.optimizer = AdamW(self.model.parameters(), lr=1e-2)

    def steps(self, first: int, last: int) -> None:
        for number in range(first, last):
            language = list(LANGUAGES)[number // 2 % 2]
            self.optimizer.zero_grad()
            with self.pathways.use(language):
                self.model(tokens(number, *LANGUAGES[language])).square().mean().backward()
            self.optimizer.step()
            self.pathways.step(self.optimizer)

    def parts(self) -> dict[str, Any]:
        return {"model": self.model, "optimizer": self.optimizer, "pathways": self.pathways}


@pytest.mark.parametrize("options", CONFIGS.values(), ids=CONFIGS)
def test_a_resumed_run_is_the_run_that_never_stopped(options: dict[str, Any]) -> None:
    straight, stopped, resumed = Run(options), Run(options), Run(options)
    straight.steps(0, 14)
    stopped.steps(0, 7)
    stream = io.BytesIO()
    torch.save({name: part.state_dict() for name, part in stopped.parts().items()}, stream)
    stopped.steps(7, 9)  # what is in a checkpoint does not change with the run that wrote it
    stream.seek(0)
    state = torch.load(stream, weights_only=True)
    for name, part in resumed.parts().items():
        part.load_state_dict(state[name])
    resumed.steps(7, 14)
    for name, part in resumed.parts().items():
        assert same(part.state_dict(), straight.parts()[name].state_dict()), name


@pytest.mark.parametrize("score", ["activation", "fisher", "sensitivity"])
def test_saved_pathways_train_on_without_calibration(tmp_path: Path, score: str) -> None:
    """A folder has no statistics; the first step after it is read observes, whatever the clock says."""
    layers = {"exclude": ("convolution", "recurrent", "attention")} if score == "fisher" else {}
    run = Run({"score": score, "adapt_every": 2, **layers})
    run.steps(0, 1)
    run.pathways.save(tmp_path / "pathways")
    run.pathways.detach()
    run.pathways = Pathways.load(run.model, tmp_path / "pathways")
    run.steps(1, 6)
    assert run.pathways.state_dict()["own_steps"] == {"en": 4, "fr": 2}


def test_a_state_of_other_pathways_is_refused() -> None:
    run = Run(CONFIGS["dynamic"])
    state = run.pathways.state_dict()
    other = Pathways.attach(Recogniser(), PathwayConfig(sparsity=0.6), list(LANGUAGES))
    with pytest.raises(PathwaysError, match="score was activation, is magnitude"):
        other.load_state_dict(state)
    with pytest.raises(PathwaysError, match="not a state of pathways"):
        other.load_state_dict({"step": 3})
    fewer = Pathways.attach(Recogniser(), run.pathways.config, ["en"])
    with pytest.raises(PathwaysError, match="languages are en, fr"):
        fewer.load_state_dict(state)
