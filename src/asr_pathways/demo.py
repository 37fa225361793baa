"""The main job, end to end: a dense recogniser becomes five pathways, beside two baselines, with a report."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from asr_pathways.bundle.load import load_model
from asr_pathways.data.corpora.prompts import prepare_prompts
from asr_pathways.data.corpus import load_cuts, sources_of
from asr_pathways.errors import PathwaysError
from asr_pathways.evaluation.listing import write_alignments, write_evaluation
from asr_pathways.evaluation.report import Curve, LayerDensity, Origin, Overlap, Pair, Report, Sample, Sizes, System
from asr_pathways.evaluation.report import write_report as write
from asr_pathways.evaluation.tables import comparison_table, systems_table
from asr_pathways.evaluation.wer import Utterance, compare, score
from asr_pathways.files import read_json
from asr_pathways.model_folder.decode import decode_split, transcribe
from asr_pathways.training.config import PruneRecipe
from asr_pathways.training.prune import prune

SPARSITY = 0.7
DENSE, ONE_SHOT, FIXED, DYNAMIC = "dense", "one-shot", "fixed pathways", "dynamic pathways"
NOTES = {
    DENSE: "the model before pruning; it gets no further training",
    ONE_SHOT: "70% of weights removed by activation score for each language, no training after",
    FIXED: "ASR Pathways: the one-shot masks stay, their weights are trained",
    DYNAMIC: "Dynamic ASR Pathways: the one-shot masks adapt while they train, for as many steps",
}


def demo_recipe(steps: int, evaluations: int) -> PruneRecipe:
    """What fixed and dynamic pathways share: data, steps, score of the first masks."""
    return PruneRecipe.model_validate(
        {
            "optimizer": {
                "steps": steps,
                "peak_lr": 5e-4,
                "final_lr": 2e-5,
                "warmup_steps": 20,
                "hold_steps": steps // 2,
            },
            "data": {"max_seconds": 40, "temperature": 5},
            "evaluation": {"every": steps // evaluations, "utterances": 40, "keep_best": 1},
            "checkpoint_every": 50,
            "pathways": {"score": "activation", "activation_power": 0.5},
        }
    )


def run_demo(model: Path, out: Path, *, source: Path | None = None, fast: bool = False) -> None:
    """Fetches the prompts, prunes ``model`` in three ways, scores all on the test split, writes ``out/report.html``.

    Every part that an interrupted run has finished is taken over by the next one.

    Raises:
        PathwaysError: if the model or the prompts are not to be had.
    """
    began = time.monotonic()
    console = Console(stderr=True, highlight=False)
    load_model(model)  # a wrong --model is told before minutes are spent
    data = out / "prompts"
    if not (data / "corpus.json").exists():
        console.print("[bold]1/5[/] Fetching real recordings in five languages")
        prepare_prompts(data, source)
    folders = {DENSE: model, ONE_SHOT: out / "one-shot", FIXED: out / "fixed", DYNAMIC: out / "dynamic"}
    recipe = demo_recipe(60, 2) if fast else demo_recipe(300, 4)

    console.print(f"[bold]2/5[/] One-shot pruning to {100 * SPARSITY:.0f}%, a mask for each language")
    still = recipe.model_copy(update={"optimizer": recipe.optimizer.model_copy(update={"steps": 0})})
    _prune(model, data, folders[ONE_SHOT], "pathways", "omp", still)
    console.print("[bold]3/5[/] Training fixed pathways, then dynamic ones")
    _prune(model, data, folders[FIXED], "pathways", str(folders[ONE_SHOT]), recipe)
    _prune(model, data, folders[DYNAMIC], "dynamic", str(folders[ONE_SHOT]), recipe)

    console.print("[bold]4/5[/] Transcribing the test split")
    decoded: dict[str, list[Utterance]] = {}
    for name, folder in folders.items():
        asr = load_model(folder)
        decoded[name] = decode_split(asr, data, "test", asr.languages)
        write_evaluation(out / f"test-{folder.name}.json", score(decoded[name]), decoded[name])
    write_alignments(out / "errors-dynamic.txt", decoded[DYNAMIC])
    report = _report(folders, data, decoded, recipe, _command(fast), time.monotonic() - began)
    shown = Console()
    shown.print(systems_table({system.name: system.scores for system in report.systems}, "WER on the test split"))
    for pair in report.pairs:
        shown.print(comparison_table(pair.a, pair.b, pair.comparison))

    console.print("[bold]5/5[/] One recording of each language, by its own pathway")
    asr = load_model(folders[DYNAMIC])
    for sample in report.samples:
        path = _audio(data, sample)
        heard = transcribe(asr, path, sample.language)
        shown.print(f"[bold]{sample.language}[/] {path}\n   said  {sample.reference}\n   heard {heard.text}")
    write(out / "report.html", report)
    console.print(f"[bold]Done[/] in {time.monotonic() - began:.0f} s: open {out / 'report.html'}")


def _command(fast: bool) -> str:
    return "asr-pathways demo --fast" if fast else "make demo"


def _prune(model: Path, data: Path, out: Path, method: str, init: str, recipe: PruneRecipe) -> None:
    """Runs a pruning run that is not done yet, from its last checkpoint if it has one."""
    if (out / "config.json").exists() and not _unfinished(out, recipe):
        return
    resume = (out / "checkpoints" / "start").exists()
    prune(model, data, out, method=method, sparsity=SPARSITY, recipe=recipe, init=init, resume=resume)


def _unfinished(out: Path, recipe: PruneRecipe) -> bool:
    history = read_json(out / "history.json")
    return bool(history[-1]["step"] < recipe.optimizer.steps)


def _report(
    folders: Mapping[str, Path],
    data: Path,
    decoded: Mapping[str, Sequence[Utterance]],
    recipe: PruneRecipe,
    command: str,
    seconds: float,
) -> Report:
    before, after = (load_model(folders[name]).pathways for name in (ONE_SHOT, DYNAMIC))
    if before is None or after is None:
        raise PathwaysError(f"{folders[DYNAMIC]}: has no pathways; delete it and run the demo again")
    summary = after.summary()
    dense = load_model(folders[DENSE])
    start = read_json(folders[ONE_SHOT] / "history.json")  # where both trainings begin
    curves = []
    for name in (FIXED, DYNAMIC):
        history = start + read_json(folders[name] / "history.json")
        curves.append(Curve(name, [entry["step"] for entry in history], [entry["mean_wer"] for entry in history]))
    systems = [System(name, score(decoded[name]), None if name == DENSE else SPARSITY, NOTES[name]) for name in folders]
    return Report(
        title="One recogniser, five sparse pathways",
        systems=systems,
        main=DYNAMIC,
        pairs=[Pair(DYNAMIC, other, compare(decoded[DYNAMIC], decoded[other])) for other in (ONE_SHOT, FIXED)],
        curves=curves,
        overlaps=[
            Overlap.of("Before training", before.summary(), before.overlap()),
            Overlap.of("After training", summary, after.overlap()),
        ],
        layers=LayerDensity.of(summary, summary.union),
        sizes=Sizes.of(
            summary,
            dense_bytes=(folders[DENSE] / "model.safetensors").stat().st_size,
            total_weights=sum(parameter.numel() for parameter in dense.model.parameters()),
        ),
        samples=_samples(decoded),
        origin=Origin(
            command,
            seconds,
            {
                "Training": f"{recipe.optimizer.steps} steps of about {recipe.data.max_seconds:.0f} s of speech each",
                "Score and adaptation": f"{after.config.score}, every {after.config.adapt_every} steps of a language",
                "Processor": f"{os.cpu_count()} cores, {sys.platform}",
            },
        ),
        attribution=[
            f"{source['attribution']} ({source['licence']})" for source in sources_of(data) if source.get("attribution")
        ],
    )


def _samples(decoded: Mapping[str, Sequence[Utterance]]) -> list[Sample]:
    """For each language, the test utterance whose length (in words) is nearest to ten, first by id."""
    chosen: dict[str, Utterance] = {}
    for utterance in sorted(decoded[DENSE], key=lambda u: (abs(len(u.reference.split()) - 10), u.id)):
        chosen.setdefault(utterance.language, utterance)
    heard = {name: {u.id: u.hypothesis for u in utterances} for name, utterances in decoded.items()}
    return [
        Sample(u.id, language, u.reference, {name: texts[u.id] for name, texts in heard.items()})
        for language, u in sorted(chosen.items())
    ]


def _audio(data: Path, sample: Sample) -> Path:
    cuts = {cut.id: cut for cut in load_cuts(data, "test", [sample.language])}
    return Path(cuts[sample.id].recording.sources[0].source)
