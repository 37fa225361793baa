"""The runs that are killed: each a function of its folder, and the same command every time that it is started."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asr_pathways.bundle.bundle import write_bundle
from asr_pathways.bundle.load import load_model
from asr_pathways.data.batches import Batch
from asr_pathways.data.corpora.manifest import prepare_manifest
from asr_pathways.data.corpus import SPLITS, build_corpus, load_cuts
from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.experiment.plan import make_plan
from asr_pathways.experiment.recipe import ExperimentRecipe
from asr_pathways.experiment.runner import ledger_folder, run_cells
from asr_pathways.export.dense_copy import write_dense_copy
from asr_pathways.files import atomic_folder
from asr_pathways.model_folder.folder import save_model
from asr_pathways.model_folder.language_id import fit_identifier
from asr_pathways.models.transducer import Transducer, TransducerConfig
from asr_pathways.training.add_language import add_language
from asr_pathways.training.config import PruneRecipe, TrainRecipe
from asr_pathways.training.prune import prune
from asr_pathways.training.state import last_checkpoint
from asr_pathways.training.train import train
from tests.conftest import LANGUAGES, PIECES, WORDS, make_model, make_speech, spoken, tiny_config
from tests.experiment.conftest import as_data

RECIPE: dict[str, Any] = {
    "optimizer": {"steps": 18, "peak_lr": 5e-3, "warmup_steps": 2},
    "data": {"max_seconds": 1.5, "speed_factors": [1.0, 1.1], "prefetch": 2},
    "evaluation": {"every": 4, "utterances": 1, "keep_best": 2},
    "checkpoint_every": 3,
    "threads": 1,
}
BAD = ("en-train-3", "fr-train-4")
"""Utterances whose batches have a loss of NaN, or of infinity, where a job asks for that."""


@dataclass(frozen=True)
class Job:
    """A command, the fingerprint of what it leaves, and how often one run of it is killed at most."""

    name: str
    run: Callable[[Path], object]
    fingerprint: Callable[[Path], dict[str, str]]
    kills: int = 5


def make_data(root: Path) -> None:
    """A data folder (as that of the tests), one for experiments, and a dense MODEL."""
    about = [{"name": "sines", "licence": "none", "attribution": "Sines by nobody"}]
    make_speech(root / "speech")
    broken = root / "speech" / "audio" / "fr" / "fr-train-6.flac"  # is left out by every run
    broken.write_bytes(broken.read_bytes()[:300])
    with build_corpus(root / "sines", about) as corpus:
        for language in LANGUAGES:
            for index in range(60):
                words = [WORDS[language][(index // place) % 5] for place in (1, 5, 25)]
                samples = spoken(words, language, index)
                corpus.add("train", f"{language}-{index:02d}", language, " ".join(words), samples)
    every = [word for language in LANGUAGES for word in WORDS[language]]
    save_model(root / "dense", make_model(Tokenizer.train([f"{a} {b}" for a in every for b in every], PIECES)))
    recipe = PruneRecipe.model_validate({**RECIPE, "calibration_batches": 1}).with_steps(0)
    for name, languages in (("pruned", None), ("english", ["en"])):
        prune(
            root / "dense", root / "speech", root / name,
            method="dynamic", sparsity=0.7, recipe=recipe, languages=languages,
        )  # fmt: skip
    for name, count in (("few", 20), ("all", 60)):
        rows = [
            {"audio_filepath": f"speech/audio/{language}/{path.name}", "text": WORDS[language][0], "lang": language}
            for language in LANGUAGES
            for path in sorted((root / "speech" / "audio" / language).glob("*.flac"))
            if path != broken
        ]
        (root / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows[:count])))


def jobs(root: Path) -> list[Job]:
    """All of them, on the data in ``root``."""
    speech, dense = root / "speech", root / "dense"

    def training(out: Path) -> None:
        _tiny_presets()
        train(TrainRecipe.model_validate({**RECIPE, "model": {"vocab_size": PIECES}}), speech, out, resume=True)

    def pruning(method: str, init: str = "omp", bad: bool = False, **options: Any) -> Callable[[Path], None]:
        recipe = PruneRecipe.model_validate(
            {**RECIPE, "calibration_batches": 1, "init_steps": 6, "max_bad_losses": 99, **options}
        )

        def run(out: Path) -> None:
            if bad:
                _break_losses()
            prune(dense, speech, out, method=method, sparsity=0.7, recipe=recipe, init=init, resume=True)

        return run

    often = {"pathways": {"adapt_every": 1}}
    return [
        Job("train", training, run_fingerprint),
        Job("prune adaptive", pruning("adaptive"), run_fingerprint),
        Job("prune dynamic", pruning("dynamic", **often), run_fingerprint),
        Job("prune dynamic, NaN and Inf", pruning("dynamic", bad=True, **often), run_fingerprint),
        Job("prune pathways from LSP", pruning("pathways", init="lsp"), run_fingerprint),
        Job("add-language", lambda out: _add_language(root, out), run_fingerprint),
        Job("identify", lambda out: _identify(root, out), files_fingerprint),
        Job("export", lambda out: _twice(out, lambda first: _export(root, out, first), load_model), files_fingerprint),
        Job("data", lambda out: _twice(out, lambda first: _data(root, out, first), _read_data), files_fingerprint),
        Job("experiment", lambda out: _experiment(root, out), experiment_fingerprint, kills=12),
    ]


def _tiny_presets() -> None:
    """Presets of two million weights would take most of the time."""
    import asr_pathways.training.train as module

    def preset(name: str, vocab_size: int, features: int) -> TransducerConfig:
        return tiny_config(vocab_size=vocab_size)

    module.preset = preset


def _break_losses() -> None:
    plain = Transducer.loss

    def loss(self: Transducer, batch: Batch) -> Tensor:
        value = plain(self, batch)
        if self.training:
            if BAD[0] in batch.ids:
                return value * float("nan")
            if BAD[1] in batch.ids:
                return value + float("inf")
        return value

    Transducer.loss = loss  # type: ignore[method-assign]


def _experiment(root: Path, out: Path) -> None:
    data = as_data(root / "sines", root / "dense")
    block = data["blocks"]["sines"]
    block["seeds"] = [0]
    del block["systems"]["finetuned"]
    block["systems"]["dynamic"]["vary"] = {"adapt_every": [1]}
    outcome = run_cells(make_plan(ExperimentRecipe.model_validate(data)), out)
    if outcome.failed:
        raise RuntimeError(f"cells failed: {outcome.failed}")


def _add_language(root: Path, out: Path) -> None:
    recipe = PruneRecipe.model_validate({**RECIPE, "calibration_batches": 1})
    add_language(root / "english", root / "speech", out, language="fr", recipe=recipe, resume=True)


def _identify(root: Path, out: Path) -> None:
    if not (out / "model").exists():
        with atomic_folder(out / "model") as folder:
            shutil.copytree(root / "dense", folder, dirs_exist_ok=True)
    identifier, _ = fit_identifier(load_model(out / "model"), root / "speech")
    identifier.save(out / "model")


def _twice(out: Path, write: Callable[[bool], None], read: Callable[[Path], object]) -> None:
    """Writes what is then replaced; from there on something whole must be there, whatever was killed.

    Args:
        write: whether it is the first time.
        read: raises an error unless a path of what is written has something whole.
    """
    began = out / "began"
    if began.exists():
        for path in out.iterdir():
            if path != began and not path.name.startswith("."):
                read(path)
        if len([path for path in out.iterdir() if not path.name.startswith(".")]) < 2:
            raise RuntimeError(f"{out}: what was there is gone")
    write(True)
    began.touch()
    write(False)


def _export(root: Path, out: Path, first: bool) -> None:
    write_bundle(load_model(root / "pruned"), out / "both.asrp", "float32" if first else "float16")
    if not (out / "french").exists():  # a folder with files in it is not replaced
        write_dense_copy(load_model(root / "pruned"), out / "french", ["fr"])


def _data(root: Path, out: Path, first: bool) -> None:
    prepare_manifest(out / "data", root / ("few.jsonl" if first else "all.jsonl"))


def _read_data(folder: Path) -> None:
    if [len(list(load_cuts(folder, split))) for split in SPLITS] == [0, 0, 0]:
        raise RuntimeError(f"{folder}: nothing in it")


def files_fingerprint(out: Path) -> dict[str, str]:
    """All files."""
    return {str(path.relative_to(out)): _sha(path.read_bytes()) for path in out.rglob("*") if path.is_file()}


def run_fingerprint(out: Path) -> dict[str, str]:
    """Weights, masks, history, TensorBoard, and all that the last checkpoint holds but the time that it took."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells of each restart
    checkpoint = torch.load(last_checkpoint(out), weights_only=True)
    del checkpoint["state"]["seconds"]
    events = EventAccumulator(str(out / "tensorboard"), {"scalars": 0})
    events.Reload()
    scalars = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    return {
        **_model(out),
        "history": _sha((out / "history.json").read_bytes()),
        "checkpoint": _digest(checkpoint),
        "tensorboard": _digest(scalars),
    }


