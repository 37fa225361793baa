"""Languages that were added, in folders and in checkpoints."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import AdamW

from asr_pathways import PathwayConfig, Pathways
from asr_pathways.errors import PathwaysError
from tests.pruning.speller import CONFIGS, Speller, copied, logits, same, teach, train, trained


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    sparsities=st.lists(st.sampled_from([0.8, 0.9, 0.95]), min_size=1, max_size=2),
    steps=st.integers(0, 3),
    vocabulary=st.sampled_from([11, 14]),
    score=st.sampled_from(["magnitude", "activation"]),
    seed=st.integers(0, 99),
)
def test_what_is_saved_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    sparsities: list[float],
    steps: int,
    vocabulary: int,
    score: str,
    seed: int,
) -> None:
    model, pathways = trained(score=score, adapt_every=2)
    for number, sparsity in enumerate(sparsities):
        language = f"added{number}"
        pathways.add(language, sparsity)
        pathways.set_language_tensors(
            language, {"embedding.weight": torch.randn(vocabulary, 8), "output.bias": torch.ones(vocabulary)}
        )
        optimizer = AdamW(pathways.parameters(language).values(), lr=1e-2)
        for step in range(steps):
            train(model, pathways, optimizer, language, seed + step)
    folder = tmp_path_factory.mktemp("saved") / "pathways"
    pathways.save(folder)
    assert {path.name for path in folder.iterdir()} == {"pathways.json", "masks.safetensors", "own.safetensors"}
    twin = Speller()
    twin.load_state_dict(model.state_dict())
    loaded = Pathways.load(twin, folder)
    assert loaded.languages == pathways.languages
    assert loaded.summary() == pathways.summary() and loaded.overlap() == pathways.overlap()
    for language in pathways.languages:
        assert same(loaded.extract(language), pathways.extract(language))
    drop = ("statistics", "start")
    found, expected = loaded.state_dict(), pathways.state_dict()
    assert same({k: v for k, v in found.items() if k not in drop}, {k: v for k, v in expected.items() if k not in drop})
    model.fleeting.zero_()
    for own in [pathways.language_tensors(language) for language in pathways.languages[2:]]:
        own["fleeting"].zero_()  # what is not in a model's state is not in ours
    assert same(logits(twin, loaded, loaded.languages), logits(model, pathways, pathways.languages))


@pytest.mark.parametrize("options", CONFIGS.values(), ids=CONFIGS)
def test_a_resumed_run_is_the_run_that_never_stopped(options: dict[str, Any]) -> None:
    class Run:
        def __init__(self) -> None:
            self.model, self.pathways = trained(**options)
            self.old = logits(self.model, self.pathways, ["en", "fr"])
            self.pathways.add("it", 0.75)
            self.optimizer = AdamW(self.pathways.parameters("it").values(), lr=1e-2, weight_decay=0.5)

        def steps(self, first: int, last: int) -> None:
            for seed in range(first, last):
                train(self.model, self.pathways, self.optimizer, "it", seed)

        def parts(self) -> dict[str, Any]:
            return {"model": self.model, "optimizer": self.optimizer, "pathways": self.pathways}

    straight, stopped, resumed = Run(), Run(), Run()
    straight.steps(0, 9)
    stopped.steps(0, 5)
    stream = io.BytesIO()
    torch.save({name: part.state_dict() for name, part in stopped.parts().items()}, stream)
    stream.seek(0)
    for name, part in resumed.parts().items():
        part.load_state_dict(torch.load(stream, weights_only=True)[name])
        stream.seek(0)
    resumed.pathways.language_tensors("it")["fleeting"].copy_(stopped.pathways.language_tensors("it")["fleeting"])
    resumed.steps(5, 9)
    for name, part in resumed.parts().items():
        assert same(part.state_dict(), straight.parts()[name].state_dict()), name
    assert same(logits(resumed.model, resumed.pathways, ["en", "fr"]), resumed.old)


def test_going_back_to_what_was_saved_keeps_the_parameters(tmp_path: Path) -> None:
    model, pathways = trained(adapt_every=2)
    pathways.add("it")
    pathways.save(tmp_path / "early")
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    before, parameter = logits(model, pathways, pathways.languages), copied(pathways, "it")["norm.bias"]
    teach(model, pathways, "it")
    model.load_state_dict(weights)
    pathways.load_masks(tmp_path / "early")
    pathways.language_tensors("it")["fleeting"].copy_(model.fleeting)
    assert same(logits(model, pathways, pathways.languages), before)
    assert copied(pathways, "it")["norm.bias"] is parameter and parameter.grad is None


def test_without_language_tensors_there_is_no_file_of_them(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Tanh(), nn.Linear(8, 4, bias=False))
    pathways = Pathways.attach(model, PathwayConfig(sparsity=0.8), ["en"])
    pathways.save(tmp_path / "pathways")
    pathways.add("it")
    pathways.save(tmp_path / "pathways")
    assert {path.name for path in (tmp_path / "pathways").iterdir()} == {"pathways.json", "masks.safetensors"}
    assert same(Pathways.load(model, tmp_path / "pathways").mask("it"), pathways.mask("it"))


def edit(folder: Path, **changes: object) -> None:
    path = folder / "pathways.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "own.safetensors").unlink(), r"own\.safetensors: cannot read"),
        (lambda folder: truncate(folder / "own.safetensors"), r"own\.safetensors: truncated or changed"),
        (lambda folder: edit(folder, own_sha256=""), "'it' has no tensor scale there"),
        (lambda folder: edit(folder, added={"fr": {"sparsity": 0.5}}), "not the last of all languages"),
        (
            lambda folder: edit(folder, added={one: {"sparsity": 0.5} for one in ("en", "fr", "it")}),
            "not the last of all languages",
        ),
        (lambda folder: edit(folder, added={"it": {"sparsity": 2}}), r"added\.it"),
        (lambda folder: edit(folder, added={}), "tensors of 'it', which was not added"),
    ],
)
def test_a_broken_or_foreign_folder_is_refused_in_one_line(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    _, pathways = trained()
    pathways.add("it")
    pathways.save(tmp_path / "pathways")
    damage(tmp_path / "pathways")
    with pytest.raises(PathwaysError, match=message) as caught:
        Pathways.load(Speller(), tmp_path / "pathways")
    assert "\n" not in str(caught.value)


def test_language_tensors_of_another_model_are_refused(tmp_path: Path) -> None:
    def made(bias: bool) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4, bias=bias))

    pathways = Pathways.attach(made(True), PathwayConfig(sparsity=0.8), ["en"])
    pathways.add("it")
    pathways.save(tmp_path / "pathways")
    with pytest.raises(PathwaysError, match=r"another model: 'it' has a tensor 1\.bias there"):
        Pathways.load(made(False), tmp_path / "pathways")
    other = Pathways.attach(made(True), PathwayConfig(sparsity=0.8), ["en", "it"])
    with pytest.raises(PathwaysError, match="has other pathways"):
        other.load_masks(tmp_path / "pathways")
    with pytest.raises(PathwaysError, match="the languages added to it are it"):
        other.load_state_dict(pathways.state_dict())
