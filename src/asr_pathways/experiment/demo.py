"""The main job, end to end: a dense recogniser becomes five pathways, beside two baselines, with a report."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table
from rich.text import Text

from asr_pathways.bundle.load import load_model
from asr_pathways.console import make_console
from asr_pathways.experiment.cells import cell_folder
from asr_pathways.experiment.command import run_plan
from asr_pathways.experiment.findings import BlockFinding
from asr_pathways.experiment.plan import Plan, make_plan
from asr_pathways.experiment.recipe import DENSE, DenseSpec, ExperimentRecipe, read_recipe
from asr_pathways.experiment.report.sections import difference
from asr_pathways.formats import percent, percent_interval

RECIPE = Path("recipes/demo.yaml")
_SHORTER = 5  # times, with --fast


def run_demo(model: Path, out: Path, *, source: Path | None = None, fast: bool = False, recipe: Path = RECIPE) -> None:
    """Runs ``recipe`` from ``model``, writes ``out/report.html``, and links each pruned MODEL: ``out/dynamic``, ...

    Every cell that an interrupted run has finished is kept by the next one.

    Raises:
        PathwaysError: if the recipe, the model or the prompts cannot be read.
    """
    experiment = read_recipe(recipe)
    load_model(model)  # a wrong --model is reported before minutes are spent
    plan = make_plan(_adjusted(experiment, model, fast))
    findings = run_plan(plan, out, "make demo-fast" if fast else "make demo", source=source)
    _link_models(plan, out)
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
