"""Seconds that models with fewer neurons, and with single zeros, take in three runtimes on one thread.

    python -m benchmarks.neurons results/whisper --json results/neurons.json

The models are those of a block of an experiment that has run. Each is exported for one language: to the Hugging Face
format, for torch and, converted, CTranslate2, and to a bundle, for this package. Every model in every runtime is a
process of its own; they take turns on each clip. All compute a window of the utterance's own length but `30 s`.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from asr_pathways.bench.clips import Clip, make_clips
from asr_pathways.bench.offline import bytes_of
from asr_pathways.bench.recognizers import OURS
from asr_pathways.bench.rivals import missing_packages, prepare, versions, write_dense
from asr_pathways.bench.run import machine
from asr_pathways.bench.worker import Worker
from asr_pathways.bundle.bundle import write_bundle
from asr_pathways.bundle.load import load_model
from asr_pathways.data.corpus import load_cuts
from asr_pathways.errors import PathwaysError
from asr_pathways.experiment.cells import cell_folder
from asr_pathways.experiment.corpora import data_folder
from asr_pathways.experiment.plan import Plan, make_plan
from asr_pathways.experiment.recipe import ExperimentRecipe
from asr_pathways.files import write_json
from asr_pathways.pruning import PathwayConfig, Pathways, matching

TORCH, CONVERTED = "torch float32", "faster-whisper int8"
LENGTHS = ("2-5", "11")


def models_of(plan: Plan, root: Path, block: str) -> dict[str, Path]:
    """{row: folder of its model} of a block, of the first seed; rows that have not run yet are named and left out."""
    found = {}
    for row in plan.rows:
        if row.block == block:
            folder = cell_folder(root, row.runs[0].cell)
            if (folder / "config.json").exists():
                found[row.name] = folder
            else:
                typer.echo(f"{row.name}: has no model yet: left out", err=True)
    if not found:
        raise PathwaysError(f"{root}: block {block} has no model there yet")
    return found


def exported(model: Path, language: str, out: Path) -> dict[str, Path]:
    """{runtime: what it loads} of one language of a MODEL, made in ``out`` where it is not there yet."""
    dense, bundle = out / "dense", out / "bundle.asrp"
    if not dense.exists():
        write_dense(model, language, dense)
    places = {TORCH: dense}
    if not missing_packages("faster-whisper"):
        converted = prepare(CONVERTED, dense, language, out)
        places |= {CONVERTED: converted, "ctranslate2 int8": converted}
    if not bundle.exists():
        asr = load_model(model)
        if asr.pathways is None:  # a bundle has pathways: one of all weights
            everything = PathwayConfig(sparsity=0.0, exclude=matching(asr.model.network, asr.model.unprunable))
            asr.pathways = Pathways.attach(asr.model.network, everything, [language])
        write_bundle(asr, bundle, languages=[language])
    return places | {OURS: bundle}


def timed(places: dict[str, dict[str, Path]], clips: list[Clip], language: str, rounds: int, folder: Path) -> Any:
    """{row: {runtime: {length: seconds}}}: medians over the rounds, and of the clips of a length their mean."""
    paths = [folder / f"clip-{index}.npy" for index in range(len(clips))]
    for path, clip in zip(paths, clips, strict=True):
        np.save(path, clip.samples)
    with ExitStack() as stack:
        workers = {
            (row, runtime): stack.enter_context(Worker(runtime, place, language, 1))
            for row, runtimes in places.items()
            for runtime, place in runtimes.items()
        }
        spent: dict[Any, list[list[float]]] = {key: [[] for _ in clips] for key in workers}
        for worker in workers.values():
            worker.transcribe(paths[0])  # what is made at the first call is not counted
        for _ in range(rounds):
            for index, path in enumerate(paths):
                for key, worker in workers.items():
                    spent[key][index].append(worker.transcribe(path).seconds)
    found: dict[str, dict[str, dict[str, float]]] = {row: {} for row in places}
    for (row, runtime), seconds in spent.items():
        medians = [statistics.median(one) for one in seconds]
        found[row][runtime] = {
            length: round(statistics.mean(s for s, c in zip(medians, clips, strict=True) if c.length == length), 4)
            for length in LENGTHS
        }
    return found


def main(
    root: Annotated[Path, typer.Argument(help="The folder of the experiment.")],
    recipe: Path = Path("recipes/whisper.yaml"),
    block: str = "neurons",
    language: str = "fr",
    rounds: int = 5,
    exports: Annotated[Path, typer.Option(help="Where exports are made, once.")] = Path("runs/neurons"),
    json: Annotated[Path | None, typer.Option(help="Where to write the figures.")] = None,
) -> None:
    """Prints the seconds of each model in each runtime; ``--rounds 0`` only exports them."""
    plan = make_plan(ExperimentRecipe.read(recipe))
    models = models_of(plan, root, block)
    if missing_packages("faster-whisper"):
        typer.echo("CTranslate2: not installed (pip install faster-whisper): left out", err=True)
    places = {}
    for row, model in models.items():
        typer.echo(f"exporting {row}", err=True)
        places[row] = exported(model, language, exports / model.name)
    if not rounds:
        return
    dense = plan.cells[plan.rows[[row.block for row in plan.rows].index(block)].runs[0].cell]
    cuts = list(load_cuts(data_folder(root, plan.recipe, dense.spec["data"]), "test", [language]))
    seconds = timed(places, make_clips(cuts, LENGTHS), language, rounds, exports)
    found = {
        "machine": machine(),
        "versions": versions([] if missing_packages("faster-whisper") else ["faster-whisper"]),
        "language": language,
        "threads": 1,
        "rounds": rounds,
        "rows": {
            row: {
                runtime: {"seconds": seconds[row][runtime], "bytes": bytes_of(place)}
                for runtime, place in runtimes.items()
            }
            for row, runtimes in places.items()
        },
    }
    typer.echo(found)
    if json is not None:
        write_json(json, found)


if __name__ == "__main__":
    typer.run(main)