def experiment_fingerprint(out: Path) -> dict[str, str]:
    """The models of all cells, and the ledger but for the time that it took."""
    found = {}
    for path in sorted(ledger_folder(out).glob("*.json")):
        entry = json.loads(path.read_text())
        del entry["cost"]
        found[f"ledger {path.stem}"] = _digest(entry)
        for name, value in _model(out / "cells" / path.stem).items():
            found[f"{name} of {path.stem}"] = value
    return found


def _model(folder: Path) -> dict[str, str]:
    files = [folder / "config.json", folder / "model.safetensors", *(folder / "pathways").glob("*")]
    return {str(path.relative_to(folder)): _sha(path.read_bytes()) for path in files}


def _digest(value: Any) -> str:
    """Stands for a nested state, tensors bit by bit."""
    total = hashlib.sha256()

    def add(part: Any) -> None:
        total.update(type(part).__name__.encode())
        if isinstance(part, Tensor):
            total.update(f"{part.dtype}{tuple(part.shape)}".encode())
            total.update(part.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if part.numel() else b"")
        elif isinstance(part, dict):
            for key in sorted(part, key=str):
                total.update(str(key).encode())
                add(part[key])
        elif isinstance(part, list | tuple):
            for item in part:
                add(item)
        else:
            total.update(repr(part).encode())

    add(value)
    return total.hexdigest()


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
