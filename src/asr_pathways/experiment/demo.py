"""The main job, end to end: a dense recogniser becomes five pathways, beside two baselines, with a report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich.table import Table
from rich.text import Text

from asr_pathways.bundle.bundle import write_bundle
from asr_pathways.bundle.load import load_model
from asr_pathways.console import make_console
from asr_pathways.experiment.cells import cell_folder
from asr_pathways.experiment.command import run_plan
from asr_pathways.experiment.corpora import data_folder
from asr_pathways.experiment.findings import BlockFinding, Findings
from asr_pathways.experiment.plan import Plan, make_plan
from asr_pathways.experiment.recipe import DENSE, DenseSpec, ExperimentRecipe
from asr_pathways.experiment.report.sections import difference
from asr_pathways.experiment.report.write import write_results
from asr_pathways.files import write_text
from asr_pathways.formats import percent, percent_interval, size
from asr_pathways.shrink.compare import TestSet, bytes_of

RECIPE = Path("recipes/demo.yaml")
_SHORTER = 5  # times, with --fast
_TIMED = 10
"""Test utterances of each language by which speed is measured."""

_TINY = Path("models/tiny")
_WHY = (
    "`models/tiny` has 2.4 million weights, a thirtieth of whisper-base, and was trained on synthetic speech and about "
    "an hour of recordings (models/tiny/README.md): small enough to prune in minutes, and no product."
)


def run_demo(model: Path, out: Path, *, source: Path | None = None, fast: bool = False, recipe: Path = RECIPE) -> None:
    """Runs ``recipe`` from ``model``, writes ``out/report.html``, and links each pruned MODEL: ``out/dynamic``, ...

    Every cell that an interrupted run has finished is kept by the next one.

    Raises:
        PathwaysError: if the recipe, the model or the prompts cannot be read.
    """
    experiment = ExperimentRecipe.read(recipe)
    load_model(model)  # a wrong --model is reported before minutes are spent
    plan = make_plan(_adjusted(experiment, model, fast))
    command = "make demo-fast" if fast else "make demo"
    findings = run_plan(plan, out, command, source=source)
    _link_models(plan, out)
    write_results(answered(plan, findings, model, out), out, command)
    for block in findings.blocks.values():
        _show(block)


def _adjusted(recipe: ExperimentRecipe, model: Path, fast: bool) -> ExperimentRecipe:
    """The recipe from another dense model, or with fewer steps."""
    data = recipe.model_copy(update={"document": None, "readme": None}).model_dump()
    for block in data["blocks"].values():
        if Path(block["dense"]["model"]) != model:
            block["dense"] = DenseSpec(model=str(model)).model_dump()
        if fast:
            block["recipe"]["optimizer"]["hold_steps"] //= _SHORTER
            block["recipe"]["evaluation"]["every"] = max(1, 2 * block["recipe"]["evaluation"]["every"] // _SHORTER)
            for system in block["systems"].values():
                system["steps"] //= _SHORTER
    return ExperimentRecipe.model_validate(data)


def _link_models(plan: Plan, out: Path) -> None:
    """Links ``out/NAME`` to the MODEL folder of each system that prunes."""
    for row in plan.rows:
        if row.system.method != DENSE:
            (out / row.name).unlink(missing_ok=True)
            (out / row.name).symlink_to(cell_folder(Path(), row.runs[0].cell))


def answered(plan: Plan, findings: Findings, model: Path, out: Path) -> Plan:
    """The plan with the finding as its title, and with what a newcomer asks, answered in ``answers.md`` in ``out``.

    Size and speed are measured now: a bundle of the last system of the main block, beside the dense ``model``.
    """
    block = findings.blocks[plan.recipe.main or next(iter(findings.blocks))]
    rows = [row for row in block.rows.values() if row.pooled]
    dense, last = rows[0], rows[-1]
    assert dense.pooled is not None and last.pooled is not None
    bundle = out / f"{last.name}.asrp"
    write_bundle(load_model(out / last.name), bundle)
    data = data_folder(out, plan.recipe, plan.cells[last.row.runs[0].cell].spec["data"])
    some = TestSet.of(data, block.languages).part(_TIMED)
    weights = sum(parameter.numel() for parameter in load_model(model).model.parameters())
    before, after = some.compared("dense", model, 2 * weights), some.compared(last.name, bundle, bytes_of(bundle))
    wer, dense_wer = percent(last.pooled.wer), percent(dense.pooled.wer)
    count = len(block.languages)
    faster = before.seconds / after.seconds
    answers = {
        "How much smaller?": f"All {count} pathways are one file of {size(after.nbytes)} (`{bundle.name}`); the dense "
        f"model takes {size(before.nbytes)} in the same float16.",
        "How much faster?": f"{faster:.2f} times as fast as the dense model, here, in one thread, on {len(some.cuts)} "
        f"test utterances: {after.audio / after.seconds:.0f} times as fast as speech. What zeros gain grows with the "
        "model: docs/performance.md.",
        "Is it as good?": f"WER is {wer}%, and {dense_wer}% of the dense model: the comparisons below show what chance "
        "may have done.",
        f"Why is the dense WER {dense_wer}%?": _WHY if model == _TINY else f"`{model}` is scored as it came.",
        "What next?": "`asr-pathways shrink openai/whisper-base --languages fr,it --data own.jsonl --budget 30m` does "
        "this to a model and recordings of yours; "
        f"`asr-pathways transcribe {bundle} --language {block.languages[0]} FILE` runs this one.",
    }
    path = out / "answers.md"
    write_text(path, "".join(f"**{ask}** {answer}\n\n" for ask, answer in answers.items()))
    title = f"{count} pathways in {size(after.nbytes)}: WER {wer}% where the dense model has {dense_wer}%"
    return replace(plan, recipe=plan.recipe.model_copy(update={"title": title, "discussion": path}))


def _show(block: BlockFinding) -> None:
    """Prints WER by language, the comparisons, and a transcript of each language by the last system."""
    table = Table("WER %", title="WER on the test split")
    for heading in (*block.languages, "mean (95% CI)", "CER %"):
        table.add_column(heading, justify="right")
    rows = [(row, row.pooled) for row in block.rows.values() if row.pooled]
    for row, pooled in rows:
        mean = f"{percent(pooled.wer)} ({percent_interval(pooled.wer_ci)})"
        table.add_row(row.name, *(percent(rate.wer) for rate in pooled.languages.values()), mean, percent(pooled.cer))
    console = make_console()
    console.print(table)
    for pair in block.pairs.values():
        if pair:
            console.print(f"{pair.first} against {pair.second}: {difference(pair)}")
    last = rows[-1][0]
    for language, sample in last.entries[last.seeds[0]][0]["samples"].items():
        console.print(Text.assemble((language, "bold"), f" {sample['id']}, by {last.name}"))
        console.print(f"  reference  {sample['reference']}\n  hypothesis {sample['hypothesis']}")
